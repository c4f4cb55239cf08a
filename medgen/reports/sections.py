"""Tables of the errors in ``summary.json``: main metrics, all metrics, regions, cases.

Each function takes all systems of the report and shows their numbers side by side.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medgen.evaluation.metrics.catalogue import ROLES, find, headline
from medgen.evaluation.regions import least_change
from medgen.evaluation.statistics import Array, differences, mean_difference
from medgen.evaluation.summary_file import Region, Statistics
from medgen.reports.metric_display import SAME, Measure, explained, measure, worst_by
from medgen.reports.results import System
from medgen.reports.tables import (
    Cell,
    Head,
    Table,
    about_infinite,
    estimate,
    in_order,
    number,
    number_cell,
    of_system,
    percent,
    signed_cell,
    system_heading,
    table_by_system,
    text_cell,
    verdict_cell,
    without_empty_columns,
)

Systems = Sequence[System]
RANKS = {"fail": 0, "review": 1, "pass": 2}  # order of verdicts, worst first
UNCHECKED = 1  # rank of a case without a verdict: nothing says that it passes


def main_numbers(systems: Systems) -> Table | None:
    """Return the table of headline and challenge metrics with intervals, next to those of the unconverted source."""
    measured = in_order(name for system in systems for name in system.summary.metrics)
    names = [name for name in headline() if name in measured]
    names += [name for name in measured if (known := find(name)) and known[0].profile != "generic"]
    table = _numbers(systems, names)
    about = explained(measure(name, systems[0]) for name in names)
    return table and replace(table, note=" ".join(filter(None, [_about_means(systems[0]), table.note])), about=about)


def _about_means(system: System) -> str:
    """Return a note on what the means are and which profile was used."""
    intervals = any(entry.mean_interval for entry in system.summary.metrics.values())
    interval_text = "; in brackets the 95 % bootstrap interval over patients" if intervals else ""
    return f"Means over the cases{interval_text}. Profile {system.summary.profile} unless a row names another one."


def all_measures(systems: Systems) -> Table | None:
    """Return the table of every metric in cases.csv: mean, standard deviation and median, one row per system."""
    names = in_order(name for system in systems for name in system.summary.metrics)
    other_names = set(names) - {f"{role}{name}" for name in headline() for role in ROLES}
    if not other_names:
        return None
    heads = ["mean", "standard deviation", "median", "cases"]
    rows = []
    for name in names:
        for system in systems:
            if stats := system.summary.metrics.get(name):
                entry = measure(name.removeprefix("source_"), system)
                label = entry.title + (" – source" if name.startswith("source_") else "")
                cells = [
                    estimate(stats, entry.digits),
                    number_cell(stats.std, entry.digits),
                    estimate(stats, entry.digits, "median"),
                ]
                count = stats.n + stats.infinite
                rows.append([text_cell(label), *of_system(system, systems), *cells, number_cell(count, 0)])
    about = explained(measure(name.removeprefix("source_"), systems[0]) for name in names if name in other_names)
    return table_by_system(
        Head("metric", words=True), systems, map(Head, heads), rows, about_infinite(rows, SAME), about
    )


def regions(systems: Systems) -> Table | None:
    """Return the table of mean intensity by region, with the systems side by side."""
    names = in_order(name for system in systems for name in system.summary.regions)
    if not names:
        return None
    source, single_system = (
        any("mean_source" in row.model_fields_set for row in systems[0].summary.regions.values()),
        len(systems) == 1,
    )
    heads = ["region", "cases", *["source"] * source, "truth"]
    quantities = [
        "converted",
        "error (converted − truth)",
        "mean absolute error per voxel",
        *["correction achieved (%)"] * source,
    ]
    heads += [system_heading(part, system, systems) for part in quantities for system in systems]
    heads += ["mean absolute error, source"] if source and single_system else []
    rows = [_region_row(name, systems, source) for name in names]
    note = _about_correction(systems[0]) if source and systems[0].has_truth else ""
    if any(_other_cases(name, systems) for name in names):
        note = (
            "The systems have different cases or truths: the columns cases, source and truth are those of the first "
            "system with the region; each system's error is relative to its own truth. " + note
        )
    return without_empty_columns(Table([Head(heads[0], words=True), *map(Head, heads[1:])], rows, note))


def _other_cases(name: str, systems: Systems) -> bool:
    """Return whether the systems differ in the cases that have a region."""
    found = [system.summary.regions[name] for system in systems if name in system.summary.regions]
    return len({(row.cases, row.mean_reference) for row in found}) > 1


def _about_correction(system: System) -> str:
    threshold = least_change(bool(system.unit), system.summary.data_range or 0)
    amount = f"{number(threshold, 0 if system.unit else system.digits)} {system.unit}".rstrip()
    return (
        "The correction achieved is 100 % if the mean is correct. Overshot: > 200 %; wrong direction: < −100 %. "
        f"It is omitted where source and truth differ by no more than {amount} or two standard errors over the cases."
    )


def _correction_cell(fraction: float | None) -> Cell:
    """Return the correction achieved in percent, or a word outside −100 % to 200 %, where the number is not useful."""
    if fraction is None or -1 <= fraction <= 2:
        return Cell(percent(fraction), fraction)
    return Cell("overshot" if fraction > 2 else "wrong direction", fraction)


def _region_row(name: str, systems: Systems, source: bool) -> list[Cell]:
    found = [system.summary.regions.get(name, Region()) for system in systems]
    known, digits = next(row for row in found if row.model_fields_set), systems[0].digits
    cells = [text_cell(name.replace("_", " ")), number_cell(known.cases, 0)]
    cells += [number_cell(known.mean_source, digits)] if source else []
    cells.append(number_cell(known.mean_reference, digits))
    cells += [number_cell(row.mean_prediction, digits, "strong") for row in found]
    cells += [signed_cell(row.error, digits, "strong") for row in found]
    cells += [number_cell(row.mae, digits) for row in found]
    if source:
        cells += [_correction_cell(row.fraction) for row in found]
        cells += [number_cell(known.source_mae, digits)] if len(systems) == 1 else []
    return cells


def cases(systems: Systems) -> Table | None:
    """Return the table of cases, worst first: all headline metrics of one system, or the main ones of several."""
    columns = _columns(systems)
    ranked = ranked_cases(systems)
    if not ranked:
        return None
    status = [statuses(system) for system in systems]
    heads = [Head("case", words=True)]
    heads += [
        Head(system_heading("check", system, systems)) for system, entry in zip(systems, status, strict=True) if entry
    ]
    heads += [
        Head(system_heading(f"{entry.title}, source" if is_source else entry.title, system, systems), about=entry.about)
        for system, entry, _, is_source in columns
    ]
    found = [{case.name: case for case in system.cases} for system in systems]
    rows = []
    for name in ranked:
        row = [text_cell(name), *(verdict_cell(entry.get(name)) for entry in status if entry)]
        for system, entry, column, is_source in columns:
            case = found[systems.index(system)].get(name)
            value = case.metrics.get(column) if case else None
            row.append(number_cell(value, entry.digits, "" if is_source else "strong"))
        rows.append(row)
    return Table(heads, rows)


def ranked_cases(systems: Systems) -> list[str]:
    """Return the case names, worst first: by the worst verdict of any system, then by the mean error over the systems.

    The error metric is that of `worst_by`.
    """
    errors: dict[str, list[float]] = {}
    ranks: dict[str, int] = {}
    for system in systems:
        name, status = worst_by(system), statuses(system)
        for case in system.cases:
            error = case.metrics.get(name, math.inf)
            errors.setdefault(case.name, []).append(math.inf if math.isnan(error) else error)
            rank = RANKS.get(status.get(case.name, ""), UNCHECKED) if status else 0
            ranks[case.name] = min(ranks.get(case.name, rank), rank)
    return sorted(errors, key=lambda case: (ranks[case], -statistics.fmean(errors[case])))


def statuses(system: System) -> dict[str, str]:
    """Return {case: pass, review or fail} of the structure check."""
    return {row.case: str(row.status) for row in system.summary.structure.cases}


def _numbers(systems: Systems, names: Sequence[str]) -> Table | None:
    if not names:
        return None
    if len(systems) == 1:
        return _one_system(systems[0], names)
    heads = [Head("metric", words=True), *([Head("unconverted source")] if systems[0].has_source else [])]
    heads += [Head(f"{system.name}, mean") for system in systems]
    rows = []
    for name in names:
        entry = measure(name, systems[0])
        stats = [system.summary.metrics.get(name, Statistics()) for system in systems]
        ranked = stats if len({_measured(system, name) for system in systems}) == 1 else []
        best = (max if entry.higher else min)(filter(None, map(_mean_rank_key, ranked)), default=None)
        row = [text_cell(entry.title)]
        if systems[0].has_source:
            row.append(estimate(systems[0].summary.metrics.get(f"source_{name}"), entry.digits))
        row += [
            estimate(system_stats, entry.digits, tone="strong" if best and _mean_rank_key(system_stats) == best else "")
            for system_stats in stats
        ]
        rows.append(row)
    note = (
        "Bold: the best mean, where all systems have the same cases. The paired comparison shows whether differences "
        "are statistically significant. "
    )
    return Table(heads, rows, note + about_infinite(rows, SAME))


def _measured(system: System, name: str) -> frozenset[str]:
    """Return the names of the cases that have the metric."""
    return frozenset(case.name for case in system.cases if not math.isnan(case.metrics.get(name, math.nan)))


def _mean_rank_key(stats: Statistics) -> tuple[float, float] | None:
    """Return the key to rank means with infinite values as very large numbers: their share, then the finite mean."""
    if stats.mean is None and not stats.infinite:
        return None
    return stats.infinite / (stats.infinite + stats.n) if stats.infinite else 0.0, stats.mean or 0.0


def _one_system(system: System, names: Sequence[str]) -> Table:
    heads = ["converted, mean", "standard deviation"]
    heads += ["unconverted source", "converted − source", "cases improved"] if system.has_source else []
    heads += ["converted, median"]
    rows = []
    for name in names:
        entry, stats = measure(name, system), system.summary.metrics[name]
        row = [
            text_cell(entry.title),
            estimate(stats, entry.digits, tone="strong"),
            number_cell(stats.std, entry.digits),
        ]
        row += _against_source(entry, system) if system.has_source else []
        rows.append([*row, estimate(stats, entry.digits, "median")])
    return Table([Head("metric", words=True), *map(Head, heads)], rows, about_infinite(rows, SAME))


def _against_source(entry: Measure, system: System) -> list[Cell]:
    source = estimate(system.summary.metrics.get(f"source_{entry.name}"), entry.digits)
    pairs = np.array(system.pairs(entry.name))
    if not len(pairs):
        return [source, number_cell(None), text_cell(None)]
    changes, finite = differences(*pairs.T), np.isfinite(pairs).all(1)
    mean = mean_difference(changes[finite] if finite.any() else changes)
    better = int((changes > 0 if entry.higher else changes < 0).sum())
    tone = "" if _is_noise(mean, entry, pairs[:, 1]) else _tone(mean, changes, entry.higher)
    return [source, signed_cell(mean, entry.digits, tone), Cell(f"{better} of {len(pairs)}", better)]


def _is_noise(mean: float, entry: Measure, source: Array) -> bool:
    """Whether a change is negligible: it rounds to 0 or, for the slice jump, is within the spread of the sources."""
    known = source[np.isfinite(source)]
    spread = float(known.std(ddof=1)) if entry.name == "slice_jump" and len(known) > 1 else 0.0
    return abs(mean) <= spread or round(mean, entry.digits) == 0


def _tone(mean: float, changes: Array, higher: bool | None) -> str:
    """Return good or bad, or "" if infinite values and the mean of the finite ones changed in opposite directions."""
    signs = {np.sign(mean), np.sign(np.sign(changes[np.isinf(changes)]).sum())} - {0}
    return "" if higher is None or len(signs) != 1 else "good" if signs == {1 if higher else -1} else "bad"


def _columns(systems: Systems) -> list[tuple[System, Measure, str, bool]]:
    """Return (system, metric, column of cases.csv, whether it is the source's) of each table column.

    One system has all headline metrics, several have only the main ones.
    """
    several = len(systems) > 1
    names = [name for name in headline() if any(name in system.summary.metrics for system in systems)]
    if several:
        first = [worst_by(systems[0])]
        first += [next((name for name in names if name.endswith(kind)), "") for kind in ("psnr", "ssim")]
        names = [name for name in first if name]
    return [
        (system, measure(name, system), prefix + name, bool(prefix))
        for name in names
        for prefix in ROLES[: 1 if several else 2]
        for system in systems
        if prefix + name in system.summary.metrics
    ]

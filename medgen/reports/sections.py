"""The errors of ``summary.json`` → tables: main numbers, all measures, regions, cases.

Each function takes all systems of the report and sets their numbers side by side.
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
    change,
    estimate,
    figure,
    filled,
    in_order,
    listed,
    number,
    of_system,
    percent,
    under,
    verdict_cell,
    words,
)

Systems = Sequence[System]
RANKS = {"fail": 0, "review": 1, "pass": 2}  # of verdicts, worst first; without one last


def main_numbers(systems: Systems) -> Table | None:
    """The headline measures and those of a challenge with their intervals, the unconverted source beside them."""
    measured = in_order(name for system in systems for name in system.summary.metrics)
    names = [name for name in headline() if name in measured]
    names += [name for name in measured if (known := find(name)) and known[0].profile != "generic"]
    table = _numbers(systems, names)
    about = explained(measure(name, systems[0]) for name in names)
    return table and replace(table, note=" ".join(filter(None, [_about_means(systems[0]), table.note])), about=about)


def _about_means(system: System) -> str:
    """What the means are, and by which profile."""
    intervals = any(of.mean_interval for of in system.summary.metrics.values())
    bracket = "; in brackets the 95 % bootstrap interval, patients resampled" if intervals else ""
    return f"Means over the cases{bracket}. Profile {system.summary.profile} unless a line names another."


def all_measures(systems: Systems) -> Table | None:
    """Every column of cases.csv that was measured: mean, median and spread over the cases, a row a system."""
    names = in_order(name for system in systems for name in system.summary.metrics)
    more = set(names) - {f"{role}{name}" for name in headline() for role in ROLES}
    if not more:
        return None
    heads = ["mean", "standard deviation", "median", "cases"]
    rows = []
    for name in names:
        for system in systems:
            if stats := system.summary.metrics.get(name):
                of = measure(name.removeprefix("source_"), system)
                label = of.title + (" – source" if name.startswith("source_") else "")
                cells = [
                    estimate(stats, of.digits),
                    figure(stats.std, of.digits),
                    estimate(stats, of.digits, "median"),
                ]
                count = stats.n + stats.infinite
                rows.append([words(label), *of_system(system, systems), *cells, figure(count, 0)])
    about = explained(measure(name.removeprefix("source_"), systems[0]) for name in names if name in more)
    return listed(Head("measure", words=True), systems, map(Head, heads), rows, about_infinite(rows, SAME), about)


def regions(systems: Systems) -> Table | None:
    """Mean intensity by region, side by side."""
    names = in_order(name for system in systems for name in system.summary.regions)
    if not names:
        return None
    source, alone = (
        any("mean_source" in row.model_fields_set for row in systems[0].summary.regions.values()),
        len(systems) == 1,
    )
    heads = ["region", "cases", *["source"] * source, "truth"]
    parts = [
        "converted",
        "error (converted − truth)",
        "mean absolute error of a voxel",
        *["correction achieved (%)"] * source,
    ]
    heads += [under(part, system, systems) for part in parts for system in systems]
    heads += ["mean absolute error, source"] if source and alone else []
    rows = [_region_row(name, systems, source) for name in names]
    note = _about_way(systems[0]) if source and systems[0].has_truth else ""
    return filled(Table([Head(heads[0], words=True), *map(Head, heads[1:])], rows, note))


def _about_way(system: System) -> str:
    least = least_change(bool(system.unit), system.summary.data_range or 0)
    amount = f"{number(least, 0 if system.unit else system.digits)} {system.unit}".rstrip()
    return (
        "The correction achieved is 100 % where the mean is right. Overshot: beyond 200 %; wrong way: below −100 %. "
        f"It is left out where source and truth differ by no more than {amount} or two standard errors over the cases."
    )


def _way(fraction: float | None) -> Cell:
    """A part of the way in percent; beyond twice the way either way a word, for more digits would say no more."""
    if fraction is None or -1 <= fraction <= 2:
        return Cell(percent(fraction), fraction)
    return Cell("overshot" if fraction > 2 else "wrong way", fraction)


def _region_row(name: str, systems: Systems, source: bool) -> list[Cell]:
    found = [system.summary.regions.get(name, Region()) for system in systems]
    known, digits = next(row for row in found if row.model_fields_set), systems[0].digits
    cells = [words(name.replace("_", " ")), figure(known.cases, 0)]
    cells += [figure(known.mean_source, digits)] if source else []
    cells.append(figure(known.mean_reference, digits))
    cells += [figure(row.mean_prediction, digits, "strong") for row in found]
    cells += [change(row.error, digits, "strong") for row in found]
    cells += [figure(row.mae, digits) for row in found]
    if source:
        cells += [_way(row.fraction) for row in found]
        cells += [figure(known.source_mae, digits)] if len(systems) == 1 else []
    return cells


def cases(systems: Systems) -> Table | None:
    """A row a case, worst first: all headline measures of one system, or the main ones of several."""
    columns = _columns(systems)
    ranked = ranked_cases(systems)
    if not ranked:
        return None
    status = [statuses(system) for system in systems]
    heads = [Head("case", words=True)]
    heads += [Head(under("check", system, systems)) for system, of in zip(systems, status, strict=True) if of]
    heads += [
        Head(under(f"{of.title}, source" if is_source else of.title, system, systems), about=of.about)
        for system, of, _, is_source in columns
    ]
    found = [{case.name: case for case in system.cases} for system in systems]
    rows = []
    for name in ranked:
        row = [words(name), *(verdict_cell(of.get(name)) for of in status if of)]
        for system, of, column, is_source in columns:
            case = found[systems.index(system)].get(name)
            value = case.metrics.get(column) if case else None
            row.append(figure(value, of.digits, "" if is_source else "strong"))
        rows.append(row)
    return Table(heads, rows)


def ranked_cases(systems: Systems) -> list[str]:
    """Names of the cases, worst first: by the worst verdict of any system, then by the mean over the systems of the
    error that says it best."""
    errors: dict[str, list[float]] = {}
    ranks: dict[str, int] = {}
    for system in systems:
        name, status = worst_by(system), statuses(system)
        for case in system.cases:
            error = case.metrics.get(name, math.inf)
            errors.setdefault(case.name, []).append(math.inf if math.isnan(error) else error)
            ranks[case.name] = min(ranks.get(case.name, len(RANKS)), RANKS.get(status.get(case.name, ""), len(RANKS)))
    return sorted(errors, key=lambda case: (ranks[case], -statistics.fmean(errors[case])))


def statuses(system: System) -> dict[str, str]:
    """{case: pass, review or fail} of the structure check."""
    return {row.case: str(row.status) for row in system.summary.structure.cases}


def _numbers(systems: Systems, names: Sequence[str]) -> Table | None:
    if not names:
        return None
    if len(systems) == 1:
        return _one_system(systems[0], names)
    heads = [Head("measure", words=True), *([Head("unconverted source")] if systems[0].has_source else [])]
    heads += [Head(f"{system.name}, mean") for system in systems]
    rows = []
    for name in names:
        of = measure(name, systems[0])
        stats = [system.summary.metrics.get(name, Statistics()) for system in systems]
        best = (max if of.higher else min)(filter(None, map(_standing, stats)), default=None)
        row = [words(of.title)]
        if systems[0].has_source:
            row.append(estimate(systems[0].summary.metrics.get(f"source_{name}"), of.digits))
        row += [estimate(one, of.digits, tone="strong" if best and _standing(one) == best else "") for one in stats]
        rows.append(row)
    note = "Strong: the best mean; whether the difference is more than chance, the comparison tells. "
    return Table(heads, rows, note + about_infinite(rows, SAME))


def _standing(stats: Statistics) -> tuple[float, float] | None:
    """What means are ranked by, as if infinite values were very large numbers: their share, then the others' mean."""
    if stats.mean is None and not stats.infinite:
        return None
    return stats.infinite / (stats.infinite + stats.n) if stats.infinite else 0.0, stats.mean or 0.0


def _one_system(system: System, names: Sequence[str]) -> Table:
    heads = ["converted, mean", "standard deviation"]
    heads += ["unconverted source", "converted − source", "cases improved"] if system.has_source else []
    heads += ["converted, median"]
    rows = []
    for name in names:
        of, stats = measure(name, system), system.summary.metrics[name]
        row = [words(of.title), estimate(stats, of.digits, tone="strong"), figure(stats.std, of.digits)]
        row += _against_source(of, system) if system.has_source else []
        rows.append([*row, estimate(stats, of.digits, "median")])
    return Table([Head("measure", words=True), *map(Head, heads)], rows, about_infinite(rows, SAME))


def _against_source(of: Measure, system: System) -> list[Cell]:
    source = estimate(system.summary.metrics.get(f"source_{of.name}"), of.digits)
    pairs = np.array(system.pairs(of.name))
    if not len(pairs):
        return [source, figure(None), words(None)]
    changes, finite = differences(*pairs.T), np.isfinite(pairs).all(1)
    mean = mean_difference(changes[finite] if finite.any() else changes)
    better = int((changes > 0 if of.higher else changes < 0).sum())
    tone = "" if _is_noise(mean, of, pairs[:, 1]) else _tone(mean, changes, of.higher)
    return [source, change(mean, of.digits, tone), Cell(f"{better} of {len(pairs)}", better)]


def _is_noise(mean: float, of: Measure, source: Array) -> bool:
    """Whether a change is none: it is shown as 0, or as small for a slice jump as scans differ from each other."""
    known = source[np.isfinite(source)]
    spread = float(known.std(ddof=1)) if of.name == "slice_jump" and len(known) > 1 else 0.0
    return abs(mean) <= spread or round(mean, of.digits) == 0


def _tone(mean: float, changes: Array, higher: bool | None) -> str:
    """good or bad; neither where infinite values changed one way and the mean of the others the other way."""
    ways = {np.sign(mean), np.sign(np.sign(changes[np.isinf(changes)]).sum())} - {0}
    return "" if higher is None or len(ways) != 1 else "good" if ways == {1 if higher else -1} else "bad"


def _columns(systems: Systems) -> list[tuple[System, Measure, str, bool]]:
    """(system, measure, column of cases.csv, whether it is the source's): all of one system, the main of several."""
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

"""Tables of results other than errors: agreement, segmentation, distribution, memorisation, structure and others.

As in `medgen.reports.sections`, each function makes one table from ``summary.json``. Tables of several systems have a
column "system".
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgen.evaluation.metrics.catalogue import metric, segmentation_columns
from medgen.evaluation.summary_file import Agreement, Distance, DownstreamRow, Memorisation, Statistics
from medgen.reports.metric_display import SAME, Measure, check_value, explained, measure
from medgen.reports.results import System
from medgen.reports.sections import RANKS, ranked_cases
from medgen.reports.tables import (
    Cell,
    Head,
    Table,
    about_infinite,
    bracket,
    estimate,
    in_order,
    number,
    number_cell,
    of_system,
    p_value,
    signed_cell,
    table_by_system,
    text_cell,
    value_cell,
    verdict_cell,
    with_error,
    without_empty_columns,
)

Systems = Sequence[System]
SIGNIFICANT = 0.05  # if the smallest possible p value is larger, the report says so


def agreement(systems: Systems) -> Table | None:
    """Return the Bland–Altman table: bias and limits of agreement of every region."""
    heads = ["bias", "standard deviation", "lower limit of agreement", "upper limit of agreement", "cases"]
    rows = []
    for name in in_order(name for system in systems for name in system.summary.agreement):
        for system in systems:
            if entry := system.summary.agreement.get(name):
                rows.append(
                    [
                        text_cell(name.replace("_", " ")),
                        *of_system(system, systems),
                        *_agreement_row(entry, system.digits),
                    ]
                )
    return table_by_system(Head("region", words=True), systems, map(Head, heads), rows)


def _agreement_row(entry: Agreement, digits: int) -> list[Cell]:
    found = (
        (entry.bias, entry.bias_interval),
        (entry.lower, entry.lower_interval),
        (entry.upper, entry.upper_interval),
    )
    ends = [Cell(signed_cell(value, digits).text + bracket(interval, digits), value) for value, interval in found]
    return [ends[0], number_cell(entry.sd, digits), *ends[1:], number_cell(entry.n, 0)]


ONE_ONLY = "labels that are only in the truth or only in the segmentation"


def segmentation(systems: Systems) -> Table | None:
    """Return the table of Dice and surface distances by label, as mean with interval."""
    rows, used = (
        [],
        _used(_overlap(), systems, lambda system: system.summary.segmentation.labels.values()),
    )
    of_labels = [measure(key, systems[0]) for key in used]
    for name in in_order(n for system in systems for n in system.summary.segmentation.labels):
        for system in systems:
            if entry := system.summary.segmentation.labels.get(name):
                cells = [estimate(entry.get(key), metric(key).digits or 0) for key in used]
                rows.append([text_cell(name.replace("_", " ")), *of_system(system, systems), *cells])
    note = "".join(
        f"Surface Dice: surfaces within {tolerance:g} mm of each other count as equal. "
        for tolerance in {system.summary.segmentation.tolerance_mm for system in systems} - {None}
    )
    note, about = note + about_infinite(rows, ONE_ONLY), explained(of_labels)
    return table_by_system(Head("label", words=True), systems, _overlap_heads(used), rows, note, about)


def _overlap_heads(names: Iterable[str]) -> list[Head]:
    """Return the heading of each score: label and unit, without the region that error metrics have."""
    found = [metric(name) for name in names]
    return [Head(entry.label + (f" ({entry.unit})" if entry.unit else ""), about=entry.about) for entry in found]


def _overlap() -> list[str]:
    """Return the columns with segmentation scores, without the volumes."""
    return [name for name in segmentation_columns() if metric(name).better]


def segmentation_cases(systems: Systems) -> Table | None:
    """Return the table of segmentation scores per case and label."""
    used = _used(
        _overlap(), systems, lambda system: [row.model_extra or {} for row in system.summary.segmentation.cases]
    )
    rows = [
        [
            text_cell(row.case),
            *of_system(system, systems),
            text_cell(row.label.replace("_", " ")),
            *(number_cell(row.number(key), metric(key).digits or 0) for key in used),
        ]
        for system in systems
        for row in system.summary.segmentation.cases
    ]
    return table_by_system(Head("case", words=True), systems, [Head("label", words=True), *_overlap_heads(used)], rows)


def distribution(systems: Systems) -> Table | None:
    """Return the table of distances between image sets, with everything that each value depends on."""
    rows = []
    for system in systems:
        for entry in system.summary.distribution:
            text = with_error(entry.value, entry.standard_error)
            counts = (
                _counts(entry.reference_rows, entry.reference_volumes),
                _counts(entry.prediction_rows, entry.prediction_volumes),
            )
            rows.append(
                [
                    text_cell(entry.metric),
                    *of_system(system, systems),
                    Cell(text, entry.value, "strong"),
                    value_cell(entry.source_value),
                    *map(text_cell, (entry.extractor, entry.weights, entry.preprocessing)),
                    *counts,
                    text_cell("; ".join([*entry.notes, *_split_deviation(entry)])),
                ]
            )
    heads = [Head("value ± standard error"), Head("unconverted source")]
    heads += [Head(text, words=True) for text in ("extractor", "weights", "preprocessing")]
    heads += [Head("reference"), Head("converted"), Head("notes", words=True)]
    note = "The best distance is 0. Compare only values of one extractor, with the same weights and preprocessing."
    table = table_by_system(Head("metric", words=True), systems, heads, rows, note)
    return without_empty_columns(table) if table else None


def _split_deviation(entry: Distance) -> list[str]:
    """Return the standard deviation of the Inception Score over its splits, which is not a standard error."""
    return [] if entry.deviation is None else [f"standard deviation over its splits {value_cell(entry.deviation).text}"]


def _counts(rows: int | None, volumes: int | None) -> Cell:
    text = ", ".join(
        f"{value_cell(count).text} {what}"
        for count, what in ((rows, "samples"), (volumes, "volumes"))
        if count is not None
    )
    return Cell(text or "–", rows)


@dataclass(frozen=True)
class Copies:
    """Whether a system's images look like copies of training images (``flagged``), with a text for the report."""

    name: str
    flagged: bool
    text: str


def copies(systems: Systems) -> list[Copies]:
    """Return the result of each system that was tested for memorisation."""
    tested = [(system.name, system.summary.memorisation) for system in systems]
    return [_copies(name, entry) for name, entry in tested if entry is not None]


def _copies(name: str, entry: Memorisation) -> Copies:
    count = sum(pair.flagged for pair in entry.closest)
    if count:
        appearance = "looks like a copy of a training volume" if count == 1 else "look like copies of training volumes"
        text = f"Flagged: {count} of the closest converted volumes {appearance}."
    elif entry.flagged:
        text = "Flagged: as a set, converted volumes are closer to training volumes than real volumes are."
    else:
        text = "Not flagged: converted volumes are not closer to training volumes than real volumes are."
    if (p := entry.p_value) is not None:
        text += " Test of the whole set: p " + ("< 0.001." if p < 0.001 else f"= {number(p, 3)}.")
    return Copies(name, entry.flagged, f"{text} {entry.note}".strip())


def memorisation(systems: Systems) -> Table | None:
    """Return the table of the synthetic volumes closest to a training volume."""
    rows = [
        [
            text_cell(entry.synthetic),
            *of_system(system, systems),
            text_cell(entry.training),
            value_cell(entry.distance),
            p_value(entry.p_value),
            text_cell("possible copy", "bad") if entry.flagged else text_cell(None),
        ]
        for system in systems
        for entry in (system.summary.memorisation or Memorisation()).closest
    ]
    heads = [Head("nearest training case", words=True), Head("feature distance"), Head("p"), Head("flagged")]
    table = table_by_system(Head("synthetic case", words=True), systems, heads, rows)
    return without_empty_columns(table) if table else None


def structure(systems: Systems) -> Table | None:
    """Return the table of the structure check: verdict, reasons and values of each case, fails first."""
    found = [(system, row) for system in systems for row in system.summary.structure.cases]
    ranked = {case: place for place, case in enumerate(ranked_cases(systems))}
    found.sort(key=lambda item: (RANKS.get(str(item[1].status), 0), ranked.get(item[1].case, 0)))
    values = [check_value(name) for name in in_order(name for _, row in found for name in row.values)]
    rows = [
        [
            text_cell(row.case),
            *of_system(system, systems),
            verdict_cell(row.status),
            text_cell(" ".join(row.reasons)),
            *(_checked(row.values.get(entry.name), entry) for entry in values),
        ]
        for system, row in found
    ]
    heads = [Head("verdict"), Head("reasons", words=True), *(Head(entry.title, about=entry.about) for entry in values)]
    note = " ".join(_lesion_sentence(system, len(systems) > 1) for system in systems)
    return table_by_system(Head("case", words=True), systems, heads, rows, note, _about_checks(values))


def _checked(value: Any, entry: Measure) -> Cell:
    """Return the cell of a check value with its declared digits."""
    if not entry.known or isinstance(value, bool) or not isinstance(value, int | float):
        return value_cell(value)
    return number_cell(100 * value if entry.unit == "%" else value, entry.digits)


def _about_checks(values: Sequence[Measure]) -> list[tuple[str, str]]:
    """Return (labels, explanation), one entry per kind of value."""
    lines: dict[str, list[str]] = {}
    for entry in values:
        if entry.about:
            lines.setdefault(entry.about, []).append(entry.label)
    return [(", ".join(labels), about) for about, labels in lines.items()]


def _lesion_sentence(system: System, several: bool) -> str:
    """Return a sentence on how many lesions were kept, lost or new; empty if no lesions were given."""
    entry = system.summary.structure.lesions
    if entry is None:
        return ""
    share = "" if entry.sensitivity is None else f" (sensitivity {number_cell(entry.sensitivity, 2).text})"
    return (f"{system.name}: " if several else "") + (
        f"{entry.kept} of {entry.kept + entry.lost} assessable lesions are kept{share}; "
        f"{entry.new} new in {entry.volumes} volumes ({number_cell(entry.new_per_volume, 2).text} per volume)."
    )


def downstream(systems: Systems) -> Table | None:
    """Return the table of the performance of segmentation networks trained on real images, synthetic images or both."""
    found = [(system, entry) for system in systems for entry in system.summary.downstream.rows]
    rows = [
        [
            text_cell(entry.protocol.replace("_to_", " → ").replace("both", "real + synthetic")),
            *of_system(system, systems),
            text_cell(entry.label.replace("_", " ")),
            Cell(number_cell(entry.dice_mean, 3).text + bracket(entry.interval, 3), entry.dice_mean, "strong"),
            Cell(signed_cell(entry.gain, 3).text + bracket(entry.gain_interval, 3), entry.gain),
            p_value(entry.gain_p),
            estimate(_distances(entry), 2),
            number_cell(entry.assd, 2),
            number_cell(entry.surface_dice, 2),
            number_cell(entry.n, 0),
        ]
        for system, entry in found
    ]
    heads = [Head("label", words=True), Head("Dice, mean"), Head("gain over real → real"), Head("p of the gain")]
    heads += [Head("HD95 (mm)"), Head("ASSD (mm)"), Head("surface Dice"), Head("n")]
    several = len(systems) > 1
    notes = [_about_downstream([entry for _, entry in found]), about_infinite(rows, ONE_ONLY)]
    notes += [
        (f"{system.name}: " if several else "") + text for system in systems if (text := system.summary.downstream.note)
    ]
    note = " ".join(filter(None, notes))
    table = table_by_system(Head("protocol", words=True), systems, heads, rows, note)
    return without_empty_columns(table) if table else None


def _distances(entry: DownstreamRow) -> Statistics:
    """Return mean HD95 and the number of infinite values as statistics for `estimate`."""
    infinite = entry.infinite or 0
    return Statistics(mean=entry.hd95, infinite=infinite, n=(entry.distances or infinite) - infinite)


def _about_downstream(rows: Sequence[DownstreamRow]) -> str:
    """Return notes needed to interpret a gain."""
    notes = []
    if any(entry.gain_p is not None for entry in rows):
        notes.append("p: Wilcoxon signed-rank test of the mean gain per patient, not corrected for multiple rows.")
    if spread := max((entry.sd_of_runs or 0 for entry in rows), default=0):
        notes.append(f"Runs of the same row differ in Dice with a standard deviation of up to {number(spread, 3)}.")
    return " ".join(notes)


def comparisons(found: Sequence[Mapping[str, Any]], systems: Systems) -> Table | None:
    """Return the table of paired comparisons between systems."""
    rows = []
    for entry in found:
        known = measure(str(entry.get("metric")), systems[0])
        mean = signed_cell(entry.get("mean_difference"), known.digits)
        rows.append(
            [
                text_cell(known.title),
                text_cell(entry.get("a")),
                text_cell(entry.get("b")),
                number_cell(entry.get("n"), 0),
                Cell(
                    mean.text + bracket(entry.get("interval"), known.digits) + _infinite_pairs(entry),
                    mean.value,
                    "strong",
                ),
                p_value(entry.get("p")),
                p_value(entry.get("p_holm")),
                signed_cell(entry.get("effect"), 2),
                text_cell(" / ".join(str(entry.get(key, "–")) for key in ("wins", "ties", "losses"))),
            ]
        )
    heads = [Head("metric", words=True), Head("A", words=True), Head("B", words=True), Head("cases")]
    heads += [Head(text) for text in ("mean of A − B", "p", "p (Holm)", "effect size", "A better / tied / worse")]
    return Table(heads, rows, _about_comparisons(found) + about_infinite(rows, SAME)) if rows else None


def _infinite_pairs(entry: Mapping[str, Any]) -> str:
    """Return how many infinite values of each system a mean difference leaves out; empty if none."""
    a, b = (entry.get(f"infinite_{side}") or 0 for side in "ab")
    return f", infinite: A {a}, B {b}" if a or b else ""


def _about_comparisons(found: Sequence[Mapping[str, Any]]) -> str:
    """Return a note if at least one comparison has too few patients to become significant."""
    smallest = [p for entry in found if (p := entry.get("smallest_p") or 0) > SIGNIFICANT]
    if not smallest:
        return ""
    rows = "" if len(smallest) == len(found) else f" in {len(smallest)} of {len(found)} rows"
    same = min(smallest) == max(smallest)
    limit = number(smallest[0], 3) if same else f"{number(min(smallest), 3)} to {number(max(smallest), 3)}"
    return f"With so few patients, p cannot be smaller than {limit}{rows}. "


def _used(known: Iterable[str], systems: Systems, rows: Callable[[System], Iterable[Any]]) -> list[str]:
    return [key for key in known if any(key in row for system in systems for row in rows(system))]

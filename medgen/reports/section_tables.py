"""What goes beyond a case's errors: agreement, structure, segmentation, distribution, memorisation, comparisons.

Keys of ``summary.json`` → tables, as in `medgen.reports.sections`; lists of several systems stand one after the
other under a column "system".
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
    change,
    estimate,
    figure,
    filled,
    general,
    in_order,
    listed,
    number,
    of_system,
    p_value,
    verdict_cell,
    with_error,
    words,
)

Systems = Sequence[System]
SIGNIFICANT = 0.05  # a test that cannot fall below says nothing by not doing so


def agreement(systems: Systems) -> Table | None:
    """Bland–Altman numbers of every region."""
    heads = ["bias", "standard deviation", "lower limit of agreement", "upper limit of agreement", "cases"]
    rows = []
    for name in in_order(name for system in systems for name in system.summary.agreement):
        for system in systems:
            if of := system.summary.agreement.get(name):
                rows.append(
                    [words(name.replace("_", " ")), *of_system(system, systems), *_agreement_row(of, system.digits)]
                )
    return listed(Head("region", words=True), systems, map(Head, heads), rows)


def _agreement_row(of: Agreement, digits: int) -> list[Cell]:
    found = ((of.bias, of.bias_interval), (of.lower, of.lower_interval), (of.upper, of.upper_interval))
    ends = [Cell(change(value, digits).text + bracket(interval, digits), value) for value, interval in found]
    return [ends[0], figure(of.sd, digits), *ends[1:], figure(of.n, 0)]


ONE_ONLY = "labels that only the truth or only the segmentation has"


def segmentation(systems: Systems) -> Table | None:
    """Dice and surface distances by label, mean with its interval."""
    rows, used = (
        [],
        _used(_overlap(), systems, lambda system: system.summary.segmentation.labels.values()),
    )
    of_labels = [measure(key, systems[0]) for key in used]
    for name in in_order(n for system in systems for n in system.summary.segmentation.labels):
        for system in systems:
            if of := system.summary.segmentation.labels.get(name):
                cells = [estimate(of.get(key), metric(key).digits or 0) for key in used]
                rows.append([words(name.replace("_", " ")), *of_system(system, systems), *cells])
    note = "".join(
        f"Surface Dice: surfaces within {tolerance:g} mm of each other count as equal. "
        for tolerance in {system.summary.segmentation.tolerance_mm for system in systems} - {None}
    )
    note, about = note + about_infinite(rows, ONE_ONLY), explained(of_labels)
    return listed(Head("label", words=True), systems, _overlap_heads(used), rows, note, about)


def _overlap_heads(names: Iterable[str]) -> list[Head]:
    """Label and unit of each score, without the place that errors have."""
    found = [metric(name) for name in names]
    return [Head(of.label + (f" ({of.unit})" if of.unit else ""), about=of.about) for of in found]


def _overlap() -> list[str]:
    """Scores of a segmentation, without its volumes."""
    return [name for name in segmentation_columns() if metric(name).better]


def segmentation_cases(systems: Systems) -> Table | None:
    """The same numbers for each case."""
    used = _used(
        _overlap(), systems, lambda system: [row.model_extra or {} for row in system.summary.segmentation.cases]
    )
    rows = [
        [
            words(row.case),
            *of_system(system, systems),
            words(row.label.replace("_", " ")),
            *(figure(row.number(key), metric(key).digits or 0) for key in used),
        ]
        for system in systems
        for row in system.summary.segmentation.cases
    ]
    return listed(Head("case", words=True), systems, [Head("label", words=True), *_overlap_heads(used)], rows)


def distribution(systems: Systems) -> Table | None:
    """Distances between the sets of images, each with all that the number depends on."""
    rows = []
    for system in systems:
        for of in system.summary.distribution:
            text = with_error(of.value, of.standard_error)
            counts = (
                _counts(of.reference_rows, of.reference_volumes),
                _counts(of.prediction_rows, of.prediction_volumes),
            )
            rows.append(
                [
                    words(of.metric),
                    *of_system(system, systems),
                    Cell(text, of.value, "strong"),
                    general(of.source_value),
                    *map(words, (of.extractor, of.weights, of.preprocessing)),
                    *counts,
                    words("; ".join([*of.notes, *_of_splits(of)])),
                ]
            )
    heads = [Head("value ± standard error"), Head("unconverted source")]
    heads += [Head(text, words=True) for text in ("extractor", "weights", "preprocessing")]
    heads += [Head("reference"), Head("converted"), Head("notes", words=True)]
    note = (
        "A distance of 0: sets that cannot be told apart; each depends on its extractor, weights and preprocessing, and"
    )
    table = listed(Head("metric", words=True), systems, heads, rows, f"{note} compares only with numbers of the same.")
    return filled(table) if table else None


def _of_splits(of: Distance) -> list[str]:
    """The Inception Score's spread, which is of its own splits and no standard error."""
    return [] if of.deviation is None else [f"standard deviation of its splits {general(of.deviation).text}"]


def _counts(rows: int | None, volumes: int | None) -> Cell:
    text = ", ".join(
        f"{general(count).text} {what}"
        for count, what in ((rows, "samples"), (volumes, "volumes"))
        if count is not None
    )
    return Cell(text or "–", rows)


@dataclass(frozen=True)
class Copies:
    """Whether a system's images look like copies of training images: ``flagged``, and a paragraph."""

    name: str
    flagged: bool
    text: str


def copies(systems: Systems) -> list[Copies]:
    """One for each system that was tested."""
    tested = [(system.name, system.summary.memorisation) for system in systems]
    return [_copies(name, of) for name, of in tested if of is not None]


def _copies(name: str, of: Memorisation) -> Copies:
    count = sum(pair.flagged for pair in of.closest)
    if count:
        look = "looks like a copy of a training volume" if count == 1 else "look like copies of training volumes"
        text = f"Flagged: {count} of the closest converted volumes {look}."
    elif of.flagged:
        text = "Flagged: as a set, converted volumes lie closer to training volumes than those lie to each other."
    else:
        text = "Not flagged: converted volumes lie no closer to training volumes than those lie to each other."
    if (p := of.p_value) is not None:
        text += " The set as a whole: p " + ("< 0.001." if p < 0.001 else f"= {number(p, 3)}.")
    return Copies(name, of.flagged, f"{text} {of.note}".strip())


def memorisation(systems: Systems) -> Table | None:
    """The synthetic volumes closest to a training image."""
    rows = [
        [
            words(of.synthetic),
            *of_system(system, systems),
            words(of.training),
            general(of.distance),
            p_value(of.p_value),
            words("copy?", "bad") if of.flagged else words(None),
        ]
        for system in systems
        for of in (system.summary.memorisation or Memorisation()).closest
    ]
    heads = [Head("nearest training case", words=True), Head("distance of features"), Head("p"), Head("flagged")]
    table = listed(Head("synthetic case", words=True), systems, heads, rows)
    return filled(table) if table else None


def structure(systems: Systems) -> Table | None:
    """The structure check: verdict, reasons and values of each case; fail first."""
    found = [(system, row) for system in systems for row in system.summary.structure.cases]
    ranked = {case: place for place, case in enumerate(ranked_cases(systems))}
    found.sort(key=lambda item: (RANKS.get(str(item[1].status), 0), ranked.get(item[1].case, 0)))
    values = [check_value(name) for name in in_order(name for _, row in found for name in row.values)]
    rows = [
        [
            words(row.case),
            *of_system(system, systems),
            verdict_cell(row.status),
            words(" ".join(row.reasons)),
            *(_checked(row.values.get(of.name), of) for of in values),
        ]
        for system, row in found
    ]
    heads = [Head("verdict"), Head("reasons", words=True), *(Head(of.title, about=of.about) for of in values)]
    note = " ".join(_lesions(system, len(systems) > 1) for system in systems)
    return listed(Head("case", words=True), systems, heads, rows, note, _about_checks(values))


def _checked(value: Any, of: Measure) -> Cell:
    """A value of the check with the digits it has."""
    if not of.known or isinstance(value, bool) or not isinstance(value, int | float):
        return general(value)
    return figure(100 * value if of.unit == "%" else value, of.digits)


def _about_checks(values: Sequence[Measure]) -> list[tuple[str, str]]:
    """A line for each kind of value."""
    lines: dict[str, list[str]] = {}
    for of in values:
        if of.about:
            lines.setdefault(of.about, []).append(of.label)
    return [(", ".join(labels), about) for about, labels in lines.items()]


def _lesions(system: System, several: bool) -> str:
    """What became of all lesions, in a sentence; empty where none was known."""
    of = system.summary.structure.lesions
    if of is None:
        return ""
    share = "" if of.sensitivity is None else f" (sensitivity {figure(of.sensitivity, 2).text})"
    return (f"{system.name}: " if several else "") + (
        f"{of.kept} of {of.kept + of.lost} lesions that can be judged are kept{share}; "
        f"{of.new} new in {of.volumes} volumes ({figure(of.new_per_volume, 2).text} a volume)."
    )


def downstream(systems: Systems) -> Table | None:
    """What segmentation networks trained on synthetic images are worth."""
    found = [(system, of) for system in systems for of in system.summary.downstream.rows]
    rows = [
        [
            words(of.protocol.replace("_to_", " → ").replace("both", "real + synthetic")),
            *of_system(system, systems),
            words(of.label.replace("_", " ")),
            Cell(figure(of.dice_mean, 3).text + bracket(of.interval, 3), of.dice_mean, "strong"),
            Cell(change(of.gain, 3).text + bracket(of.gain_interval, 3), of.gain),
            p_value(of.gain_p),
            estimate(_distances(of), 2),
            figure(of.assd, 2),
            figure(of.surface_dice, 2),
            figure(of.n, 0),
        ]
        for system, of in found
    ]
    heads = [Head("label", words=True), Head("Dice, mean"), Head("gain over real → real"), Head("p of the gain")]
    heads += [Head("HD95 (mm)"), Head("ASSD (mm)"), Head("surface Dice"), Head("n")]
    several = len(systems) > 1
    notes = [_about_downstream([of for _, of in found]), about_infinite(rows, ONE_ONLY)]
    notes += [
        (f"{system.name}: " if several else "") + text for system in systems if (text := system.summary.downstream.note)
    ]
    note = " ".join(filter(None, notes))
    table = listed(Head("protocol", words=True), systems, heads, rows, note)
    return filled(table) if table else None


def _distances(of: DownstreamRow) -> Statistics:
    """Mean HD95 of a row with how many it leaves out, as `estimate` takes it."""
    infinite = of.infinite or 0
    return Statistics(mean=of.hd95, infinite=infinite, n=(of.distances or infinite) - infinite)


def _about_downstream(rows: Sequence[DownstreamRow]) -> str:
    """What one must know to believe a gain."""
    notes = []
    if any(of.gain_p is not None for of in rows):
        notes.append("p: Wilcoxon signed-rank test of the patients' mean gains, not corrected for the lines.")
    if spread := max((of.sd_of_runs or 0 for of in rows), default=0):
        notes.append(f"Runs of one line differ by a standard deviation of up to {number(spread, 3)} in Dice.")
    return " ".join(notes)


def comparisons(found: Sequence[Mapping[str, Any]], systems: Systems) -> Table | None:
    """Systems against each other, case by case."""
    rows = []
    for of in found:
        known = measure(str(of.get("metric")), systems[0])
        mean = change(of.get("mean_difference"), known.digits)
        rows.append(
            [
                words(known.title),
                words(of.get("a")),
                words(of.get("b")),
                figure(of.get("n"), 0),
                Cell(mean.text + bracket(of.get("interval"), known.digits) + _infinite_pairs(of), mean.value, "strong"),
                p_value(of.get("p")),
                p_value(of.get("p_holm")),
                change(of.get("effect"), 2),
                words(" / ".join(str(of.get(key, "–")) for key in ("wins", "ties", "losses"))),
            ]
        )
    heads = [Head("measure", words=True), Head("A", words=True), Head("B", words=True), Head("cases")]
    heads += [Head(text) for text in ("mean of A − B", "p", "p, Holm", "effect size", "A better / tied / worse")]
    return Table(heads, rows, _about_comparisons(found) + about_infinite(rows, SAME)) if rows else None


def _infinite_pairs(of: Mapping[str, Any]) -> str:
    """How many values of each side a mean difference leaves out; nothing where it is of all."""
    a, b = (of.get(f"infinite_{side}") or 0 for side in "ab")
    return f", infinite: A {a}, B {b}" if a or b else ""


def _about_comparisons(found: Sequence[Mapping[str, Any]]) -> str:
    """Where too few patients leave a test no chance, that it is so."""
    least = max((of.get("smallest_p") or 0 for of in found), default=0)
    return f"Of so few patients p can be no smaller than {number(least, 3)}. " if least > SIGNIFICANT else ""


def _used(known: Iterable[str], systems: Systems, rows: Callable[[System], Iterable[Any]]) -> list[str]:
    return [key for key in known if any(key in row for system in systems for row in rows(system))]

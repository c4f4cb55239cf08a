"""First page of the report: errors of the converted scans, results of the structure check, study data, warnings."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgen.evaluation.metrics.catalogue import headline
from medgen.reports.metric_display import measure, worst_by
from medgen.reports.results import System
from medgen.reports.tables import Head, Table, bracket, number, percent, text_cell

FRONT = ("name", "method", "step", "trained", "date", "weights", "data", "commit")  # model keys shown on the first page
LONGEST = 48  # maximum length of a value on the first page


@dataclass(frozen=True)
class Verdict:
    """Summary of one system.

    Attributes:
        name: of the system; empty if it is the only one.
        lines: sentences.
        tone: of the frame: better, worse or empty.
        counts: number of cases with the structure check's verdict pass, review and fail; None without the check.
    """

    name: str
    lines: Sequence[str]
    tone: str
    counts: Mapping[str, int] | None


def verdicts(systems: Sequence[System]) -> list[Verdict]:
    """Return the verdict of each system."""
    return [_verdict(system, system.name if len(systems) > 1 else "") for system in systems]


def _verdict(system: System, name: str) -> Verdict:
    counts = system.summary.structure.counts or None
    if not system.cases:
        return Verdict(name, ["No case could be evaluated."], "worse", counts)
    parts, ratios = [], {}
    for column in (column for column in headline() if column.endswith("mae")):
        if column not in system.summary.metrics:
            continue
        text, ratio = _error_text(system, column)
        parts.append(text)
        if ratio is not None:
            ratios[column] = ratio
    if not parts:
        line = "There is no truth for comparison: this shows what the conversion changed, not whether that is correct."
        return Verdict(name, [line], _tone("", counts), counts)
    if not ratios:
        lines = [f"Mean absolute error: {'; '.join(parts)}. There is no unconverted source for comparison."]
        return Verdict(name, lines, _tone("", counts), counts)
    key = ratios[worst_by(system)] if worst_by(system) in ratios else next(iter(ratios.values()))
    if max(ratios.values()) < 1:
        sentence, tone = "The converted scans are closer to the truth than the unconverted ones.", "better"
    elif min(ratios.values()) >= 1:
        sentence, tone = "The converted scans are not closer to the truth than the unconverted ones.", "worse"
    else:
        sentence = "The converted scans are closer to the truth than the unconverted ones in some regions only."
        tone = "" if key < 1 else "worse"
    line = f"Mean absolute error, converted versus unconverted: {'; '.join(parts)}."
    return Verdict(name, [sentence, line], _tone(tone, counts), counts)


def _tone(tone: str, counts: Mapping[str, int] | None) -> str:
    """Return the tone of the frame: worse if a case failed, and not better if a case is for review."""
    if counts and counts.get("fail"):
        return "worse"
    return "" if counts and counts.get("review") and tone == "better" else tone


def _error_text(system: System, column: str) -> tuple[str, float | None]:
    """Return an error as text, and its ratio to the source's error (None without a source)."""
    entry, stats, pairs = measure(column, system), system.summary.metrics[column], system.pairs(column)
    region = entry.label.removeprefix("MAE ")
    if not pairs:
        interval = bracket(stats.mean_interval, entry.digits)
        return f"{number(stats.mean, entry.digits)}{interval} {entry.unit} {region}".replace("  ", " "), None
    ours, source = (statistics.fmean(side) for side in zip(*pairs, strict=True))
    text = f"{number(ours, entry.digits)} {entry.unit}".strip() + f" {region} versus {number(source, entry.digits)}"
    with_error = sum(column in case.metrics for case in system.cases)
    text += f" in the {len(pairs)} of {with_error} cases with a source" if len(pairs) < with_error else ""
    ratio = ours / source if source else math.inf if ours else 1.0
    return text + (f" ({percent(ratio)} of it)" if source else ""), ratio


def subject(systems: Sequence[System]) -> Table:
    """Return the table of images, model and reference, with one column per system."""
    described = [_subject(system) for system in systems]
    labels = list(dict.fromkeys(label for entry in described for label in entry))
    heads = [Head("", words=True), *(Head(system.name, words=True) for system in systems)]
    return Table(heads, [[text_cell(label), *(text_cell(entry.get(label)) for entry in described)] for label in labels])


def _subject(system: System) -> dict[str, str]:
    options, provenance = system.summary.settings, system.summary.provenance
    roles = {"converted images": options.prediction, "unconverted source": options.source, "truth": options.reference}
    text = {label: path for label, path in roles.items() if path}
    for group, about in (("conversion", provenance.conversion), ("model", provenance.model)):
        for key, value in flat(about):
            if group == "conversion" or key.startswith(FRONT):
                text[f"{group}: {key}"] = _short(value)
    failed = len(system.summary.failures)
    text["cases"] = f"{len(system.cases)} evaluated" + (f", {failed} not evaluated" if failed else "")
    if system.summary.finished:
        text["evaluated"] = system.summary.finished[:16].replace("T", " ")
    return text


def _short(value: str) -> str:
    """Shorten hashes to twelve characters and other long values to `LONGEST`; the settings have the full values."""
    most = 12 if " " not in value and len(value) >= 32 else LONGEST
    return value if len(value) <= most else value[:most] + "…"


def settings(systems: Sequence[System]) -> Table:
    """Return the table of all settings and the provenance, with one column per system."""
    described = [_settings(system) for system in systems]
    labels = list(dict.fromkeys(label for entry in described for label in entry))
    heads = [Head("", words=True), *(Head(system.name, words=True) for system in systems)]
    return Table(heads, [[text_cell(label), *(text_cell(entry.get(label)) for entry in described)] for label in labels])


def _settings(system: System) -> dict[str, str]:
    summary = system.summary
    options = summary.settings.model_dump(exclude_unset=True)
    limits = options.pop("thresholds", None)
    lines = dict(flat(options))
    if summary.data_range is not None:
        lines["data range"] = f"{summary.data_range:g} ({summary.data_range_origin})"
    lines |= {f"structure check: {key}": value for key, value in flat(limits)}
    lines |= {key: value for key, value in flat(summary.provenance.model_dump(exclude_unset=True))}
    if summary.seconds is not None:
        lines["evaluation time"] = f"{summary.seconds:.0f} s"
    return lines | {"evaluated with": f"medgen {summary.medgen}", "results": str(system.folder)}


def flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested mappings to (key path, text); lists are joined by commas, empty values are left out."""
    if isinstance(content, Mapping):
        return [
            item for key, value in content.items() for item in flat(value, f"{prefix} {key}".strip().replace("_", " "))
        ]
    if content is None or content == "" or content == []:
        return []
    if isinstance(content, list):
        return [(prefix, ", ".join(map(str, content)))]
    return [(prefix, str(content))]


def differences(systems: Sequence[System]) -> list[str]:
    """Return sentences on why the results of several systems may not be comparable."""
    found = []
    sets = {system.name: {case.name for case in system.cases} for system in systems}
    if len({frozenset(names) for names in sets.values()}) > 1:
        counts = ", ".join(f"{name} {len(cases)}" for name, cases in sets.items())
        found.append(f"The systems were evaluated on different cases ({counts}): compare them case by case only.")
    for key, what in (("data_range", "data range"), ("profile", "profile"), ("unit", "unit")):
        values = {system.name: getattr(system.summary, key) for system in systems}
        if len(set(map(str, values.values()))) > 1:
            listed = ", ".join(f"{name} {value}" for name, value in values.items())
            found.append(f"The systems were evaluated with a different {what} ({listed}): do not compare them.")
    masks = {system.name: str(system.summary.settings.mask or "none") for system in systems}
    if len(set(masks.values())) > 1:
        listed = ", ".join(f"{name} {value}" for name, value in masks.items())
        found.append(
            f"The systems were evaluated in different masks ({listed}): do not compare their measures in the mask."
        )
    truths = {str(system.summary.settings.reference) for system in systems}
    if len(truths) > 1:
        found.append(f"The truth images of the systems come from different folders ({', '.join(sorted(truths))}).")
    sources = {system.name: str(system.summary.settings.source) for system in systems}
    if len(set(sources.values())) > 1:
        listed = ", ".join(f"{name} {folder}" for name, folder in sources.items())
        found.append(
            f"The unconverted sources of the systems come from different folders ({listed}): what is shown of the "
            f"source is that of {systems[0].name}."
        )
    if changed := _changed_baseline(systems):
        found.append(
            f"The error of the unconverted source depends on the system in {len(changed)} cases, such as {changed[0]}: "
            "its images or the truth were changed between the evaluations. Evaluate both systems again."
        )
    return found


def _changed_baseline(systems: Sequence[System]) -> list[str]:
    """Cases whose source has another error to the truth in another system with the same paths and metrics."""
    settings = [
        (given.source, given.reference, given.mask, summary.data_range, summary.profile, summary.unit)
        for summary in (s.summary for s in systems)
        for given in [summary.settings]
    ]
    if len(set(map(str, settings))) > 1:
        return []
    first = {case.name: case.metrics for case in systems[0].cases}
    return sorted(
        {
            case.name
            for system in systems[1:]
            for case in system.cases
            for name, value in case.metrics.items()
            if name.startswith("source_") and not math.isclose(value, first.get(case.name, {}).get(name, value))
        }
    )


def warned(systems: Sequence[System]) -> list[str]:
    """Return the warnings of the evaluations, with the system's name if there are several systems."""
    several = len(systems) > 1
    return [(f"{system.name}: " if several else "") + text for system in systems for text in system.summary.warnings]


def refused(systems: Sequence[System]) -> list[tuple[str, str]]:
    """Return (case, reason) of all cases that could not be evaluated."""
    several = len(systems) > 1
    return [
        ((f"{system.name}: " if several else "") + entry.case, entry.error)
        for system in systems
        for entry in system.summary.failures
    ]

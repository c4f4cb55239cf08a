"""The first page in words: how far the converted scans are from the truth, and what the structure check said."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgen.evaluation.metrics.catalogue import headline
from medgen.reports.metric_display import measure, worst_by
from medgen.reports.results import System
from medgen.reports.tables import Head, Table, bracket, number, percent, words

FRONT = ("name", "method", "step", "trained", "date", "weights", "data", "commit")  # of a model, on the first page
LONGEST = 48  # letters of a value on the first page


@dataclass(frozen=True)
class Verdict:
    """``name`` of the system (empty if it is the only one), plain sentences, ``tone`` of the frame (better,
    worse or empty), and how many cases ``passed``, are for ``review`` and ``failed`` the structure check, if any."""

    name: str
    lines: Sequence[str]
    tone: str
    counts: Mapping[str, int] | None


def verdicts(systems: Sequence[System]) -> list[Verdict]:
    """One for each system."""
    return [_verdict(system, system.name if len(systems) > 1 else "") for system in systems]


def _verdict(system: System, name: str) -> Verdict:
    counts = system.summary.structure.counts or None
    if not system.cases:
        return Verdict(name, ["No case could be measured."], "worse", counts)
    parts, ratios = [], {}
    for column in (column for column in headline() if column.endswith("mae")):
        if column not in system.summary.metrics:
            continue
        text, ratio = _part(system, column)
        parts.append(text)
        if ratio is not None:
            ratios[column] = ratio
    if not parts:
        line = "There is no truth to compare with: this shows what the conversion changed, not whether that is right."
        return Verdict(name, [line], _tone("", counts), counts)
    if not ratios:
        lines = [f"Mean absolute error: {'; '.join(parts)}. No unconverted source to compare with."]
        return Verdict(name, lines, _tone("", counts), counts)
    key = ratios[worst_by(system)] if worst_by(system) in ratios else next(iter(ratios.values()))
    if max(ratios.values()) < 1:
        head, tone = "The converted scans are closer to the truth than the unconverted ones.", "better"
    elif min(ratios.values()) >= 1:
        head, tone = "The converted scans are not closer to the truth than the unconverted ones.", "worse"
    else:
        head = "The converted scans are closer to the truth than the unconverted ones in part only."
        tone = "" if key < 1 else "worse"
    line = f"Mean absolute error, converted against unconverted: {'; '.join(parts)}."
    return Verdict(name, [head, line], _tone(tone, counts), counts)


def _tone(tone: str, counts: Mapping[str, int] | None) -> str:
    """A failed case makes no frame green."""
    if counts and counts.get("fail"):
        return "worse"
    return "" if counts and counts.get("review") and tone == "better" else tone


def _part(system: System, column: str) -> tuple[str, float | None]:
    """An error in words, and what part of the source's it is (None without a source)."""
    of, stats, pairs = measure(column, system), system.summary.metrics[column], system.pairs(column)
    place = of.label.removeprefix("MAE ")
    if not pairs:
        interval = bracket(stats.mean_interval, of.digits)
        return f"{number(stats.mean, of.digits)}{interval} {of.unit} {place}".replace("  ", " "), None
    ours, source = (statistics.fmean(side) for side in zip(*pairs, strict=True))
    text = f"{number(ours, of.digits)} {of.unit}".strip() + f" {place} against {number(source, of.digits)}"
    ratio = ours / source if source else math.inf if ours else 1.0
    return text + (f" ({percent(ratio)} of it)" if source else ""), ratio


def subject(systems: Sequence[System]) -> Table:
    """What was converted, by which model, and compared with what: a column a system."""
    described = [_subject(system) for system in systems]
    labels = list(dict.fromkeys(label for of in described for label in of))
    heads = [Head("", words=True), *(Head(system.name, words=True) for system in systems)]
    return Table(heads, [[words(label), *(words(of.get(label)) for of in described)] for label in labels])


def _subject(system: System) -> dict[str, str]:
    given, provenance = system.summary.settings, system.summary.provenance
    roles = {"converted images": given.prediction, "unconverted source": given.source, "truth": given.reference}
    text = {label: path for label, path in roles.items() if path}
    for group, about in (("conversion", provenance.conversion), ("model", provenance.model)):
        for key, value in flat(about):
            if group == "conversion" or key.startswith(FRONT):
                text[f"{group}: {key}"] = _short(value)
    failed = len(system.summary.failures)
    text["cases"] = f"{len(system.cases)} measured" + (f", {failed} not measured" if failed else "")
    if system.summary.finished:
        text["evaluated"] = system.summary.finished[:16].replace("T", " ")
    return text


def _short(value: str) -> str:
    """Hashes by their first twelve letters, other long values cut; the whole of it stands among the settings."""
    most = 12 if " " not in value and len(value) >= 32 else LONGEST
    return value if len(value) <= most else value[:most] + "…"


def settings(systems: Sequence[System]) -> Table:
    """Every setting and the whole provenance, a column a system."""
    described = [_settings(system) for system in systems]
    labels = list(dict.fromkeys(label for of in described for label in of))
    heads = [Head("", words=True), *(Head(system.name, words=True) for system in systems)]
    return Table(heads, [[words(label), *(words(of.get(label)) for of in described)] for label in labels])


def _settings(system: System) -> dict[str, str]:
    summary = system.summary
    given = summary.settings.model_dump(exclude_unset=True)
    limits = given.pop("thresholds", None)
    lines = dict(flat(given))
    if summary.data_range is not None:
        lines["data range"] = f"{summary.data_range:g} ({summary.data_range_origin})"
    lines |= {f"structure check: {key}": value for key, value in flat(limits)}
    lines |= {key: value for key, value in flat(summary.provenance.model_dump(exclude_unset=True))}
    if summary.seconds is not None:
        lines["time for measuring"] = f"{summary.seconds:.0f} s"
    return lines | {"evaluated with": f"medgen {summary.medgen}", "results": str(system.folder)}


def flat(content: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as (name of all levels, text); lists of plain values in a line; what is absent left out."""
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
    """Why numbers of several systems might not be comparable, in sentences."""
    found = []
    sets = {system.name: {case.name for case in system.cases} for system in systems}
    if len({frozenset(names) for names in sets.values()}) > 1:
        counts = ", ".join(f"{name} {len(cases)}" for name, cases in sets.items())
        found.append(f"The systems were not measured on the same cases ({counts}): compare only case by case.")
    for key, what in (("data_range", "data range"), ("profile", "profile"), ("unit", "unit")):
        values = {system.name: getattr(system.summary, key) for system in systems}
        if len(set(map(str, values.values()))) > 1:
            listed = ", ".join(f"{name} {value}" for name, value in values.items())
            found.append(f"The systems were measured with a different {what} ({listed}): do not compare.")
    truths = {str(system.summary.settings.reference) for system in systems}
    if len(truths) > 1:
        found.append(f"The systems were measured against different truths ({', '.join(sorted(truths))}).")
    return found


def warned(systems: Sequence[System]) -> list[str]:
    """The warnings of the evaluations, with the system's name where there are several."""
    several = len(systems) > 1
    return [(f"{system.name}: " if several else "") + text for system in systems for text in system.summary.warnings]


def refused(systems: Sequence[System]) -> list[tuple[str, str]]:
    """(case, sentence) of all that could not be measured."""
    several = len(systems) > 1
    return [
        ((f"{system.name}: " if several else "") + of.case, of.error)
        for system in systems
        for of in system.summary.failures
    ]

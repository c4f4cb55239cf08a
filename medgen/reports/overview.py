"""First page of the report: errors of the converted scans, results of the structure check, study data, warnings."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medgen.evaluation.metrics.catalogue import headline
from medgen.evaluation.summary_file import file_hashes
from medgen.reports.metric_display import measure, worst_by
from medgen.reports.results import System
from medgen.reports.tables import Head, Table, bracket, number, percent, text_cell

FRONT = ("name", "method", "step", "trained", "date", "weights", "data", "commit")  # model keys shown on the first page
SHARED = {  # roles whose files several systems have in common
    "reference": "truth",
    "source": "unconverted source",
    "labels": "label map",
    "mask": "mask",
    "lesions": "lesion mask",
}
OWN_SETTINGS = {*SHARED, "prediction", "prediction_labels", "training_images"}
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
    for key, what in (("data_range", "data range"), ("unit", "unit")):
        found += _different(what, {system.name: getattr(system.summary, key) for system in systems})
    given = {system.name: dict(flat(system.summary.settings.model_dump(exclude=OWN_SETTINGS))) for system in systems}
    for key in dict.fromkeys(key for options in given.values() for key in options):
        found += _different(key, {name: options.get(key, "none") for name, options in given.items()})
    found += _other_files(systems)
    patients = {s.name: {case.case: case.patient or case.case for case in s.summary.cases} for s in systems}
    other = sorted(case for case in set.intersection(*sets.values()) if len({p[case] for p in patients.values()}) > 1)
    if other:
        found.append(
            f"The systems name different patients for {len(other)} cases, such as {other[0]}: for the tests, cases are "
            "of one patient if any evaluation says so. Evaluate both with the same --patient-pattern."
        )
    return found


def _different(what: str, values: Mapping[str, Any]) -> list[str]:
    """A sentence if {system: value} are not all equal."""
    if len(set(map(str, values.values()))) < 2:
        return []
    listed = ", ".join(f"{name} {value}" for name, value in values.items())
    return [f"The systems were evaluated with a different {what} ({listed}): do not compare what depends on it."]


def _other_files(systems: Sequence[System]) -> list[str]:
    """Sentences on images that are not those of the first system; by path where an older evaluation has no hashes."""
    found = []
    for role, what in SHARED.items():
        folders = {str(getattr(system.summary.settings, role) or "none") for system in systems}
        by_case: dict[str, list[str]] = {}
        for system in systems:
            for case in system.summary.cases:
                by_case.setdefault(case.case, []).append(case.hashes.get(role, ""))
        other = sorted(case for case, hashes in by_case.items() if len(set(hashes) - {""}) > 1)
        if other:
            found.append(
                f"The {what} of {len(other)} cases, such as {other[0]}, is another file in the other system, or was "
                "changed between the evaluations: do not compare what depends on it. Evaluate all with the same files."
            )
        elif len(folders) > 1 and not all(all(hashes) for hashes in by_case.values()):
            found.append(f"The {what} of the systems is in different folders ({', '.join(sorted(folders))}).")
    return found


def changed_files(systems: Sequence[System]) -> list[str]:
    """Sentences on files that were changed after the evaluation: pictures show them, numbers do not."""
    found = []
    for system in systems:
        changed = [
            path
            for case in system.summary.cases
            for role, path in case.files.items()
            if role in case.hashes and path.exists() and file_hashes({role: path}) != {role: case.hashes[role]}
        ]
        if changed:
            found.append(
                f"{system.name}: {len(changed)} files, such as {changed[0]}, were changed after the evaluation: the "
                "numbers are those of the old files, the pictures those of the new ones. Evaluate again."
            )
    return found


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

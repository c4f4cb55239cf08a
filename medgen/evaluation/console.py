"""Format the results of an evaluation as lines for the console."""

from collections import Counter
from typing import Any

from medgen.evaluation.summary import Evaluation, excluded_values_text
from medgen.evaluation.summary_file import Statistics, Summary

SHOWN = 5  # maximum number of listed cases that did not pass; the report lists all


def console_lines(evaluation: Evaluation) -> list[str]:
    """Return lines with warnings, means of prediction and source, set distances, verdicts and downstream Dice."""
    printed = [f"warning: {text}" for text in evaluation.warnings]
    statistics = evaluation.statistics()
    for name, values in statistics.items():
        if not name.startswith("source_") and (shown := _mean(values)):
            before = statistics.get(f"source_{name}", Statistics()).mean
            printed.append(f"{name:15s} {shown}{_source_note(before)}")
    sections_summary = Summary(cases=[], **evaluation.sections)
    for distance in sections_summary.distribution:
        if distance.value is not None:
            printed.append(f"{distance.metric} {distance.value:.4g}{_source_note(distance.source_value)}")
            printed += [f"  note: {note}" for note in distance.notes]
    for row in sections_summary.downstream.rows:
        if row.label == "mean" and row.dice_mean is not None:
            printed.append(f"{row.protocol}: Dice {row.dice_mean:.3f}")
    memorisation = sections_summary.memorisation
    if memorisation is not None and memorisation.flagged:
        copies = [pair.synthetic for pair in memorisation.closest if pair.flagged]
        printed.append(
            "memorisation: flagged" + (f", copies of training volumes: {', '.join(copies)}" if copies else "")
        )
    return printed + _verdicts(evaluation)


def _mean(values: Statistics) -> str:
    """Return text with the mean and the number of values excluded from it; empty if nothing was measured."""
    mean = [] if values.mean is None else [f"{values.mean:.4g}"]
    return ", ".join([*mean, *filter(None, [excluded_values_text(values)])])


def _source_note(source: float | None) -> str:
    return "" if source is None else f"  (unconverted source {source:.4g})"


def _verdicts(evaluation: Evaluation) -> list[str]:
    checked: list[tuple[str, Any]] = [(case.name, case.structure) for case in evaluation.cases if case.structure]
    if not checked:
        return []
    counts = Counter(verdict["status"] for _, verdict in checked)
    printed = ["structure check: " + ", ".join(f"{counts[status]} {status}" for status in ("pass", "review", "fail"))]
    not_passed = sorted((item for item in checked if item[1]["reasons"]), key=lambda item: item[1]["status"] != "fail")
    for name, verdict in not_passed[:SHOWN]:
        rest = f" (and {len(verdict['reasons']) - 1} more)" if len(verdict["reasons"]) > 1 else ""
        printed.append(f"  {name}: {verdict['status']}: {verdict['reasons'][0]}{rest}")
    return printed + ([f"  ... and {len(not_passed) - SHOWN} more"] if len(not_passed) > SHOWN else [])

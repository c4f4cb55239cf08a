"""What an evaluation found, as lines for the console."""

from collections import Counter
from typing import Any

from medgen.evaluation.summary import Evaluation, infinite_ones
from medgen.evaluation.summary_file import Statistics, Summary

SHOWN = 5  # cases that do not pass; the report has all


def lines(evaluation: Evaluation) -> list[str]:
    """Warnings, means beside the unconverted source, distances of sets, verdicts, downstream Dice."""
    found = [f"warning: {text}" for text in evaluation.warnings]
    statistics = evaluation.statistics()
    for name, values in statistics.items():
        if not name.startswith("source_") and (shown := _mean(values)):
            before = statistics.get(f"source_{name}", Statistics()).mean
            found.append(f"{name:15s} {shown}{_beside(before)}")
    together = Summary(cases=[], **evaluation.sections)
    for distance in together.distribution:
        if distance.value is not None:
            found.append(f"{distance.metric} {distance.value:.4g}{_beside(distance.source_value)}")
    for row in together.downstream.rows:
        if row.label == "mean" and row.dice_mean is not None:
            found.append(f"{row.protocol}: Dice {row.dice_mean:.3f}")
    memorisation = together.memorisation
    if memorisation is not None and memorisation.flagged:
        copies = [pair.synthetic for pair in memorisation.closest if pair.flagged]
        found.append("memorisation: flagged" + (f", copies of training volumes: {', '.join(copies)}" if copies else ""))
    return found + _verdicts(evaluation)


def _mean(values: Statistics) -> str:
    """The mean and how many values it leaves out; empty where nothing was measured."""
    mean = [] if values.mean is None else [f"{values.mean:.4g}"]
    return ", ".join([*mean, *filter(None, [infinite_ones(values)])])


def _beside(source: float | None) -> str:
    return "" if source is None else f"  (unconverted source {source:.4g})"


def _verdicts(evaluation: Evaluation) -> list[str]:
    checked: list[tuple[str, Any]] = [(case.name, case.structure) for case in evaluation.cases if case.structure]
    if not checked:
        return []
    counts = Counter(of["status"] for _, of in checked)
    found = ["structure check: " + ", ".join(f"{counts[status]} {status}" for status in ("pass", "review", "fail"))]
    wanting = sorted((item for item in checked if item[1]["reasons"]), key=lambda item: item[1]["status"] != "fail")
    for name, of in wanting[:SHOWN]:
        more = f" (and {len(of['reasons']) - 1} more)" if len(of["reasons"]) > 1 else ""
        found.append(f"  {name}: {of['status']}: {of['reasons'][0]}{more}")
    return found + ([f"  ... and {len(wanting) - SHOWN} more"] if len(wanting) > SHOWN else [])

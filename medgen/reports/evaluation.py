"""An `Evaluation` as one self-contained HTML page: verdict, main numbers, regions, cases, pictures."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medgen.evaluation.summary import CaseResult, Evaluation
from medgen.reports.figures import case_picture
from medgen.reports.pages import number, percent, write_page
from medgen.types import InputError

MOST_FIGURES = 8  # about 250 kB each: the page stays a mail attachment
# Columns of cases.csv in the order of the page: name, table head, row label, unit-bearing, higher is better.
MEASURES = (
    ("enhancing_mae", "MAE in enhancing structures", True, False),
    ("body_mae", "MAE in the body", True, False),
    ("mae", "MAE", True, False),
    ("body_psnr", "PSNR in the body", False, True),
    ("psnr", "PSNR", False, True),
    ("body_ssim", "SSIM in the body", False, True),
    ("ssim", "SSIM", False, True),
    ("slice_jump", "Slice jump", False, False),
)


def write_report(
    evaluation: Evaluation,
    out_html: Path,
    *,
    title: str = "Evaluation of converted scans",
    notes: Sequence[str] = (),
    warnings: Sequence[str] = (),
    most_figures: int = MOST_FIGURES,
) -> Path:
    """Write the report of an evaluation; pictures are made from the case files, one case at a time.

    Args:
        out_html: the file to write; one file, no network needed to show it.
        notes: paragraphs put below the verdict (model, training time, intended use).
        warnings: shown in red above the evaluation's own warnings.
        most_figures: cases with a picture: the worst, then the median and the best one.

    Returns ``out_html``. Raises `InputError` if it cannot be written; a case whose files have gone since gets
    a sentence in place of its picture.
    """
    worst_by = _worst_by(evaluation)
    cases = sorted(evaluation.cases, key=lambda case: -case.metrics.get(worst_by, math.inf))
    return write_page(
        "evaluation.html.j2",
        out_html,
        title=title,
        evaluation=evaluation,
        verdict=_verdict(evaluation, worst_by),
        notes=list(notes),
        warnings=[*warnings, *evaluation.warnings],
        main=[row for measure in MEASURES if (row := _main_row(evaluation, *measure))],
        regions=evaluation.regions(),
        digits=_digits(evaluation),
        cases=cases,
        columns=_columns(evaluation),
        worst_by=_label(worst_by, evaluation),
        figures=[_figure(case, why, evaluation) for case, why in _chosen(cases, most_figures)],
        settings=_settings(evaluation),
    )


def _worst_by(evaluation: Evaluation) -> str:
    """The column that says best which case is worst: the most specific error that every case has."""
    for name in ("enhancing_mae", "body_mae"):
        if evaluation.cases and all(name in case.metrics for case in evaluation.cases):
            return name
    return "mae"


def _label(name: str, evaluation: Evaluation) -> str:
    label = next(label for measure, label, *_ in MEASURES if measure == name)
    where = "" if "_" in name else " in the mask" if evaluation.settings.get("mask") else " in the whole volume"
    return label + where


def _verdict(evaluation: Evaluation, worst_by: str) -> dict[str, Any]:
    """One or two plain sentences, and the tone of their frame: better, worse or none."""
    if not evaluation.cases:
        return {"lines": ["No case could be measured."], "tone": "worse"}
    names = [name for name, *_ in MEASURES if name.endswith("mae")]
    stats, unit, digits = evaluation.statistics(), evaluation.unit, _digits(evaluation)
    parts, ratios = [], {}
    for name in names:
        pairs = _pairs(evaluation, name)
        if name not in stats:
            continue
        place = _label(name, evaluation).removeprefix("MAE ")
        text = f"{number(stats[name]['mean'], digits)} {unit}".strip() + f" {place}"
        if pairs:
            ours, source = (statistics.fmean(column) for column in zip(*pairs, strict=True))
            ratios[name] = ours / source if source else math.inf if ours else 1.0
            text = f"{number(ours, digits)} {unit}".strip() + f" {place} against {number(source, digits)}"
            text += f" ({percent(ratios[name])} of it)" if source else ""
        parts.append(text)
    if not ratios:
        return {
            "lines": [f"Mean absolute error: {'; '.join(parts)}. No unconverted source to compare with."],
            "tone": "",
        }
    key = ratios[worst_by] if worst_by in ratios else next(iter(ratios.values()))
    if max(ratios.values()) < 1:
        head, tone = "The converted scans are closer to the truth than the unconverted ones.", "better"
    elif min(ratios.values()) >= 1:
        head, tone = "The converted scans are not closer to the truth than the unconverted ones.", "worse"
    else:
        head = "The converted scans are closer to the truth than the unconverted ones in part only."
        tone = "" if key < 1 else "worse"
    return {
        "lines": [head, f"Mean absolute error, converted against unconverted: {'; '.join(parts)}."],
        "tone": tone,
    }


def _main_row(evaluation: Evaluation, name: str, label: str, in_units: bool, higher: bool) -> dict[str, Any] | None:
    """A line of the main table; None if nobody has the measure. Changes compare the cases that have both."""
    stats = evaluation.statistics()
    if name not in stats:
        return None
    pairs = _pairs(evaluation, name)
    ours, source = stats[name], stats.get(f"source_{name}", {})
    change = statistics.fmean(a - b for a, b in pairs) if pairs else None
    better = sum(a > b if higher else a < b for a, b in pairs)
    unit = evaluation.unit if in_units else "dB" if "psnr" in name else ""
    return {
        "label": _label(name, evaluation) + (f" ({unit})" if unit else ""),
        "digits": _digits(evaluation) if in_units else 2 if "psnr" in name else 4,
        "mean": ours["mean"],
        "std": ours["std"],
        "median": ours["median"],
        "source_mean": source.get("mean"),
        "source_std": source.get("std"),
        "change": change,
        "improved": f"{better} of {len(pairs)}" if pairs else "–",
        "tone": "" if not change else "good" if (change > 0) == higher else "bad",
    }


def _pairs(evaluation: Evaluation, name: str) -> list[tuple[float, float]]:
    """(converted, source) of the cases in which both were measured and are finite."""
    pairs = [(c.metrics.get(name, math.nan), c.metrics.get(f"source_{name}", math.nan)) for c in evaluation.cases]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


def _columns(evaluation: Evaluation) -> list[dict[str, Any]]:
    stats = evaluation.statistics()
    columns = []
    for name, label, in_units, _ in MEASURES:
        for column, is_source in ((name, False), (f"source_{name}", True)):
            if column in stats:
                digits = _digits(evaluation) if in_units else 2 if "psnr" in name else 4
                head = label.replace("in enhancing structures", "enhancing").replace("in the ", "").split()
                columns.append({"name": column, "head": head, "source": is_source, "digits": digits})
    return columns


def _chosen(cases: Sequence[CaseResult], most: int) -> list[tuple[CaseResult, str]]:
    """The cases to picture, worst first: all if few, else the worst, the median and the best."""
    count = len(cases)
    if count <= most:
        return [(case, f"{_rank(index, count)}. ") for index, case in enumerate(cases)]
    extra = [count // 2, count - 1] if most > 2 else []
    return [(cases[index], f"{_rank(index, count)}. ") for index in [*range(most - len(extra)), *extra]]


def _rank(index: int, count: int) -> str:
    if count == 1:
        return "The only case"
    if index in (0, count - 1):
        return "Worst case" if index == 0 else "Best case"
    return "Median case" if index == count // 2 else f"Number {index + 1} of {count} from the worst"


def _figure(case: CaseResult, why: str, evaluation: Evaluation) -> dict[str, Any]:
    numbers, digits = [], _digits(evaluation)
    for name, _, in_units, _ in MEASURES:
        if in_units and name in case.metrics:
            text = f"{_label(name, evaluation)} {number(case.metrics[name], digits)} {evaluation.unit}"
            source = case.metrics.get(f"source_{name}")
            numbers.append(text.strip() + (f" (source {number(source, digits)})" if source is not None else ""))
    item: dict[str, Any] = {"case": case, "why": why, "numbers": "; ".join(numbers), "picture": None}
    try:
        item["picture"] = case_picture(case.files)
    except InputError as error:
        item["error"] = str(error)
    return item


def _settings(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What was compared with what, in words."""
    given: Mapping[str, Any] = evaluation.settings
    lines = [
        (role, str(given[role])) for role in ("reference", "prediction", "source", "labels", "mask") if given.get(role)
    ]
    lines.append(("data range", f"{evaluation.data_range:g} ({evaluation.data_range_origin})"))
    if enhancing := given.get("structures_that_take_up_contrast"):
        lines.append(("enhancing structures", ", ".join(name.replace("_", " ") for name in enhancing)))
    lines.append(("time", f"{evaluation.seconds:.0f} s for measuring"))
    return lines


def _digits(evaluation: Evaluation) -> int:
    """Digits after the point for intensities: tenths of a HU, or four significant ones of the data range."""
    return 1 if evaluation.unit else max(0, min(8, 3 - math.floor(math.log10(evaluation.data_range))))

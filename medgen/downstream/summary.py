"""Summarise the rows of downstream protocols as a table, ``scores.csv`` and ``summary.json``."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen.environment import git_commit, versions
from medgen.evaluation.metrics.catalogue import segmentation_columns
from medgen.evaluation.statistics import bootstrap_interval, by_patient, finite_pairs, wilcoxon
from medgen.evaluation.summary import Failure
from medgen.io.atomic import write_text
from medgen.io.spreadsheet import csv_text

BASELINE = "real_to_real"
METRICS = segmentation_columns()
COLUMNS = ("protocol", "fold", "seed", "case", "patient", "label", *METRICS)

Row = dict[str, Any]  # {column: value}; of scores.csv, or of the summary (see `summarise`)


@dataclass(frozen=True)
class Downstream:
    """``rows``: one per protocol, fold, seed, test case and label. ``failures``: unusable cases with their reasons."""

    rows: list[Row]
    failures: list[Failure]


def summarise(rows: Sequence[Row]) -> list[Row]:
    """Return one row per protocol and label, and one over all labels ("mean").

    Keys of a row:

    - ``cases``: number of test cases;
    - ``distances``: number of surface distances, one per case, label and run;
    - ``infinite``: number of distances that are infinite, because the label is only in the reference or only in the
      prediction;
    - ``dice``, ``hd95``, ``assd``, ``surface_dice``: means of the finite values;
    - ``sd_of_runs``: standard deviation of the mean Dice over folds and seeds;
    - ``gain``: mean Dice minus that of real_to_real on the same case, label, fold and seed; None without such pairs;
    - ``gain_interval``: its 95 % bootstrap interval over patients, None for a single patient;
    - ``gain_p``: p-value of the signed-rank test of the patients' mean gains.
    """
    base = {_pair(row): row["dice"] for row in rows if row["protocol"] == BASELINE}
    summary_rows = []
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        protocol_rows = [row for row in rows if row["protocol"] == protocol]
        labels = sorted({row["label"] for row in protocol_rows})
        for label in [*labels, "mean"]:
            group = [row for row in protocol_rows if label in (row["label"], "mean")]
            paired = [row for row in group if protocol != BASELINE and _pair(row) in base]
            runs = {_run(row) for row in group}
            run_means = [m for run in runs if (m := _mean(r["dice"] for r in group if _run(r) == run)) is not None]
            summary_rows.append(
                {
                    "protocol": protocol,
                    "label": label,
                    "cases": len({row["case"] for row in group}),
                    "infinite": sum(math.isinf(row["hd95"]) for row in group),
                    "distances": sum(not math.isnan(row["hd95"]) for row in group),
                    **{metric: _mean(row[metric] for row in group) for metric in METRICS[:4]},
                    "sd_of_runs": float(np.std(run_means, ddof=1)) if len(run_means) > 1 else None,
                    **_gain([row["dice"] - base[_pair(row)] for row in paired], [row["patient"] for row in paired]),
                }
            )
    return summary_rows


def _gain(gains: Sequence[float], patients: Sequence[str]) -> dict[str, Any]:
    result = bootstrap_interval(gains, patients=patients)
    values, _, owners, _ = finite_pairs(gains, gains, patients)
    patient_means = [group.mean() for group in by_patient(values, owners)]
    return {
        "gain": None if math.isnan(result.value) else result.value,
        "gain_interval": None if math.isnan(result.low) else [result.low, result.high],
        "gain_p": wilcoxon(patient_means, [0.0] * len(patient_means)).p if patient_means else None,
    }


def _run(row: Row) -> tuple[Any, ...]:
    return row["fold"], row["seed"]


def _pair(row: Row) -> tuple[Any, ...]:
    """Return a key that is equal for rows of the same case: its name without the prefix ``real/`` or ``synthetic/``."""
    return row["fold"], row["seed"], row["case"].partition("/")[2], row["patient"], row["label"]


def _mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def markdown(summary: Sequence[Row]) -> str:
    """Format the summary as a Markdown table."""
    columns = {"dice": "Dice", "hd95": "HD95 (mm)", "assd": "ASSD (mm)", "surface_dice": "surface Dice"}
    columns |= {"cases": "cases", "infinite": "infinite", "sd_of_runs": "SD of runs", "gain": "gain in Dice"}
    columns |= {"gain_interval": "95 % interval", "gain_p": "p"}
    lines = [" | ".join(("", "protocol", "label", *columns.values(), "")).strip(), "|---" * (2 + len(columns)) + "|"]
    for row in summary:
        cells = (row["protocol"], str(row["label"]), *(_cell(row[c]) for c in columns))
        lines.append(" | ".join(("", *cells, "")).strip())
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_cell(end) for end in value)
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def write(out: Path, result: Downstream, settings: Mapping[str, Any]) -> None:
    """Write ``scores.csv`` (``inf``: distance to an absent label; empty: undefined) and ``summary.json``."""
    write_text(out / "scores.csv", csv_text(COLUMNS, result.rows, digits=6))
    content = {
        "summary": summarise(result.rows),
        "failures": [asdict(failure) for failure in result.failures],
        **settings,
        "versions": versions(),
        "commit": git_commit(),
    }
    write_text(out / "summary.json", json.dumps(content, indent=1, default=str) + "\n")

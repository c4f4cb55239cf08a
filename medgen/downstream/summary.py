"""The rows that downstream protocols give, and what they come to: a table, ``scores.csv`` and ``summary.json``."""

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

Row = dict[str, Any]  # the columns above


@dataclass(frozen=True)
class Downstream:
    """``rows``: one a protocol, fold, seed, test case and label. ``failures``: what could not be used, and why."""

    rows: list[Row]
    failures: list[Failure]


def summarise(rows: Sequence[Row]) -> list[Row]:
    """A row a protocol and label, and one of all its labels ("mean").

    ``cases``: test cases; ``infinite``: how many of the ``distances`` (one a case, label and run) are, the label being
    in the truth or the prediction alone; ``dice``, ``hd95``, ``assd``, ``surface_dice``: means where they are finite;
    ``sd_of_runs``: standard deviation of the mean Dice over folds and seeds; ``gain``: mean Dice above that of
    real_to_real on the same case, label, fold and seed, None where there is no such pair; ``gain_interval``: its 95 %
    bootstrap interval over patients, None from one; ``gain_p``: signed-rank test of the patients' mean gains.
    """
    base = {_pair(row): row["dice"] for row in rows if row["protocol"] == BASELINE}
    made = []
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        mine = [row for row in rows if row["protocol"] == protocol]
        labels = sorted({row["label"] for row in mine})
        for label in [*labels, "mean"]:
            group = [row for row in mine if label in (row["label"], "mean")]
            paired = [row for row in group if protocol != BASELINE and _pair(row) in base]
            runs = {_run(row) for row in group}
            of_runs = [m for run in runs if (m := _mean(r["dice"] for r in group if _run(r) == run)) is not None]
            made.append(
                {
                    "protocol": protocol,
                    "label": label,
                    "cases": len({row["case"] for row in group}),
                    "infinite": sum(math.isinf(row["hd95"]) for row in group),
                    "distances": sum(not math.isnan(row["hd95"]) for row in group),
                    **{metric: _mean(row[metric] for row in group) for metric in METRICS[:4]},
                    "sd_of_runs": float(np.std(of_runs, ddof=1)) if len(of_runs) > 1 else None,
                    **_gain([row["dice"] - base[_pair(row)] for row in paired], [row["patient"] for row in paired]),
                }
            )
    return made


def _gain(gains: Sequence[float], patients: Sequence[str]) -> dict[str, Any]:
    found = bootstrap_interval(gains, patients=patients)
    values, _, owners, _ = finite_pairs(gains, gains, patients)
    of_patients = [group.mean() for group in by_patient(values, owners)]
    return {
        "gain": None if math.isnan(found.value) else found.value,
        "gain_interval": None if math.isnan(found.low) else [found.low, found.high],
        "gain_p": wilcoxon(of_patients, [0.0] * len(of_patients)).p if of_patients else None,
    }


def _run(row: Row) -> tuple[Any, ...]:
    return row["fold"], row["seed"]


def _pair(row: Row) -> tuple[Any, ...]:
    return row["fold"], row["seed"], row["case"].partition("/")[2], row["patient"], row["label"]


def _mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def markdown(summary: Sequence[Row]) -> str:
    """The summary as a table."""
    columns = {"dice": "Dice", "hd95": "HD95 (mm)", "assd": "ASSD (mm)", "surface_dice": "surface Dice"}
    columns |= {"cases": "cases", "infinite": "infinite", "sd_of_runs": "SD of runs", "gain": "gain in Dice"}
    columns |= {"gain_interval": "95 % interval", "gain_p": "p"}
    lines = [" | ".join(("", "protocol", "label", *columns.values(), "")).strip(), "|---" * (2 + len(columns)) + "|"]
    for row in summary:
        cells = (row["protocol"], str(row["label"]), *(_shown(row[c]) for c in columns))
        lines.append(" | ".join(("", *cells, "")).strip())
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(_shown(end) for end in value)
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def write(out: Path, found: Downstream, about: Mapping[str, Any]) -> None:
    """``scores.csv`` (a distance to nothing is ``inf``, what is undefined an empty cell) and ``summary.json``."""
    write_text(out / "scores.csv", csv_text(COLUMNS, found.rows, digits=6))
    content = {
        "summary": summarise(found.rows),
        "failures": [asdict(failure) for failure in found.failures],
        **about,
        "versions": versions(),
        "commit": git_commit(),
    }
    write_text(out / "summary.json", json.dumps(content, indent=1, default=str) + "\n")

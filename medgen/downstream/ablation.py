"""Ablation: train segmenters with and without synthetic cases and compare them on the same real test cases.

| arm | trained on | classical augmentation | compared with |
|---|---|---|---|
| real | real | no | |
| classical | real | yes | real |
| synthetic | real and synthetic | no | real |
| both | real and synthetic | yes | classical |
| alone | synthetic | yes | classical |

Classical augmentation is rotation, scaling, gamma and noise of each patch (``train_segmenter``). All segmenters have
the same training budget. A *draw* is a selection of training cases; its synthetic cases were made only from these.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from medgen.downstream.protocols import run_protocols
from medgen.downstream.summary import BASELINE, METRICS, Row
from medgen.errors import InputError
from medgen.evaluation.statistics import bootstrap_interval
from medgen.evaluation.summary import Failure
from medgen.io.atomic import write_text
from medgen.io.spreadsheet import csv_text
from medgen.segmentation.train import Example

ARMS: dict[str, tuple[str, bool, str | None]] = {  # protocol, classical augmentation, compared with
    "real": (BASELINE, False, None),
    "classical": (BASELINE, True, "real"),
    "synthetic": ("both_to_real", False, "real"),
    "both": ("both_to_real", True, "classical"),
    "alone": ("synthetic_to_real", True, "classical"),
}
COLUMNS = ("arm", "generator", "draw", "seed", "case", "patient", "label", *METRICS)
MIN_DRAWS = 3  # draws; with fewer, intervals are computed over the test patients


def run_arms(
    real: Sequence[Example],
    synthetic: Mapping[str, Sequence[Example]],
    tested: Collection[str],
    out: Path,
    *,
    arms: Collection[str],
    draw: int = 0,
    seeds: Sequence[int] = (0,),
    values: Sequence[int] | None = None,
    tolerance_mm: float = 2.0,
    training: Mapping[str, Any] | None = None,
) -> tuple[list[Row], list[Failure]]:
    """Train and test the segmenters of one draw; finished results in ``out`` are reused.

    Args:
        real: the draw's training cases and all test cases.
        synthetic: {generator: its synthetic cases}; arms without synthetic cases are trained once for all generators.
        tested: patients of the test cases.
        out: folder for results and segmenters.
        arms: names of `ARMS`.
        draw: number of the draw, for the rows.
        seeds, values, tolerance_mm, training: see ``run_protocols``.

    Returns:
        Rows, one per arm, generator ("" if none), seed, test case and label; and failures.

    Raises:
        InputError: an unknown arm, or an error of ``run_protocols``.
    """
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise InputError("downstream-arm-unknown", f"{unknown[0]!r} is not an arm; choose from {', '.join(ARMS)}")
    rows: list[Row] = []
    failures: list[Failure] = []
    for generator, generated in {"": (), **synthetic}.items():
        chosen = [arm for arm in ARMS if arm in arms and (ARMS[arm][0] == BASELINE) == (not generator)]
        for classical in (False, True):
            arm_of_protocol = {ARMS[arm][0]: arm for arm in chosen if ARMS[arm][1] == classical}
            if not arm_of_protocol:
                continue
            found = run_protocols(
                real,
                generated,
                out / (generator or "real") / ("classical" if classical else "plain"),
                protocols=list(arm_of_protocol),
                folds=[tested],
                seeds=seeds,
                values=values,
                tolerance_mm=tolerance_mm,
                training={**(training or {}), "augment": classical},
            )
            run_info = {"generator": generator, "draw": draw}
            rows += [{"arm": arm_of_protocol[row["protocol"]], **run_info, **row} for row in found.rows]
            failures += found.failures
    return rows, failures


def summarise_arms(rows: Sequence[Row]) -> list[Row]:
    """Return one row per arm, generator and label, and one over all labels ("mean"), with mean Dice and its gain.

    ``dice``, ``interval``: mean and 95 % confidence interval. ``gain``, ``gain_interval``: the same for the difference
    to the baseline arm on the same case, label, draw and seed. With at least `MIN_DRAWS` draws the intervals are
    Student's t intervals over the means of the draws, which include the variation of the training cases. With fewer
    draws they are bootstrapped over the test patients, for fixed training cases. None if there is too little data.
    """
    base = {_pair(row): row["dice"] for row in rows if not row["generator"]}
    generated = []
    for arm, generator in dict.fromkeys((row["arm"], row["generator"]) for row in rows):
        arm_rows = [row for row in rows if (row["arm"], row["generator"]) == (arm, generator)]
        other = ARMS[arm][2]
        for label in [*sorted({row["label"] for row in arm_rows}), "mean"]:
            group = [row for row in arm_rows if label in (row["label"], "mean")]
            pairs = [(row, base.get((other, *_pair(row)[1:]), np.nan)) for row in group]
            dice = _interval([row["dice"] for row in group], group)
            gain = (
                _interval([row["dice"] - baseline_dice for row, baseline_dice in pairs], group)
                if other
                else (None, None)
            )
            generated.append(
                {
                    "arm": arm,
                    "generator": generator,
                    "label": label,
                    "draws": len({row["draw"] for row in group}),
                    "seeds": len({row["seed"] for row in group}),
                    "cases": len({row["case"] for row in group}),
                    "dice": dice[0],
                    "interval": dice[1],
                    "against": other,
                    "gain": gain[0],
                    "gain_interval": gain[1],
                }
            )
    return generated


def _pair(row: Row) -> tuple[Any, ...]:
    return row["arm"], row["draw"], row["seed"], row["case"], row["label"]


def _interval(values: Sequence[float], rows: Sequence[Row]) -> tuple[float | None, list[float] | None]:
    """Return the mean and its 95 % confidence interval."""
    draws = sorted({row["draw"] for row in rows})
    if len(draws) < MIN_DRAWS:
        found = bootstrap_interval(values, patients=[row["patient"] for row in rows])
        ends = [found.low, found.high]
        return _finite(found.value), None if np.isnan(ends).any() else ends
    draw_means = [np.nanmean([v for v, row in zip(values, rows, strict=True) if row["draw"] == d]) for d in draws]
    half_width = float(stats.t.ppf(0.975, len(draws) - 1) * np.std(draw_means, ddof=1) / np.sqrt(len(draws)))
    mean = _finite(float(np.mean(draw_means)))
    return mean, None if mean is None else [mean - half_width, mean + half_width]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def markdown(summary: Sequence[Row]) -> str:
    """Format the summary as a Markdown table, with the gain in Dice points (hundredths)."""
    lines = [
        "| arm | generator | label | Dice | 95 % interval | against | gain in points | 95 % interval |",
        "|---" * 8 + "|",
    ]
    for row in summary:
        cells = (
            row["arm"],
            row["generator"],
            str(row["label"]),
            _cell(row["dice"], "{:.3f}"),
            _cell(row["interval"], "{:.3f}"),
            row["against"] or "",
            _cell(row["gain"], "{:+.1f}", 100),
            _cell(row["gain_interval"], "{:+.1f}", 100),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: Any, number_format: str, factor: float = 1) -> str:
    if isinstance(value, list):
        return " to ".join(_cell(end, number_format, factor) for end in value)
    return "" if value is None else number_format.format(factor * value)


def write_scores(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as CSV."""
    write_text(path, csv_text(COLUMNS, rows))

"""Does training on synthetic cases help? Segmenters trained with and without, on the same real cases, and compared.

| arm | trained on | classical augmentation | compared with |
|---|---|---|---|
| real | real | no | |
| classical | real | yes | real |
| synthetic | real and synthetic | no | real |
| both | real and synthetic | yes | classical |
| alone | synthetic | yes | classical |

Classical augmentation is turning, scaling, gamma and noise of each patch (``train_segmenter``). Every segmenter has the
same budget. A *draw* is a choice of training cases; its synthetic cases were made from those alone.
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
FEW = 3  # draws, below which the test patients are what varies


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
    """Train and test the segmenters of one draw; what is finished in ``out`` is not done again.

    Args:
        real: the draw's training cases and all test cases.
        synthetic: cases of each generator, by its name; the arms without synthetic cases are trained once for all.
        tested: patients of the test cases.
        arms: names of `ARMS`.
        draw: its number, for the rows.
        seeds, values, tolerance_mm, training: see ``run_protocols``.

    Returns:
        A row an arm, generator ("" where there is none), seed, test case and label; and what failed.

    Raises:
        InputError: an unknown arm, or what ``run_protocols`` refuses.
    """
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise InputError("downstream-arm-unknown", f"{unknown[0]!r} is no arm; choose among {', '.join(ARMS)}")
    rows: list[Row] = []
    failures: list[Failure] = []
    for generator, made in {"": (), **synthetic}.items():
        chosen = [arm for arm in ARMS if arm in arms and (ARMS[arm][0] == BASELINE) == (not generator)]
        for classical in (False, True):
            of_protocol = {ARMS[arm][0]: arm for arm in chosen if ARMS[arm][1] == classical}
            if not of_protocol:
                continue
            found = run_protocols(
                real,
                made,
                out / (generator or "real") / ("classical" if classical else "plain"),
                protocols=list(of_protocol),
                folds=[tested],
                seeds=seeds,
                values=values,
                tolerance_mm=tolerance_mm,
                training={**(training or {}), "augment": classical},
            )
            about = {"generator": generator, "draw": draw}
            rows += [{"arm": of_protocol[row["protocol"]], **about, **row} for row in found.rows]
            failures += found.failures
    return rows, failures


def summarise_arms(rows: Sequence[Row]) -> list[Row]:
    """A row an arm, generator and label, and one of all its labels ("mean"): mean Dice, and its gain.

    ``dice``, ``interval``: mean and 95 % interval; ``gain``, ``gain_interval``: the same of the difference to the arm
    that it is compared with, on the same case, label, draw and seed. From `FEW` draws on the intervals are Student's
    over the means of the draws (another choice of training cases), below that bootstrapped over the test patients (the
    training cases as they are). None where there is too little to tell.
    """
    base = {_pair(row): row["dice"] for row in rows if not row["generator"]}
    made = []
    for arm, generator in dict.fromkeys((row["arm"], row["generator"]) for row in rows):
        mine = [row for row in rows if (row["arm"], row["generator"]) == (arm, generator)]
        other = ARMS[arm][2]
        for label in [*sorted({row["label"] for row in mine}), "mean"]:
            group = [row for row in mine if label in (row["label"], "mean")]
            pairs = [(row, base.get((other, *_pair(row)[1:]), np.nan)) for row in group]
            dice = _interval([row["dice"] for row in group], group)
            gain = _interval([row["dice"] - with_other for row, with_other in pairs], group) if other else (None, None)
            made.append(
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
    return made


def _pair(row: Row) -> tuple[Any, ...]:
    return row["arm"], row["draw"], row["seed"], row["case"], row["label"]


def _interval(values: Sequence[float], rows: Sequence[Row]) -> tuple[float | None, list[float] | None]:
    """Mean and 95 % interval."""
    draws = sorted({row["draw"] for row in rows})
    if len(draws) < FEW:
        found = bootstrap_interval(values, patients=[row["patient"] for row in rows])
        ends = [found.low, found.high]
        return _finite(found.value), None if np.isnan(ends).any() else ends
    of_draws = [np.nanmean([v for v, row in zip(values, rows, strict=True) if row["draw"] == d]) for d in draws]
    half = float(stats.t.ppf(0.975, len(draws) - 1) * np.std(of_draws, ddof=1) / np.sqrt(len(draws)))
    mean = _finite(float(np.mean(of_draws)))
    return mean, None if mean is None else [mean - half, mean + half]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def markdown(summary: Sequence[Row]) -> str:
    """The summary as a table; the gain in Dice points (hundredths)."""
    lines = [
        "| arm | generator | label | Dice | 95 % interval | against | gain in points | 95 % interval |",
        "|---" * 8 + "|",
    ]
    for row in summary:
        cells = (
            row["arm"],
            row["generator"],
            str(row["label"]),
            _shown(row["dice"], "{:.3f}"),
            _shown(row["interval"], "{:.3f}"),
            row["against"] or "",
            _shown(row["gain"], "{:+.1f}", 100),
            _shown(row["gain_interval"], "{:+.1f}", 100),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(value: Any, form: str, times: float = 1) -> str:
    if isinstance(value, list):
        return " to ".join(_shown(end, form, times) for end in value)
    return "" if value is None else form.format(times * value)


def write_scores(path: Path, rows: Sequence[Row]) -> None:
    """The rows as CSV."""
    write_text(path, csv_text(COLUMNS, rows))

"""Whole volumes through the model in training: the score that picks the best checkpoint, and a picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medgen.checkpoint import Model
from medgen.data.body import body_mask, looks_like_hu
from medgen.data.fingerprint import QUANTILES
from medgen.data.prepare import Prepared
from medgen.inference.predict import translate_array
from medgen.io.volume import written_aside


@dataclass(frozen=True)
class Validation:
    """``objective``: what the best checkpoint minimises; ``values``: all scores by name."""

    objective: float
    values: dict[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{k} {v:.4g}" for k, v in self.values.items())


def validate(model: Model, prepared: Prepared, panel: Path) -> Validation:
    """Translate the validation cases and score them, in the target's units (HU) inside the body.

    With truth the objective is the mean absolute error. Without, it is the distance of the translations'
    intensity distribution to that of real targets (Wasserstein-1 between mean quantile functions): it sees
    contrast left in or wrong HU, not structure (docs/decisions/best_checkpoint.md).
    """
    errors, before, quantiles, rows = [], [], [], []
    for _, source, truth in prepared.validation:
        x = np.asarray(source.data, np.float32)
        code = source.range
        device = next(model.generator.parameters()).device
        with torch.autocast(device.type, enabled=False):
            y = translate_array(model, code.encode(x))
        y = model.target_range.of(code).decode(y)
        y += code.excess(x, y)
        body = body_mask(x)
        if truth is not None:
            t = np.asarray(truth.data, np.float32)
            errors.append(float(np.abs(y - t)[body].mean()))
            before.append(float(np.abs(x - t)[body].mean()))
        # as the real targets' quantiles are kept: within the code's range
        target = model.target_range.of(code)
        quantiles.append(target.decode(np.quantile(target.encode(y[body]), QUANTILES)))
        rows.append(_row(x, y, None if truth is None else np.asarray(truth.data, np.float32)))
    _save_panel(panel, rows)
    if errors:
        mae = float(np.mean(errors))
        return Validation(mae, {"mae": mae, "source_mae": float(np.mean(before))})
    looks = [c.range.decode(np.array(c.look["quantiles"])) for c in prepared.real_targets.values()]
    real = np.mean(looks, 0)
    distance = float(np.abs(np.mean(quantiles, 0) - real).mean())
    return Validation(distance, {"quantile_distance": distance})


def _row(x: np.ndarray, y: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """Axial, coronal and sagittal middle slices of input, output and truth, side by side, as uint8.

    Radiological convention: the patient's right is on the left of the picture.
    """
    shown = [v[::-1] for v in (x, y, truth) if v is not None]
    tiles = []
    for axis in (2, 1, 0):
        for volume in shown:
            low, high = (-160, 240) if looks_like_hu(volume) else np.percentile(volume, [1, 99.5])
            plane = volume.take(volume.shape[axis] // 2, axis)
            grey = np.clip((plane - low) / max(high - low, 1e-6), 0, 1)
            tiles.append(np.rot90((255 * grey).astype(np.uint8)))
    height = max(t.shape[0] for t in tiles)
    return np.hstack([np.pad(t, ((0, height - t.shape[0]), (0, 4))) for t in tiles])


def _save_panel(path: Path, rows: list[np.ndarray]) -> None:
    width = max(r.shape[1] for r in rows)
    panel = np.vstack([np.pad(r, ((0, 4), (0, width - r.shape[1]))) for r in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        Image.fromarray(panel).save(aside, format="PNG")

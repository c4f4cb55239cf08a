"""Whole volumes through the model in training: the score that picks the best checkpoint, and a picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from medgen.checkpoint import Model
from medgen.data.body import body_mask, looks_like_hu
from medgen.data.codecs import Range
from medgen.data.fingerprint import QUANTILES
from medgen.data.prepare import Prepared
from medgen.inference.predict import translate_channels
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
    contrast left in or wrong HU, not structure (docs/decisions/best_checkpoint.md). Of several outputs the scores
    are averaged, each in units of its range, and shown in those of the first.
    """
    ranges, names = model.target_ranges, model.settings.data.targets
    weights = [_width(ranges[0].typical) / _width(r.typical) for r in ranges]  # outputs of other units count as much
    errors, before, quantiles, rows = [], [], [], []
    for _, sources, truths in prepared.validation:
        x = [np.asarray(c.data, np.float32) for c in sources]
        codes = [c.range for c in sources]
        device = next(model.generator.parameters()).device
        with torch.autocast(device.type, enabled=False):
            y = translate_channels(model, x, codes)
        body = body_mask(x[0])
        t = [np.asarray(c.data, np.float32) for c in truths]
        if t:
            errors.append([float(np.abs(a - b)[body].mean()) for a, b in zip(y, t, strict=True)])
            before.append([float(np.abs(x[0] - b)[body].mean()) for b in t])
        # as the real targets' quantiles are kept: within the code's range
        decode = [r.of(codes[0]) for r in ranges]
        quantiles.append([r.decode(np.quantile(r.encode(v[body]), QUANTILES)) for r, v in zip(decode, y, strict=True)])
        rows.append(_row([*x, *y, *t]))
    _save_panel(panel, rows)
    if errors:
        each = np.mean(errors, 0)
        values = {"mae": float(np.mean(weights * each)), "source_mae": float(np.mean(weights * np.mean(before, 0)))}
        named = {f"mae_{name}": float(v) for name, v in zip(names, each, strict=True)} if len(names) > 1 else {}
        return Validation(values["mae"], values | named)
    looks = [[c.range.decode(np.array(c.look["quantiles"])) for c in case] for case in prepared.real_targets.values()]
    distances = np.abs(np.mean(quantiles, 0) - np.mean(looks, 0)).mean(1)
    distance = float(np.mean(weights * distances))
    return Validation(distance, {"quantile_distance": distance})


def _width(range: Range) -> float:
    return range.high - range.low


def _row(volumes: list[np.ndarray]) -> np.ndarray:
    """Axial, coronal and sagittal middle slices of inputs, outputs and truths, side by side, as uint8.

    Radiological convention: the patient's right is on the left of the picture.
    """
    shown = [v[::-1] for v in volumes]
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

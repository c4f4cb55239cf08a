"""Whole volumes through the model in training: the score that picks the best checkpoint, and a picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from medgen.checkpoint import Model
from medgen.data.body_mask import body_mask, looks_like_hu
from medgen.data.cache import Channels
from medgen.data.intensity import Range
from medgen.data.prepare import Prepared
from medgen.evaluation.distribution.kernel import kernel_distance
from medgen.evaluation.distribution.patch_features import feature_names, patch_features, standardised
from medgen.inference.predict import translate_channels
from medgen.io.atomic import atomic_write
from medgen.qa.measures.structure import edge_correlation

ROWS = 300  # places of a volume whose look is compared
MOST_REAL = 16  # real target volumes they are compared with
LEAST_DISTANCE = 0.01  # below it unconverted sources are as good as real targets: patients differ as much
LOOK = [i for i, name in enumerate(feature_names()) if name.startswith(("mean", "sd"))]


@dataclass(frozen=True)
class Validation:
    """``objective``: what the best checkpoint minimises; ``idle``: that of leaving the scans as they are;
    ``values``: all scores by name."""

    objective: float
    idle: float
    values: dict[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{k} {v:.4g}" for k, v in self.values.items())


class Validator:
    """Scores models on whole volumes of patients kept back, inside the body.

    With truth the objective is the mean absolute error in the target's units (HU); of several outputs the average,
    each in units of its range, shown in those of the first; of a method that paints lesions that in the known ones,
    painted anew. Without truth it is (docs/decisions/best_checkpoint.md)

        kernel distance to real targets / that of the unconverted sources + 1 - edge correlation with the source

    all on the codes in [-1, 1]. The first summand sees contrast left in, wrong HU, texture lost or invented; the
    others see structure that was moved, erased or made up. Leaving everything as it is scores 1.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self._real: dict[tuple[int | None, int], np.ndarray] = {}

    def __call__(self, model: Model, panel: Path) -> Validation:
        """Translate the validation cases, score them, and save a picture of them."""
        scores: list[dict[str, float]] = []
        looks: dict[tuple[int | None, int], list[tuple[np.ndarray, np.ndarray]]] = {}
        rows = []
        for i, (name, sources, truths, domain) in enumerate(self.prepared.validation):
            file = self.prepared.held_labels.get(name)
            classes = None if file is None else np.load(file)
            x, t = ([np.asarray(c.data, np.float32) for c in channels] for channels in (sources, truths))
            y = _translated(model, sources, x, domain, classes)
            rows.append(panel_row([*x, *y, *t]))
            body = body_mask(x[0])
            if classes is not None:
                scores.append(_lesion_errors(model, y, t, body, classes))
                continue
            if t:
                scores.append(_errors(model, [x[0]] * len(t), y, t, body))
                continue
            spacing, before = sources[0].spacing, sources[0].range.encode(x[0])
            kept = []
            for n, (output, target) in enumerate(zip(y, model.target_ranges, strict=True)):
                after = target.of(sources[0].range).encode(output)
                kept.append(edge_correlation(before, after, body, spacing))
                pair = (appearance_features(v, body, spacing, seed=i) for v in (before, after))
                looks.setdefault((domain, n), []).append(tuple(pair))  # type: ignore[arg-type]
            scores.append({"edge_correlation": float(np.mean(kept))})
        save_panel(panel, rows)
        values = {k: float(np.mean([s[k] for s in scores])) for k in scores[0]}
        if not looks:
            return Validation(values["mae"], values["source_mae"], values)
        distances = np.array([self._distances(key, pairs) for key, pairs in looks.items()])
        before, after = distances.T
        values |= {"kernel_distance": float(after.mean()), "source_kernel_distance": float(before.mean())}
        share = float((after / np.maximum(before, LEAST_DISTANCE)).mean())
        values["trade_off"] = share + 1 - values["edge_correlation"]
        return Validation(values["trade_off"], 1.0, values)

    def _distances(self, key: tuple[int | None, int], pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
        """Kernel distances to the real targets of the unconverted sources and of their translations."""
        real = self._real_look(*key)
        sides = (standardised(np.vstack(side), real) for side in zip(*pairs, strict=True))
        return [kernel_distance(standardised(real, real), side) for side in sides]

    def _real_look(self, domain: int | None, contrast: int) -> np.ndarray:
        """Features of real targets, those kept back first; the same all through a run."""
        if (domain, contrast) not in self._real:
            domains = self.prepared.domains
            cases = {**self.prepared.real_targets, **self.prepared.targets}
            real = [c[contrast] for name, c in cases.items() if domain is None or domains[name] == domain]
            looks = []
            for n, c in enumerate(real[:MOST_REAL]):
                data = np.asarray(c.data, np.float32)
                looks.append(appearance_features(c.range.encode(data), body_mask(data), c.spacing, seed=n))
            self._real[domain, contrast] = np.vstack(looks)
        return self._real[domain, contrast]


def appearance_features(
    code: np.ndarray, body: np.ndarray, spacing: tuple[float, float, float], seed: int
) -> np.ndarray:
    """(ROWS, d): means and standard deviations of codes around places of the body."""
    mask = body if body.any() else np.ones_like(body)
    return patch_features(code, mask, spacing, count=ROWS, seed=seed)[:, LOOK]


def _translated(
    model: Model, sources: Channels, x: list[np.ndarray], domain: int | None, classes: np.ndarray | None
) -> list[np.ndarray]:
    if domain is not None:
        model.method.target = domain  # type: ignore[attr-defined]
    device = next(model.generator.parameters()).device
    with torch.autocast(device.type, enabled=False):
        return translate_channels(model, x, [c.range for c in sources], classes=classes)


def _lesion_errors(
    model: Model, y: list[np.ndarray], truths: list[np.ndarray], body: np.ndarray, classes: np.ndarray
) -> dict[str, float]:
    """MAE in the lesions of their images painted anew, and of the host's mean in their place.

    Of averages over 3 voxels across, for the noise of a scan cannot be foretold.
    """
    lesion, host = classes >= 2, classes == 1
    host = host if host.any() else body & ~lesion
    flat = [np.where(lesion, t[host].mean(), t).astype(np.float32) for t in truths]
    before, after, t = ([ndimage.uniform_filter(v, 3) for v in side] for side in (flat, y, truths))
    return _errors(model, before, after, t, lesion if lesion.any() else body)


def _errors(
    model: Model, idle: list[np.ndarray], y: list[np.ndarray], truths: list[np.ndarray], body: np.ndarray
) -> dict[str, float]:
    """MAE of the outputs and of what was there before (the source); of several outputs also that of each."""
    ranges, names = model.target_ranges, model.settings.data.targets
    weights = [_width(ranges[0].typical) / _width(r.typical) for r in ranges]  # outputs of other units count as much
    each = [float(np.abs(a - b)[body].mean()) for a, b in zip(y, truths, strict=True)]
    before = [float(np.abs(a - b)[body].mean()) for a, b in zip(idle, truths, strict=True)]
    found = {
        "mae": float(np.mean(np.multiply(weights, each))),
        "source_mae": float(np.mean(np.multiply(weights, before))),
    }
    return found | ({f"mae_{name}": v for name, v in zip(names, each, strict=True)} if len(names) > 1 else {})


def _width(range: Range) -> float:
    return range.high - range.low


def panel_row(volumes: list[np.ndarray]) -> np.ndarray:
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


def save_panel(path: Path, rows: list[np.ndarray]) -> None:
    width = max(r.shape[1] for r in rows)
    panel = np.vstack([np.pad(r, ((0, 4), (0, width - r.shape[1]))) for r in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as aside:
        Image.fromarray(panel).save(aside, format="PNG")

"""Validate on whole volumes during training: the score that selects the best checkpoint, and a picture."""

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
from medgen.data.prepared import ValidationData
from medgen.evaluation.distribution.kernel import kernel_distance
from medgen.evaluation.distribution.patch_features import feature_names, patch_features, standardised
from medgen.inference.predict import translate_channels
from medgen.io.atomic import atomic_write
from medgen.qa.measures.structure import edge_correlation

PLACES = 300  # positions per volume at which appearance is compared
MOST_REAL = 16  # at most this many real target volumes are compared
LEAST_DISTANCE = 0.01  # patients alone differ this much, so sources closer than this count as real targets
APPEARANCE = [i for i, name in enumerate(feature_names()) if name.startswith(("mean", "sd"))]


@dataclass(frozen=True)
class Validation:
    """Scores of one validation.

    Attributes:
        objective: what the best checkpoint minimises.
        idle: the objective that the unconverted scans would get.
        values: all scores by name.
    """

    objective: float
    idle: float
    values: dict[str, float]

    def __str__(self) -> str:
        return ", ".join(f"{k} {v:.4g}" for k, v in self.values.items())


class Validator:
    """Scores models on whole volumes of held-out patients, inside the body.

    With a known truth, the objective is the mean absolute error in the target's unit (HU). With several outputs it is
    their average, each scaled by the width of its intensity range to the unit of the first. For a method that paints
    lesions, it is the error inside the known lesions after painting them again.

    Without a known truth, the objective is (docs/decisions/best_checkpoint.md)

        kernel distance to real targets / kernel distance of the unconverted sources to real targets
        + 1 - edge correlation with the source

    computed on codes in [-1, 1]. The first term detects remaining contrast, wrong HU, and lost or invented texture;
    the edge correlation detects structure that was moved, erased or invented. The unconverted sources score 1.
    """

    def __init__(self, data: ValidationData) -> None:
        self.data = data
        self._real: dict[tuple[int | None, int], np.ndarray] = {}

    def __call__(self, model: Model, panel: Path) -> Validation:
        """Translate the validation cases, score them, and save a picture of them as ``panel``.

        Raises:
            FloatingPointError: a translation has NaN or infinite voxels.
        """
        scores: list[dict[str, float]] = []
        features: dict[tuple[int | None, int], list[tuple[np.ndarray, np.ndarray]]] = {}
        rows = []
        for i, case in enumerate(self.data.cases):
            classes = None if case.labels is None else np.load(case.labels)
            x, t = ([np.asarray(c.data, np.float32) for c in channels] for channels in (case.sources, case.truths))
            y = _translated(model, case.sources, x, case.domain, classes)
            if not all(np.isfinite(volume).all() for volume in y):
                raise FloatingPointError(
                    f"the model's translation of validation case {i + 1} has values that are not finite; the last "
                    "checkpoint is unaffected; lower method.lr, set train.clip, or use train.precision=32-true"
                )
            rows.append(panel_row([*x, *y, *t]))
            body = body_mask(x[0])
            if classes is not None:
                scores.append(_lesion_errors(model, y, t, body, classes))
                continue
            if t:
                scores.append(_errors(model, [x[0]] * len(t), y, t, body))
                continue
            source = case.sources[0]
            before = source.range.encode(x[0])
            correlations = []
            for n, (output, target) in enumerate(zip(y, model.target_ranges, strict=True)):
                after = target.of(source.range).encode(output)
                correlations.append(edge_correlation(before, after, body, source.spacing))
                pair = (appearance_features(v, body, source.spacing, seed=i) for v in (before, after))
                features.setdefault((case.domain, n), []).append(tuple(pair))  # type: ignore[arg-type]
            scores.append({"edge_correlation": float(np.mean(correlations))})
        save_panel(panel, rows)
        values = {k: float(np.mean([s[k] for s in scores])) for k in scores[0]}
        if not features:
            return Validation(values["mae"], values["source_mae"], values)
        distances = np.array([self._distances(key, pairs) for key, pairs in features.items()])
        before, after = distances.T
        values |= {"kernel_distance": float(after.mean()), "source_kernel_distance": float(before.mean())}
        share = float((after / np.maximum(before, LEAST_DISTANCE)).mean())
        values["trade_off"] = share + 1 - values["edge_correlation"]
        return Validation(values["trade_off"], 1.0, values)

    def _distances(self, key: tuple[int | None, int], pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[float]:
        """Kernel distances to the real targets of the unconverted sources and of their translations."""
        real = self._real_features(*key)
        sides = (standardised(np.vstack(side), real) for side in zip(*pairs, strict=True))
        return [kernel_distance(standardised(real, real), side) for side in sides]

    def _real_features(self, domain: int | None, contrast: int) -> np.ndarray:
        """Appearance features of real targets, held-out ones first; the same throughout a run."""
        if (domain, contrast) not in self._real:
            images = [channels[contrast] for channels in self.data.real_targets[domain][:MOST_REAL]]
            features = []
            for n, c in enumerate(images):
                data = np.asarray(c.data, np.float32)
                features.append(appearance_features(c.range.encode(data), body_mask(data), c.spacing, seed=n))
            self._real[domain, contrast] = np.vstack(features)
        return self._real[domain, contrast]


def appearance_features(
    code: np.ndarray, body: np.ndarray, spacing: tuple[float, float, float], seed: int
) -> np.ndarray:
    """Means and standard deviations of codes around random positions in the body.

    Args:
        code: (X, Y, Z) in [-1, 1].
        body: (X, Y, Z) mask; if empty, the whole volume is used.
        spacing: mm.

    Returns:
        (PLACES, d).
    """
    mask = body if body.any() else np.ones_like(body)
    return patch_features(code, mask, spacing, count=PLACES, seed=seed)[:, APPEARANCE]


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
    """MAE inside the lesions of the painted images, and of images with the host's mean value in the lesions.

    Computed after a 3-voxel mean filter, because noise is unpredictable.
    """
    lesion, host = classes >= 2, classes == 1
    host = host if host.any() else body & ~lesion
    flat = [np.where(lesion, t[host].mean(), t).astype(np.float32) for t in truths]
    before, after, t = ([ndimage.uniform_filter(v, 3) for v in side] for side in (flat, y, truths))
    return _errors(model, before, after, t, lesion if lesion.any() else body)


def _errors(
    model: Model, baseline: list[np.ndarray], y: list[np.ndarray], truths: list[np.ndarray], body: np.ndarray
) -> dict[str, float]:
    """MAE of the outputs and of a baseline (the unconverted source); with several outputs also the MAE of each."""
    ranges, names = model.target_ranges, model.settings.data.targets
    weights = [_width(ranges[0].typical) / _width(r.typical) for r in ranges]  # outputs in other units count equally
    each = [float(np.abs(a - b)[body].mean()) for a, b in zip(y, truths, strict=True)]
    before = [float(np.abs(a - b)[body].mean()) for a, b in zip(baseline, truths, strict=True)]
    errors = {
        "mae": float(np.mean(np.multiply(weights, each))),
        "source_mae": float(np.mean(np.multiply(weights, before))),
    }
    return errors | ({f"mae_{name}": v for name, v in zip(names, each, strict=True)} if len(names) > 1 else {})


def _width(range: Range) -> float:
    return range.high - range.low


def panel_row(volumes: list[np.ndarray]) -> np.ndarray:
    """Axial, coronal and sagittal middle slices of inputs, outputs and truths, side by side, as uint8.

    Radiological convention: the patient's right is on the left of the picture.
    """
    flipped = [v[::-1] for v in volumes]
    tiles = []
    for axis in (2, 1, 0):
        for volume in flipped:
            low, high = (-160, 240) if looks_like_hu(volume) else np.percentile(volume, [1, 99.5])
            plane = volume.take(volume.shape[axis] // 2, axis)
            grey = np.clip((plane - low) / max(high - low, 1e-6), 0, 1)
            tiles.append(np.rot90((255 * grey).astype(np.uint8)))
    height = max(t.shape[0] for t in tiles)
    return np.hstack([np.pad(t, ((0, height - t.shape[0]), (0, 4))) for t in tiles])


def save_panel(path: Path, rows: list[np.ndarray]) -> None:
    """Save rows of images, one below the other, as a PNG."""
    width = max(r.shape[1] for r in rows)
    panel = np.vstack([np.pad(r, ((0, 4), (0, width - r.shape[1]))) for r in rows])
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        Image.fromarray(panel).save(temporary, format="PNG")

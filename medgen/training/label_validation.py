"""Validate image synthesis from label maps: the score that selects the best checkpoint, and a picture.

There is no unconverted source to compare with, and the true image is only one of many correct results. The score is

    kernel distance to real images + 1 - edge correlation with the truth

on codes in [-1, 1]. The first term detects a wrong appearance, the second structure that does not match the labels.
"""

from pathlib import Path

import numpy as np
import torch

from medgen.checkpoint import Model
from medgen.data.cache import Cached
from medgen.data.prepared import ValidationData
from medgen.evaluation.distribution.kernel import kernel_distance
from medgen.evaluation.distribution.patch_features import standardised
from medgen.inference.style import draw_style, make_images
from medgen.qa.measures.structure import edge_correlation
from medgen.training.validation import MOST_REAL, Validation, appearance_features, panel_row, save_panel


class LabelValidator:
    """Generates an image from the label map of each validation case; the index of the case is the seed of the style."""

    def __init__(self, data: ValidationData) -> None:
        self.data = data
        self._real: dict[int, np.ndarray] = {}

    def __call__(self, model: Model, panel: Path) -> Validation:
        """Generate images for the validation cases, score them, and save a picture of them as ``panel``."""
        features: dict[int, list[np.ndarray]] = {}
        scores, rows = [], []
        for i, case in enumerate(self.data.cases):
            (labels,), truths = case.sources, case.truths
            x = np.asarray(labels.data, np.float32)
            outputs = self._make_images(model, labels, x, seed=i)
            for n, (y, truth) in enumerate(zip(outputs, truths, strict=True)):
                real, whole_volume = _code(truth), np.ones(x.shape, bool)
                features.setdefault(n, []).append(appearance_features(y, whole_volume, truth.spacing, seed=i))
                scores.append((edge_correlation(real, y, whole_volume, truth.spacing), float(np.abs(y - real).mean())))
            rows.append(panel_row([x, *outputs, *(_code(t) for t in truths)]))
        save_panel(panel, rows)
        edges, mae = np.mean(scores, 0)
        distance = float(np.mean([self._distance(n, np.vstack(each)) for n, each in features.items()]))
        values = {"kernel_distance": distance, "edge_correlation": float(edges), "code_mae": float(mae)}
        values["trade_off"] = distance + 1 - float(edges)
        return Validation(values["trade_off"], float("inf"), values)

    def _make_images(self, model: Model, labels: Cached, x: np.ndarray, seed: int) -> list[np.ndarray]:
        """Generate the images of a label map ``x``; return them as codes in [-1, 1]."""
        draw_style(model, seed)
        device = next(model.generator.parameters()).device
        with torch.autocast(device.type, enabled=False):
            images = make_images(model, x, labels.range, seed)
        return [target.typical.encode(y) for y, target in zip(images, model.target_ranges, strict=True)]

    def _distance(self, contrast: int, outputs: np.ndarray) -> float:
        """Return the kernel distance between features of outputs and of real images of one target contrast.

        The real images are the same throughout a run; held-out ones are used first.
        """
        if contrast not in self._real:
            real = [channels for group in self.data.real_targets.values() for channels in group]
            images = [channels[contrast] for channels in real][:MOST_REAL]
            self._real[contrast] = np.vstack(
                [
                    appearance_features(_code(c), np.ones(c.data.shape, bool), c.spacing, seed=n)
                    for n, c in enumerate(images)
                ]
            )
        real_features = self._real[contrast]
        return kernel_distance(standardised(real_features, real_features), standardised(outputs, real_features))


def _code(image: Cached) -> np.ndarray:
    return image.range.encode(np.asarray(image.data, np.float32))

"""Images made of label maps in training: the score that picks the best checkpoint, and a picture.

There is no unconverted source to compare with, and the truth is but one of many right answers. So the score is

    kernel distance to real images + 1 - edge correlation with the truth

on codes in [-1, 1]: the first sees a wrong look, the second structure that does not lie where the labels say.
"""

from pathlib import Path

import numpy as np
import torch

from medgen.checkpoint import Model
from medgen.data.cache import Cached
from medgen.data.prepare import Prepared
from medgen.evaluation.distribution.kernel import kernel_distance
from medgen.evaluation.distribution.patch_features import standardised
from medgen.inference.style import draw_style, make_images
from medgen.qa.measures.structure import edge_correlation
from medgen.training.validation import MOST_REAL, Validation, appearance_features, panel_row, save_panel


class LabelValidator:
    """Makes an image of each validation case's label map, in a style that its place in the list draws."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self._real: dict[int, np.ndarray] = {}

    def __call__(self, model: Model, panel: Path) -> Validation:
        """Make the validation cases, score them, and save a picture of them."""
        looks: dict[int, list[np.ndarray]] = {}
        scores, rows = [], []
        for i, (_, (labels,), truths, _) in enumerate(self.prepared.validation):
            x = np.asarray(labels.data, np.float32)
            made = self._made(model, labels, x, seed=i)
            for n, (y, truth) in enumerate(zip(made, truths, strict=True)):
                real, everywhere = _code(truth), np.ones(x.shape, bool)
                looks.setdefault(n, []).append(appearance_features(y, everywhere, truth.spacing, seed=i))
                scores.append((edge_correlation(real, y, everywhere, truth.spacing), float(np.abs(y - real).mean())))
            rows.append(panel_row([x, *made, *(_code(t) for t in truths)]))
        save_panel(panel, rows)
        edges, mae = np.mean(scores, 0)
        distance = float(np.mean([self._distance(n, np.vstack(found)) for n, found in looks.items()]))
        values = {"kernel_distance": distance, "edge_correlation": float(edges), "code_mae": float(mae)}
        values["trade_off"] = distance + 1 - float(edges)
        return Validation(values["trade_off"], float("inf"), values)

    def _made(self, model: Model, labels: Cached, x: np.ndarray, seed: int) -> list[np.ndarray]:
        """The outputs as codes."""
        draw_style(model, seed)
        device = next(model.generator.parameters()).device
        with torch.autocast(device.type, enabled=False):
            made = make_images(model, x, labels.range, seed)
        return [target.typical.encode(y) for y, target in zip(made, model.target_ranges, strict=True)]

    def _distance(self, contrast: int, made: np.ndarray) -> float:
        """Kernel distance of what was made to real images, those kept back first; the same ones all through a run."""
        if contrast not in self._real:
            cases = {**self.prepared.real_targets, **self.prepared.targets}
            images = [channels[contrast] for channels in cases.values()][:MOST_REAL]
            self._real[contrast] = np.vstack(
                [
                    appearance_features(_code(c), np.ones(c.data.shape, bool), c.spacing, seed=n)
                    for n, c in enumerate(images)
                ]
            )
        real = self._real[contrast]
        return kernel_distance(standardised(real, real), standardised(made, real))


def _code(image: Cached) -> np.ndarray:
    return image.range.encode(np.asarray(image.data, np.float32))

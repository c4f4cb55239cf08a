"""Validate a model that generates images from nothing: the score that selects the best checkpoint, and a picture.

Scores on held-out images, of which a patch in the middle is compared, on codes in [-1, 1]:

    bits_per_dimension     of the grey values, from the likelihood or its bound; methods with ``log_likelihood``
    reconstruction_error   mean |x - reconstruction|; methods with ``reconstruct``
    kernel_distance        of as many samples as there are validation cases; methods with ``sample``

The objective is the first that the method has of bits per dimension, kernel distance and reconstruction error.
"""

from pathlib import Path
from typing import cast

import numpy as np
import torch

from medgen.checkpoint import Model
from medgen.data.cache import Channels
from medgen.data.intensity import encode_channels
from medgen.data.prepared import ValidationData
from medgen.data.random_affine import AffineTransform, cut_patch
from medgen.evaluation.distribution.kernel import kernel_distance
from medgen.evaluation.distribution.patch_features import patch_features, standardised
from medgen.losses.likelihood import bits_per_dimension
from medgen.methods.base import GenerativeMethod
from medgen.training.validation import Validation, panel_row, save_panel

PLACES = 100  # positions per patch at which samples and real images are compared
MOST_REAL = 32  # at most this many real images are compared
OBJECTIVES = ("bits_per_dimension", "kernel_distance", "reconstruction_error")


class GenerativeValidator:
    """Scores samples, reconstructions and likelihoods; the same seeds at every validation.

    Args:
        data: its cases have truths only.
        patch: sides of the images in voxels.
    """

    def __init__(self, data: ValidationData, patch: tuple[int, int, int]) -> None:
        self.data, self.patch = data, patch
        self.images = np.stack([centred_patch(case.truths, patch) for case in data.cases])
        self._real: list[np.ndarray] | None = None

    @torch.no_grad()
    def __call__(self, model: Model, panel: Path) -> Validation:
        """Score the model, and save a picture of images, reconstructions and samples as ``panel``.

        Raises:
            FloatingPointError: a sample or a reconstruction has NaN or infinite voxels.
        """
        method = cast(GenerativeMethod, model.method)
        device = next(model.generator.parameters()).device
        generator = torch.Generator().manual_seed(0)
        values: dict[str, float] = {}
        columns = [self.images]
        with torch.autocast(device.type, enabled=False):
            for part in self.images:
                x = torch.from_numpy(part[None]).to(device)
                if hasattr(method, "log_likelihood"):
                    bits = bits_per_dimension(method.log_likelihood(x, generator), part.size)
                    _add(values, "bits_per_dimension", float(bits))
            if hasattr(method, "reconstruct"):
                restored = [method.reconstruct(torch.from_numpy(part[None]).to(device)) for part in self.images]
                columns.append(torch.cat(restored).float().cpu().numpy())
                values["reconstruction_error"] = float(np.abs(columns[-1] - self.images).mean())
            if hasattr(method, "sample"):
                samples = [method.sample(1, self.patch, generator) for _ in self.images]
                columns.append(torch.cat(samples).float().cpu().numpy())
        if not all(np.isfinite(each).all() for each in columns):
            raise FloatingPointError(
                "a sample or a reconstruction has values that are not finite; the last checkpoint is unaffected; lower "
                "method.lr, set train.clip, or use train.precision=32-true"
            )
        if hasattr(method, "sample"):
            values["kernel_distance"] = self._distance(columns[-1])
        if "bits_per_dimension" in values:
            values["bits_per_dimension"] /= len(self.images)
        rows = zip(*columns, strict=True)
        save_panel(panel, [panel_row([volume[0] for volume in row]) for row in rows])
        objective = values[next(name for name in OBJECTIVES if name in values)]
        return Validation(objective, float("inf"), values)

    def _distance(self, samples: np.ndarray) -> float:
        """Kernel distance between samples and real images, held-out ones first, averaged over the channels."""
        spacing = self.data.cases[0].truths[0].spacing
        if self._real is None:
            cases = [channels for group in self.data.real_targets.values() for channels in group][:MOST_REAL]
            real = np.stack([centred_patch(channels, self.patch) for channels in cases])
            self._real = [_features(real[:, c], spacing) for c in range(real.shape[1])]
        distances = []
        for c, real in enumerate(self._real):
            made = _features(samples[:, c], spacing)
            distances.append(kernel_distance(standardised(real, real), standardised(made, real)))
        return float(np.mean(distances))


def _add(values: dict[str, float], name: str, value: float) -> None:
    values[name] = values.get(name, 0.0) + value


def _features(images: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Features of images (N, X, Y, Z) at random positions, see ``patch_features``."""
    everywhere = np.ones(images.shape[1:], bool)
    return np.vstack([patch_features(x, everywhere, spacing, count=PLACES, seed=n) for n, x in enumerate(images)])


def centred_patch(channels: Channels, patch: tuple[int, int, int]) -> np.ndarray:
    """The middle of an image, encoded (C, X, Y, Z); a smaller one is padded with its edge values."""
    size = np.asarray(patch)
    start = (np.asarray(channels[0].data.shape) - size) // 2
    cuts = [cut_patch(c.data, start, size, AffineTransform(), c.spacing) for c in channels]
    return encode_channels([c.range for c in channels], cuts)

"""Procedural lesions, after SyntheticTumors (Hu et al., CVPR 2023): soft edge, blurred noise, contrast to the host.

Contrast and texture are taken from the same real lesion of the library, which keeps their correlation. The host's own
noise is kept in the lesion, as in a real scan.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.augmentation.lesions.library import Library
from medgen.augmentation.patch import Patch

EDGE_VOXELS = (
    0.4,
    0.8,
)  # σ of the Gaussian that softens the edge: the partial volume effect of a voxel, or slightly more


@dataclass(frozen=True)
class Procedural:
    """Lesion painter: image + edge · (contrast + texture)."""

    library: Library

    def __call__(self, patch: Patch, rng: np.random.Generator) -> np.ndarray:
        candidates = self.library.of(patch.kind)
        lesion = candidates[int(rng.integers(len(candidates)))]
        scale = np.where(self.library.absolute, 1.0, patch.host_sd / lesion.host_sd)
        # Added to the host's own noise, which the library lesion's standard deviation includes.
        texture_sd = np.sqrt(np.maximum(np.square(lesion.sd) - np.square(lesion.host_sd), 0))
        soft = ndimage.gaussian_filter(patch.mask.astype(np.float32), rng.uniform(*EDGE_VOXELS))
        edge = soft / max(float(soft[patch.mask].mean()), 0.5)  # a real lesion's contrast includes its edge too
        noise = _blurred_noise(patch, float(np.mean(lesion.grain_mm)), rng)
        added = [u * (c + e * noise) for u, c, e in zip(scale, lesion.contrast, texture_sd, strict=True)]
        return (patch.image + edge * np.stack(added)).astype(np.float32)


def _blurred_noise(patch: Patch, sigma_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return noise with the grain ``sigma_mm``, (x, y, z), of mean 0 and standard deviation 1 inside the mask."""
    noise = ndimage.gaussian_filter(rng.normal(size=patch.mask.shape), [sigma_mm / s for s in patch.spacing])
    inside = noise[patch.mask]
    return (noise - inside.mean()) / max(float(inside.std()), 1e-9)

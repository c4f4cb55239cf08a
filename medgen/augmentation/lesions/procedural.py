"""Lesions by recipe, after SyntheticTumors (Hu et al., CVPR 2023): soft edge, blurred noise, a contrast to the host.

The recipe's numbers are drawn from real lesions: contrast and texture together from one of the library, so that
what goes together stays so. The host's own noise remains under the lesion, as it would in a scan.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.augmentation.lesions.library import Library
from medgen.augmentation.patch import Patch

EDGE_VOXELS = (0.4, 0.8)  # σ of the Gaussian that softens the edge: what a voxel's volume averages, or a little more


@dataclass(frozen=True)
class Procedural:
    """Painter: image + edge · (contrast + texture)."""

    library: Library

    def __call__(self, patch: Patch, rng: np.random.Generator) -> np.ndarray:
        known = self.library.of(patch.kind)
        lesion = known[int(rng.integers(len(known)))]
        unit = np.where(self.library.absolute, 1.0, patch.host_sd / lesion.host_sd)
        excess = np.sqrt(np.maximum(np.square(lesion.sd) - np.square(lesion.host_sd), 0))  # beyond the host's own noise
        soft = ndimage.gaussian_filter(patch.mask.astype(np.float32), rng.uniform(*EDGE_VOXELS))
        edge = soft / max(float(soft[patch.mask].mean()), 0.5)  # a real one's contrast is a mean over its edge too
        noise = _blurred_noise(patch, float(np.mean(lesion.grain_mm)), rng)
        added = [u * (c + e * noise) for u, c, e in zip(unit, lesion.contrast, excess, strict=True)]
        return (patch.image + edge * np.stack(added)).astype(np.float32)


def _blurred_noise(patch: Patch, sigma_mm: float, rng: np.random.Generator) -> np.ndarray:
    """(x, y, z): noise of the grain given, of mean 0 and standard deviation 1 inside the mask."""
    noise = ndimage.gaussian_filter(rng.normal(size=patch.mask.shape), [sigma_mm / s for s in patch.spacing])
    inside = noise[patch.mask]
    return (noise - inside.mean()) / max(float(inside.std()), 1e-9)

"""A real lesion in a new place, after CarveMix (Zhang et al., MICCAI 2021): cut out with its edge and pasted.

CarveMix carves within one data set and pastes at the same place; here the lesion is changed in shape, goes to a free
site of the host, and its intensities are shifted from its old host's mean to that of the new one.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.augmentation.lesions.library import Lesion, Library
from medgen.augmentation.patch import Patch


@dataclass(frozen=True)
class CutPaste:
    """Painter: the appearance of the lesion that the mask was made from, or of one of like size on any other mask."""

    library: Library

    def __call__(self, patch: Patch, rng: np.random.Generator) -> np.ndarray:
        lesion, places = patch.shape.lesion, patch.shape.places
        if lesion is None or places is None:
            lesion = self._like_sized(patch, rng)
            places = _stretched(lesion, patch.mask)
        places = _within(lesion, places, patch.mask)
        # cubic, for linear interpolation would take a part of the scan's noise away
        cut = np.stack([ndimage.map_coordinates(c, places, order=3, mode="nearest") for c in lesion.image])
        old, new = _column(lesion.host_mean), _column(patch.host_mean)
        gain = np.where(_column(self.library.absolute), 1.0, _column(patch.host_sd) / _column(lesion.host_sd))
        return (new + gain * (cut - old)).astype(np.float32)

    def _like_sized(self, patch: Patch, rng: np.random.Generator) -> Lesion:
        """One of the five nearest in volume."""
        millilitres = patch.mask.sum() * np.prod(patch.spacing) / 1000
        known = sorted(self.library.of(patch.kind), key=lambda lesion: abs(np.log(lesion.volume_ml / millilitres)))
        return known[int(rng.integers(min(5, len(known))))]


def _within(lesion: Lesion, places: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Places of the mask that fall beside the lesion are moved to its nearest voxel: host is no lesion."""
    nearest = ndimage.distance_transform_edt(
        ~lesion.mask, lesion.spacing, return_distances=False, return_indices=True
    ).astype(np.float64)
    inside = ndimage.map_coordinates(lesion.mask.astype(np.float32), places, order=1) > 0.5
    rounded = [np.clip(np.rint(p).astype(int), 0, n - 1) for p, n in zip(places, lesion.mask.shape, strict=True)]
    return np.where(mask & ~inside, nearest[:, *rounded], places)


def _stretched(lesion: Lesion, mask: np.ndarray) -> np.ndarray:
    """(3, x, y, z): places in the lesion's crop, its box stretched onto that of the mask."""
    axes = []
    boxes = (ndimage.find_objects(m.astype(np.uint8))[0] for m in (lesion.mask, mask))
    for old, new, n in zip(*boxes, mask.shape, strict=True):
        scale = (old.stop - old.start) / (new.stop - new.start)
        axes.append((np.arange(n) + 0.5 - new.start) * scale + old.start - 0.5)
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _column(values: object) -> np.ndarray:
    """(C,) → (C, 1, 1, 1)."""
    return np.reshape(np.asarray(values), (-1, 1, 1, 1))

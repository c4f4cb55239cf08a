"""Paste real lesions at new sites, after CarveMix (Zhang et al., MICCAI 2021): cut out with their edge and pasted.

CarveMix pastes a lesion at its original position. Here its shape is changed, it is pasted at a free site of the host,
and its intensities are shifted from the mean of the old host to that of the new host.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medgen.augmentation.lesions.library import Lesion, Library
from medgen.augmentation.patch import Patch


@dataclass(frozen=True)
class CutPaste:
    """Lesion painter that copies the intensities of a real lesion.

    It is the lesion that the mask was made from or, for a mask without one, a lesion of similar size.
    """

    library: Library

    def __call__(self, patch: Patch, rng: np.random.Generator) -> np.ndarray:
        lesion, places = patch.shape.lesion, patch.shape.places
        if lesion is None or places is None:
            lesion = self._like_sized(patch, rng)
            places = _stretched(lesion, patch.mask)
        places = _within(lesion, places, patch.mask)
        # Cubic: linear interpolation would reduce the noise of the scan.
        crop = np.stack([ndimage.map_coordinates(c, places, order=3, mode="nearest") for c in lesion.image])
        old, new = _column(lesion.host_mean), _column(patch.host_mean)
        gain = np.where(_column(self.library.absolute), 1.0, _column(patch.host_sd) / _column(lesion.host_sd))
        return (new + gain * (crop - old)).astype(np.float32)

    def _like_sized(self, patch: Patch, rng: np.random.Generator) -> Lesion:
        """Draw one of the five lesions nearest in volume."""
        millilitres = patch.mask.sum() * np.prod(patch.spacing) / 1000
        candidates = sorted(self.library.of(patch.kind), key=lambda lesion: abs(np.log(lesion.volume_ml / millilitres)))
        return candidates[int(rng.integers(min(5, len(candidates))))]


def _within(lesion: Lesion, places: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Move mask places outside the lesion to its nearest voxel, so that no host tissue is pasted."""
    nearest = ndimage.distance_transform_edt(
        ~lesion.mask, lesion.spacing, return_distances=False, return_indices=True
    ).astype(np.float64)
    inside = ndimage.map_coordinates(lesion.mask.astype(np.float32), places, order=1) > 0.5
    rounded = [np.clip(np.rint(p).astype(int), 0, n - 1) for p, n in zip(places, lesion.mask.shape, strict=True)]
    return np.where(mask & ~inside, nearest[:, *rounded], places)


def _stretched(lesion: Lesion, mask: np.ndarray) -> np.ndarray:
    """Return places in the lesion's crop, (3, x, y, z), that map its bounding box onto that of the mask."""
    axes = []
    boxes = (ndimage.find_objects(m.astype(np.uint8))[0] for m in (lesion.mask, mask))
    for old, new, n in zip(*boxes, mask.shape, strict=True):
        scale = (old.stop - old.start) / (new.stop - new.start)
        axes.append((np.arange(n) + 0.5 - new.start) * scale + old.start - 0.5)
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _column(values: object) -> np.ndarray:
    """(C,) → (C, 1, 1, 1)."""
    return np.reshape(np.asarray(values), (-1, 1, 1, 1))

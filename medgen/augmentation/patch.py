"""The interface of lesion painters: the image patch that a painter gets, and the type of its function."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medgen.augmentation.lesions.host_organ import robust_sd, shell
from medgen.augmentation.lesions.masks import Shape


@dataclass(frozen=True)
class Patch:
    """The surroundings of a new lesion, in RAS order.

    volumes  whole image of each contrast, (X, Y, Z) float32 in its unit; read-only
    box      slices of the patch within the volumes, (x, y, z)
    mask     (x, y, z) bool: voxels of the new lesion
    host     (x, y, z) bool: healthy host tissue
    shape    the shape that the mask was made from, on the grid of the patch
    spacing  voxel spacing in mm
    kind     name of the lesion's label
    """

    volumes: tuple[np.ndarray, ...]
    box: tuple[slice, ...]
    mask: np.ndarray
    host: np.ndarray
    shape: Shape
    spacing: tuple[float, float, float]
    kind: str

    @cached_property
    def image(self) -> np.ndarray:
        """The patch of each contrast, (C, x, y, z)."""
        return np.stack([v[self.box] for v in self.volumes])

    @cached_property
    def around(self) -> np.ndarray:
        """Host tissue near the lesion, (x, y, z) bool, see ``host_organ.shell``."""
        return shell(self.mask, self.host, self.spacing)

    @property
    def host_mean(self) -> np.ndarray:
        """Mean intensity of the host tissue in each contrast, (C,)."""
        return self.image[:, self.around].mean(1)

    @property
    def host_sd(self) -> np.ndarray:
        """Standard deviation of the host tissue in each contrast, (C,), see ``host_organ.robust_sd``."""
        return np.array([robust_sd(c[self.around]) for c in self.image])


# Returns the patch with the lesion, (C, x, y, z) float32, valid to a few mm beyond the mask; ``insert`` blends it in.
Painter = Callable[[Patch, np.random.Generator], np.ndarray]

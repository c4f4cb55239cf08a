"""What a painter is given, and what it gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medgen.augmentation.lesions.host_organ import shell, spread
from medgen.augmentation.lesions.masks import Shape


@dataclass(frozen=True)
class Patch:
    """The surroundings of the site of a new lesion, RAS.

    volumes  the contrasts, whole (X, Y, Z), float32 in their units; not to be written to
    box      the part of them around the site, (x, y, z) voxels
    mask     (x, y, z) bool: where the lesion goes
    host     (x, y, z) bool: healthy host tissue
    shape    where the mask comes from; ``places`` of its own grid are those of the box
    spacing  mm
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
        """(C, x, y, z)."""
        return np.stack([v[self.box] for v in self.volumes])

    @cached_property
    def around(self) -> np.ndarray:
        """(x, y, z): host tissue near the site, see ``host.shell``."""
        return shell(self.mask, self.host, self.spacing)

    @property
    def host_mean(self) -> np.ndarray:
        """(C,)."""
        return self.image[:, self.around].mean(1)

    @property
    def host_sd(self) -> np.ndarray:
        """(C,)."""
        return np.array([spread(c[self.around]) for c in self.image])


# (C, x, y, z) float32: the patch with the lesion, sound up to a few mm beyond the mask; ``insert`` blends it in.
Painter = Callable[[Patch, np.random.Generator], np.ndarray]

"""Where the sliding windows of a volume lie: in MONAI's places, or evenly spaced over the part that is needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

import torch
from torch import Tensor

Place = tuple[slice, slice, slice]

WIDER = 1.4  # sides of an even layout's windows, at most, as a multiple of those of the setting
AROUND = 8  # voxels of context around what is needed


@dataclass(frozen=True)
class Layout:
    """Size of the windows and their places in a volume of ``sides``; the first axis varies slowest."""

    sides: tuple[int, ...]
    window: tuple[int, ...]
    places: list[Place]


def fixed(sides: Sequence[int], window: Sequence[int], overlap: float) -> Layout:
    """The places of MONAI's ``sliding_window_inference``: one step after the other, and a last window at the end.

    Args:
        sides: of the volume; those below the window's are padded to it.
        window: sides of the windows.
        overlap: of neighbouring windows, as a share of their sides.
    """
    padded = tuple(max(n, w) for n, w in zip(sides, window, strict=True))
    starts = []
    for n, w in zip(padded, window, strict=True):
        step = w if w == n else max(int(w * (1 - overlap)), 1)
        starts.append([min(i * step, n - w) for i in range(ceil((n - w) / step) + 1)])
    return Layout(padded, tuple(window), _places(starts, window))


def even(
    sides: Sequence[int],
    window: Sequence[int],
    overlap: float,
    multiple: int,
    *,
    needed: Tensor | None = None,
    wider: float = WIDER,
) -> Layout:
    """As few voxels in windows as possible, in evenly spaced windows that may be larger than those of the setting.

    A fixed layout shifts its last window back, where it overlaps most of the one before. Here all overlaps of an axis
    are the same, and at least that of the setting. Each axis gets the side, between that of the setting and ``wider``
    times as much, with the fewest voxels: three windows of 80 on 160 voxels become two of 96. What larger windows do to
    the result was measured, see docs/decisions/windows.md.

    Args:
        sides, window, overlap: as in `fixed`.
        multiple: sides of windows must be multiples of it.
        needed: (X, Y, Z) bool, the voxels where the output is needed. Windows lie over their bounding box with `AROUND`
            voxels on each side, and those without such voxels are left out (if all are, one is kept). None: all.
        wider: the largest side of a window, as a multiple of the setting's.
    """
    box = [slice(0, n) for n in sides] if needed is None else bounding_box(needed, AROUND)
    sizes, starts = [], []
    for n, part, w in zip(sides, box, window, strict=True):
        size, relative = _even_axis(part.stop - part.start, overlap, range(w, int(w * wider) + 1, multiple))
        first = min(part.start, max(n - size, 0))  # a box below the window's side gets what lies beside it
        sizes.append(size)
        starts.append([first + s for s in relative])
    places = _places(starts, sizes)
    if needed is not None:
        places = [place for place in places if bool(needed[place].any())] or places[:1]
    return Layout(tuple(max(n, w) for n, w in zip(sides, sizes, strict=True)), tuple(sizes), places)


def bounding_box(needed: Tensor, around: int) -> list[slice]:
    """The smallest box that holds all True voxels, larger by ``around`` on each side; one voxel if there are none."""
    box = []
    for axis, n in enumerate(needed.shape):
        where = torch.nonzero(needed.any(dim=[a for a in range(3) if a != axis]))[:, 0].tolist() or [-around]
        box.append(slice(max(where[0] - around, 0), min(where[-1] + 1 + around, n)))
    return box


def _even_axis(n: int, overlap: float, sizes: Sequence[int]) -> tuple[int, list[int]]:
    """Side and starts of the windows on an axis of n voxels; of equal choices the smaller side."""
    choices = []
    for size in sizes:
        count = 1 if n <= size else ceil((n - size) / (size * (1 - overlap))) + 1
        choices.append((count * size, size, count))
    _, size, count = min(choices)
    return size, [round(i * max(n - size, 0) / max(count - 1, 1)) for i in range(count)]


def _places(starts: Sequence[Sequence[int]], window: Sequence[int]) -> list[Place]:
    sides = [[slice(s, s + w) for s in each] for each, w in zip(starts, window, strict=True)]
    return [(a, b, c) for a, b, c in product(*sides)]

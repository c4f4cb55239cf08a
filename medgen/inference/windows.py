"""Sliding windows over one volume, with the weights of MONAI's ``sliding_window_inference``.

In a `layout.fixed` layout the result is MONAI's, but sums and weights are never held for the whole volume: once no
later window reaches a row of voxels, it is divided by its weights and leaves the slab in which windows are summed.
"""

from collections.abc import Callable

import torch
from monai.data.utils import compute_importance_map
from torch import Tensor
from torch.nn import functional as nnf

from medgen.inference.layout import Layout, Place


def slide(
    x: Tensor,
    run: Callable[[Tensor], Tensor],
    layout: Layout,
    *,
    batch: int,
    device: torch.device,
    overwrite: bool = False,
) -> Tensor:
    """Run a network on overlapping windows and average them with Gaussian weights.

    Args:
        x: (1, C, X, Y, Z) on the CPU; sides below those of the layout are padded with the border values.
        run: (B, C, ...) on the device, of the window's size → (B, C_out, ...) float32 of the same size, which is
            overwritten.
        layout: of the windows in x.
        batch: windows for each call of the network.
        device: of the network.
        overwrite: the result may lie in the memory of x, to save as much.

    Returns:
        (1, C_out, X, Y, Z) on the CPU; 0 where no window lies.
    """
    sides, window = x.shape[2:], layout.window
    missing = [m - n for m, n in zip(layout.sides, sides, strict=True)]
    if any(missing):
        before_after = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
        x = nnf.pad(x, before_after, mode="replicate")
    weights = compute_importance_map(window, mode="gaussian", sigma_scale=0.125, device=device)  # type: ignore
    sums: _Sums | None = None
    for first in range(0, len(layout.places), batch):
        places = layout.places[first : first + batch]
        results = run(torch.stack([x[0, :, *place] for place in places]).to(device))
        weighted = results.mul_(weights).cpu()
        if sums is None:
            same = overwrite and weighted.shape[1] == x.shape[1]
            out = x if same else x.new_empty(1, weighted.shape[1], *layout.sides)
            sums = _Sums(out[0], layout, weights.cpu())
        for place, part in zip(places, weighted, strict=True):
            sums.add(place, part)
    assert sums is not None
    out = sums.finished()[None]
    cut = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, sides, strict=True))
    return out[:, :, *cut]


class _Sums:
    """Weighted sums of windows in a slab as deep as a window, which moves along the first axis of ``out``.

    ``out`` (C, X, Y, Z) may be the volume that the windows are cut from: rows are written when no later window starts
    before them.
    """

    def __init__(self, out: Tensor, layout: Layout, weights: Tensor) -> None:
        self.out, self.places, self.weights = out, layout.places, weights
        self.slab = out.new_zeros(out.shape[0], layout.window[0], *out.shape[2:])
        self.first = 0  # row of out where the slab starts

    def add(self, place: Place, part: Tensor) -> None:
        """Add a weighted window (C, ...); windows must come in the order of the layout."""
        self._finish(place[0].start)
        self.slab[:, :, *place[1:]] += part

    def finished(self) -> Tensor:
        self._finish(self.out.shape[1])
        return self.out

    def _finish(self, stop: int) -> None:
        """Write the rows before ``stop``, and move the slab there."""
        rows = self.slab.shape[1]
        count = min(stop - self.first, rows)
        if count:
            self._write(self.out[:, self.first : self.first + count])
            for k in range(rows - count):  # row by row, because source and destination overlap
                self.slab[:, k] = self.slab[:, k + count]
            self.slab[:, rows - count :] = 0
        self.out[:, self.first + count : stop] = 0
        self.first = stop

    def _write(self, out: Tensor) -> None:
        """Divide the first rows of the slab by the sum of the weights, between two borders of windows at a time."""
        start, stop = self.first, self.first + out.shape[1]
        edges = {edge for place in self.places for edge in (place[0].start, place[0].stop) if start < edge < stop}
        borders = [start, *sorted(edges), stop]
        for low, high in zip(borders, borders[1:], strict=False):
            summed = self.weights.new_zeros(high - low, *out.shape[2:])
            for rows, *others in self.places:
                if rows.start <= low and high <= rows.stop:
                    summed[:, *others] += self.weights[low - rows.start : high - rows.start]
            summed.clamp_(min=torch.finfo(summed.dtype).tiny)  # where no window lies
            torch.div(self.slab[:, low - start : high - start], summed, out=out[:, low - start : high - start])

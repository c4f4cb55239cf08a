"""Sliding windows over one volume, with the windows and weights of MONAI's ``sliding_window_inference``.

The result is the same, but the map of summed weights is never held for the whole volume, and nothing is copied that the
network does not need. For one window at a time the map costs as much as the output.
"""

from collections.abc import Callable, Sequence

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor
from torch.nn import functional as nnf

Place = tuple[slice, slice, slice]


def slide(
    x: Tensor,
    run: Callable[[Tensor], Tensor],
    *,
    window: Sequence[int],
    overlap: float,
    batch: int,
    device: torch.device,
) -> Tensor:
    """Run a network on overlapping windows and average them with Gaussian weights.

    Args:
        x: (1, C, X, Y, Z) on the CPU; sides below those of the window are padded with the border values.
        run: (B, C, ...) on the device, of the window's size → (B, C_out, ...) float32 of the same size.
        window: sides of the window.
        overlap: of neighbouring windows, as a share of their sides; the last window of each axis ends at the border.
        batch: windows for each call of the network.
        device: of the network.

    Returns:
        (1, C_out, X, Y, Z) on the CPU.
    """
    sides = x.shape[2:]
    missing = [max(w - n, 0) for w, n in zip(window, sides, strict=True)]
    if any(missing):
        before_after = [side for m in reversed(missing) for side in (m // 2, m - m // 2)]
        x = nnf.pad(x, before_after, mode="replicate")
    padded = x.shape[2:]
    steps = [w if w == n else max(int(w * (1 - overlap)), 1) for w, n in zip(window, padded, strict=True)]
    places: list[Place] = [(place[0], place[1], place[2]) for place in dense_patch_slices(padded, window, steps)]
    weights = compute_importance_map(tuple(window), mode="gaussian", sigma_scale=0.125, device=device)  # type: ignore
    total: Tensor | None = None
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        results = run(torch.stack([x[0, :, *place] for place in some]).to(device))
        weighted = (results * weights).cpu()
        if total is None:
            total = weighted.new_zeros(1, weighted.shape[1], *padded)
        for place, part in zip(some, weighted, strict=True):
            total[0, :, *place] += part
    assert total is not None
    _divide(total, places, weights.cpu())
    cut = tuple(slice(m // 2, m // 2 + n) for m, n in zip(missing, sides, strict=True))
    return total[:, :, *cut]


def _divide(total: Tensor, places: Sequence[Place], weights: Tensor) -> None:
    """Divide by the sum of the weights, in place, in the ranges of the first axis between two borders of windows."""
    borders = sorted({edge for place in places for edge in (place[0].start, place[0].stop)})
    for low, high in zip(borders, borders[1:], strict=False):
        summed = weights.new_zeros(high - low, *total.shape[3:])
        for rows, *others in places:
            if rows.start <= low and high <= rows.stop:
                summed[:, *others] += weights[low - rows.start : high - rows.start]
        total[:, :, low:high] /= summed

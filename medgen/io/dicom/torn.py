"""Detect CT slices that lost their last rows, as when a transfer breaks off."""

import numpy as np

BLANK_SHARE = 0.2  # of the rows: fewer blank ones are not looked at
BODY_SHARE = 0.1  # of the voxels: less body in the next slice says nothing
CUT = 0.8  # body in the last row of a torn slice, as a share of that in the next slice; anatomy becomes narrower
MOST_TOGETHER = 4  # neighbouring slices torn in the same row
AIR_HU = -500.0


def torn_slices(data: np.ndarray) -> tuple[list[int], list[int]]:
    """Return the numbers (from 1) of torn slices, and of blank slices at either end of the volume.

    A slice is torn if it ends in rows of one value where the nearest whole slice has a body, and if the body is cut
    straight across there: anatomy that ends becomes narrower first. A slice without any other value is torn if it lies
    between others; at the ends it may as well be empty, as in reformatted and padded series.

    Args:
        data: (columns, rows, slices) in HU.
    """
    rows, count = data.shape[1:]
    filled = np.zeros(count, int)  # rows up to the last one that is not blank
    for k in range(count):
        used = (data[:, :, k] != data[-1, -1, k]).any(axis=0)
        filled[k] = rows - int(np.argmax(used[::-1])) if used.any() else 0
    most = int(np.median(filled))
    whole = np.flatnonzero(filled >= most - BLANK_SHARE * rows)
    inside = np.flatnonzero(filled)
    torn: list[int] = []
    empty: list[int] = []
    for k in np.setdiff1d(np.arange(count), whole).tolist():
        near = data[:, :, whole[np.argmin(np.abs(whole - k))]] > AIR_HU
        last = filled[k] - 2  # the last row may be torn within itself
        if near[:, filled[k] : most].mean() <= BODY_SHARE:
            continue
        if filled[k] == 0:
            (torn if inside[0] < k < inside[-1] else empty).append(k + 1)
        elif _run(filled, k) > MOST_TOGETHER:
            continue  # a smaller field of view, padded
        elif last >= 0 and (data[:, last, k] > AIR_HU).sum() >= CUT * near[:, last].sum() > BODY_SHARE * len(near):
            torn.append(k + 1)
    return torn, empty


def _run(values: np.ndarray, k: int) -> int:
    """Return how many neighbours in a row, with ``k`` among them, have its value."""
    other = np.flatnonzero(values != values[k])
    place = int(np.searchsorted(other, k))
    first = other[place - 1] + 1 if place else 0
    return int((other[place] if place < len(other) else len(values)) - first)

"""Feature rows sorted by the volume that they are of, walked in blocks of whole volumes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen.errors import InputError

BLOCK = 1024  # rows of a block: 8 MiB for a matrix of two, whatever the number of rows; more for a larger volume alone

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Block:
    """Whole groups: their ``rows`` (n, d), the first row of each (``starts``), and places among all rows and groups."""

    rows: Array
    starts: Array
    places: slice
    groups: slice

    @property
    def single(self) -> bool:
        """Whether each group is one row, so that there is nothing to join."""
        return len(self.starts) == len(self.rows)


@dataclass(frozen=True, eq=False)
class GroupedRows:
    """``rows`` (n, d) sorted by group and the ``sizes`` (g,) of the groups."""

    rows: Array
    sizes: Array

    def blocks(self) -> Iterator[Block]:
        ends = np.cumsum(self.sizes)
        starts = ends - self.sizes
        first = 0
        while first < len(ends):
            last = max(first + 1, int(np.searchsorted(ends, starts[first] + BLOCK, side="right")))
            places = slice(int(starts[first]), int(ends[last - 1]))
            yield Block(self.rows[places], starts[first:last] - places.start, places, slice(first, last))
            first = last


def grouped(rows: Array, groups: Array | None) -> GroupedRows:
    """Rows with the volume or patient of each, (n,) of any values; None: each row is its own.

    Raises `InputError` where there are not as many groups as rows.
    """
    if groups is None:
        return GroupedRows(rows, np.ones(len(rows), np.int64))
    if np.shape(groups) != (len(rows),):
        raise InputError(
            "features-groups-mismatch", f"groups {np.shape(groups)} must name the volume of each of {len(rows)} rows"
        )
    numbers = np.unique(groups, return_inverse=True)[1]
    return GroupedRows(rows[np.argsort(numbers, kind="stable")], np.bincount(numbers))


def join_columns(values: Array, block: Block, by: np.ufunc) -> Array:
    """A matrix (m, rows of the block) → (m, groups of the block), the columns of a group joined."""
    return values if block.single else by.reduceat(values, block.starts, axis=1)


def join_rows(values: Array, block: Block, by: np.ufunc) -> Array:
    """A matrix (rows of the block, n) → (groups of the block, n)."""
    return values if block.single else by.reduceat(values, block.starts, axis=0)

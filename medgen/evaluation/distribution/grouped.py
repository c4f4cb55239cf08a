"""Feature rows sorted by group (volume or patient), and iteration over blocks of whole groups."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen.errors import InputError

BLOCK = 1024  # rows per block (the matrix between two blocks takes 8 MiB); a larger group forms a block of its own

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Block:
    """A block of whole groups.

    Attributes:
        rows: (n, d), rows of the block.
        starts: (g,), first row of each group in the block.
        row_slice: position of the rows among all rows.
        groups: position of the groups among all groups.
    """

    rows: Array
    starts: Array
    row_slice: slice
    groups: slice

    @property
    def single(self) -> bool:
        """Whether each group has one row, so that nothing needs to be reduced."""
        return len(self.starts) == len(self.rows)


@dataclass(frozen=True, eq=False)
class GroupedRows:
    """``rows`` (n, d) sorted by group and the ``sizes`` (g,) of the groups."""

    rows: Array
    sizes: Array

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of whole groups, of at most `BLOCK` rows unless a single group is larger."""
        ends = np.cumsum(self.sizes)
        starts = ends - self.sizes
        first = 0
        while first < len(ends):
            last = max(first + 1, int(np.searchsorted(ends, starts[first] + BLOCK, side="right")))
            row_slice = slice(int(starts[first]), int(ends[last - 1]))
            yield Block(self.rows[row_slice], starts[first:last] - row_slice.start, row_slice, slice(first, last))
            first = last


def grouped(rows: Array, groups: Array | None) -> GroupedRows:
    """Sort rows by group.

    Args:
        rows: (n, d).
        groups: volume or patient of each row, (n,) of any values; None: each row is its own group.

    Raises `InputError` if ``groups`` does not have one entry for each row.
    """
    if groups is None:
        return GroupedRows(rows, np.ones(len(rows), np.int64))
    if np.shape(groups) != (len(rows),):
        raise InputError(
            "features-groups-mismatch",
            f"groups {np.shape(groups)} must have one entry for each of the {len(rows)} rows",
        )
    numbers = np.unique(groups, return_inverse=True)[1]
    return GroupedRows(rows[np.argsort(numbers, kind="stable")], np.bincount(numbers))


def join_columns(values: Array, block: Block, reduction: np.ufunc) -> Array:
    """Reduce a matrix (m, rows of the block) to (m, groups of the block) with ``reduction``."""
    return values if block.single else reduction.reduceat(values, block.starts, axis=1)


def join_rows(values: Array, block: Block, reduction: np.ufunc) -> Array:
    """Reduce a matrix (rows of the block, n) to (groups of the block, n) with ``reduction``."""
    return values if block.single else reduction.reduceat(values, block.starts, axis=0)

"""Detect slices that lost their last rows in transfer. Ends of the anatomy and padding are not detected."""

import numpy as np
import pytest
from dicom_series import write_ct

from medgen.io.dicom.torn import torn_slices
from medgen.io.read import read_volume


def body(noise=True, slices=8, rows=32, columns=24):
    """Stored values of an elliptic body; without noise, air is one value."""
    y, x = np.mgrid[:rows, :columns]
    inside = ((y - rows / 2) / (0.42 * rows)) ** 2 + ((x - columns / 2) / (0.42 * columns)) ** 2 < 1
    air = np.random.default_rng(0).integers(0, 40, (slices, rows, columns)) * noise
    return np.where(inside, 1060 + air, air).astype(np.uint16)


@pytest.mark.parametrize("noise", [True, False])
@pytest.mark.parametrize(
    ("lost", "torn", "empty"),
    [
        ({}, [], []),
        ({2: 0}, [3], []),
        ({2: 0, 3: 0}, [3, 4], []),
        ({3: 12}, [4], []),
        ({0: 14, 7: 20}, [1, 8], []),
        ({3: 12, 4: 12}, [4, 5], []),
        ({6: 12, 7: 12}, [7, 8], []),
        ({6: 0, 7: 0}, [], [7, 8]),
    ],
)
def test_slices_whose_last_rows_were_lost_are_told(lost, torn, empty, noise, tmp_path):
    """``lost``: slice, and its first row that is zero."""
    pixels = body(noise)
    for k, row in lost.items():
        pixels[k, row:] = 0
        pixels[k, max(row - 1, 0), 10:] = 0  # within a row
    write_ct(tmp_path, pixels)
    volume = read_volume(tmp_path)
    assert torn_slices(volume.data) == (torn, empty)
    assert [f"{len(torn)} slices, such as slice" in text for text in volume.warnings] == [True] * bool(torn)
    assert any("hold one value only" in text for text in volume.notes) == bool(empty)


def test_anatomy_that_ends_is_not_torn():
    y, x, k = np.mgrid[:40, :36, :12]
    head = ((y - 20) / 16) ** 2 + ((x - 18) / 14) ** 2 + ((k - 0) / 11) ** 2 < 1  # with a vertex, in clean air
    for data in (head, head[::-1], np.moveaxis(head, 2, 0), np.moveaxis(head, 2, 0)[:, ::-1], np.moveaxis(head, 2, 1)):
        columns_rows_slices = np.where(data, 40.0, -1024.0).transpose(1, 0, 2)
        assert torn_slices(columns_rows_slices)[0] == []


def test_a_smaller_field_of_view_in_part_of_the_slices_is_not_torn():
    data = body(slices=24).transpose(2, 1, 0) - 1024.0
    data[:, 22:, 16:21] = -1024
    assert torn_slices(data)[0] == []

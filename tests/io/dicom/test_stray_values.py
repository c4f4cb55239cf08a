"""Reading a series warns about stored values that contradict the header."""

import numpy as np
import pydicom
import pytest
from dicom_series import stored, write_ct

from medgen.io.read import read_volume


def changed(folder, n, **elements):
    for file in sorted(folder.iterdir())[n:]:
        ds = pydicom.dcmread(file)
        for key, value in elements.items():
            setattr(ds, key, value)
        ds.save_as(file)


@pytest.mark.parametrize("first", [0, 3])
def test_a_slice_of_another_sign_is_told(tmp_path, first):
    write_ct(tmp_path, stored(4, 8, 9, -1000, 600), kind="i2", rescale=lambda k: (1, 0))
    assert read_volume(tmp_path).warnings == ()
    changed(tmp_path, first, PixelRepresentation=0)
    told = [text for text in read_volume(tmp_path).warnings if "has values as 6" in text]
    assert len(told) == 1 and (first == 0 or told[0].startswith("slice 4 "))


@pytest.mark.parametrize(("highest", "told"), [(4000, False), (4600, True)])
def test_values_that_need_more_bits_than_the_header_says_are_told(tmp_path, highest, told):
    pixels = stored(4, 8, 9, 0, 4000)
    pixels[2, 4, 4] = highest
    write_ct(tmp_path, pixels)
    changed(tmp_path, 0, BitsStored=12, HighBit=11)
    assert ["bits above BitsStored" in text for text in read_volume(tmp_path).warnings] == [True] * told


def test_signed_values_may_have_their_sign_or_zeros_above_their_bits(tmp_path):
    pixels = stored(4, 8, 9, -1000, 1500).astype(np.int16)
    for name, kept in (("extended", pixels), ("cut", pixels & 0x0FFF)):
        write_ct(tmp_path / name, kept, kind="i2", rescale=lambda k: (1, 0))
        changed(tmp_path / name, 0, BitsStored=12, HighBit=11)
        volume = read_volume(tmp_path / name)
        assert volume.warnings == () and np.array_equal(volume.data, pixels.transpose(2, 1, 0))

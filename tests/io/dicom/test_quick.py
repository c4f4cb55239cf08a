"""The direct parser against pydicom: the same elements, the same voxels, and the same refusals."""

import warnings

import numpy as np
import pydicom
import pytest
from dicom_series import write_ct
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from refusal import refused

from medgen.io.dicom import header as dicom_header
from medgen.io.dicom import quick, voxels
from medgen.io.dicom.header import LAST, read_header
from medgen.io.dicom.pixels import has_rescale, rescale_of
from medgen.io.dicom.read import read_series
from medgen.io.dicom.units import unit_of, unit_warning


@pytest.fixture
def counted(monkeypatch):
    """Files that pydicom reads as a whole."""
    read = []
    monkeypatch.setattr(voxels, "dcmread", lambda *a, **k: read.append(a) or dcmread(*a, **k))
    return read


def rewritten(path, change, syntax=ExplicitVRLittleEndian, *, undefined=False):
    dataset = dcmread(path)
    change(dataset)
    dataset.file_meta.TransferSyntaxUID = syntax
    for element in dataset:
        element.is_undefined_length = undefined and element.VR == "SQ"
    dcmwrite(path, dataset, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)


@given(
    st.integers(1, 5),
    st.sampled_from([(16, 0), (12, 0), (12, 1), (16, 1), (9, 1)]),
    st.sampled_from([(1, 0), (1, -1024), (2, 3), (-1, 7), (0.5, -3), (1.25, 0.1)]),
    st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=25, deadline=None)
def test_voxels_are_those_of_pydicom(tmp_path_factory, slices, pixel, rescale, syntax, undefined, nested, seed):
    folder = tmp_path_factory.mktemp("series")
    rng = np.random.default_rng(seed)
    write_ct(folder, np.zeros((slices + 1, 3, 4), int))
    expected = []

    def change(dataset):
        # Unused bits hold anything.
        stored = rng.integers(0, 2**16, (3, 4)).astype("<u2")
        dataset.PixelData, dataset.PixelRepresentation = stored.tobytes(), pixel[1]
        dataset.BitsStored, dataset.HighBit = pixel[0], pixel[0] - 1
        dataset.RescaleSlope, dataset.RescaleIntercept = rescale
        dataset.add_new(0x00291001, "LO", "x" * int(rng.integers(9)))
        if nested:
            inner, outer = Dataset(), Dataset()
            inner.ReferencedSOPInstanceUID = "1.2.3"
            outer.ReferencedImageSequence = [inner, inner]
            dataset.RequestAttributesSequence = [outer, Dataset()]
        expected.append(dataset.pixel_array.astype(np.float64) * rescale[0] + rescale[1])

    for path in sorted(folder.iterdir()):
        rewritten(path, change, syntax, undefined=undefined)
    volume = read_series(folder)
    by_position = np.stack(expected, -1).transpose(1, 0, 2)
    assert any(np.array_equal(volume.data, v.astype(np.float32)) for v in (by_position, by_position[..., ::-1]))


def test_all_slices_but_the_first_are_read_directly(tmp_path, counted):
    write_ct(tmp_path, np.random.default_rng(0).integers(0, 999, (5, 4, 3)))
    read_series(tmp_path)
    assert len(counted) == 1


@pytest.mark.parametrize(
    ("keyword", "value", "code"),
    [
        ("HighBit", 15, "dicom-high-bit"),
        ("BitsAllocated", 12, "dicom-bits-allocated"),
        ("RescaleSlope", 0, "dicom-rescale-invalid"),
        ("RescaleIntercept", None, "dicom-rescale-invalid"),
        ("PixelData", b"\0" * 10, "dicom-not-decodable"),
    ],
)
def test_a_later_slice_that_is_wrong_is_refused(tmp_path, keyword, value, code):
    write_ct(tmp_path, np.ones((4, 4, 3), int))
    path = sorted(tmp_path.iterdir())[2]
    dataset = dcmread(path)
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -1024
    if value is None:
        del dataset[keyword]
    else:
        dataset[keyword].value = value
    dataset.save_as(path)
    with refused(code, names=path.name):
        read_series(tmp_path)


def test_a_truncated_later_slice_is_refused(tmp_path):
    write_ct(tmp_path, np.ones((4, 4, 3), int))
    path = sorted(tmp_path.iterdir())[2]
    path.write_bytes(path.read_bytes()[:-4])
    with refused("dicom-not-decodable", "dicom-truncated", names=path.name):
        read_series(tmp_path)


@pytest.mark.parametrize("place", [0, 4])
def test_excess_pixel_data_is_told(tmp_path, place):
    """Its place is unknown: pydicom takes the first part."""
    write_ct(tmp_path, np.arange(6 * 4 * 8).reshape(6, 4, 8))
    path = sorted(tmp_path.iterdir())[place]
    wanted = read_series(tmp_path)

    def longer(dataset):
        dataset.PixelData += bytes(16)

    rewritten(path, longer)
    volume = read_series(tmp_path)
    assert [text for text in volume.warnings if "more pixel data than rows" in text]
    assert np.array_equal(volume.data, wanted.data) and not wanted.warnings


@given(st.integers(0, 2**31), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_damaged_header_gives_what_pydicom_gives(tmp_path_factory, seed, implicit):
    folder = tmp_path_factory.mktemp("damaged")
    write_ct(folder, np.ones((1, 4, 3), int))
    path = next(folder.iterdir())
    rewritten(path, lambda _: None, ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
    rng, content = np.random.default_rng(seed), bytearray(path.read_bytes())
    for at in rng.integers(0, len(content), 3):
        content[at] = rng.integers(256)
    path.write_bytes(content)

    def outcome():
        try:
            return repr(read_header(path))
        except Exception as error:
            return repr(error)

    direct = outcome()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(dicom_header, "header_elements", lambda *_: None)
        assert outcome() == direct


def test_elements_are_those_of_pydicom(tmp_path):
    write_ct(tmp_path, np.ones((1, 4, 3), int))
    path = next(tmp_path.iterdir())
    elements, end = quick.header_elements(path.read_bytes(), LAST)
    whole = pydicom.dcmread(path)
    expected = {e.tag for e in (*whole.file_meta, *whole) if e.tag <= LAST}
    assert {raw.tag for raw in elements} == expected and 132 < end < path.stat().st_size


def test_the_elements_that_decide_on_voxels_are_all_compared(tmp_path):
    write_ct(tmp_path, np.ones((1, 4, 3), int))
    path, looked_up = next(tmp_path.iterdir()), set()

    class Watched(Dataset):
        def get(self, key, default=None):
            looked_up.add(key)
            return super().get(key, default)

        def __contains__(self, key):
            looked_up.add(key)
            return super().__contains__(key)

    dataset = dcmread(path)
    for modality in ("CT", "MR"):
        dataset.Modality = modality
        watched = Watched(dataset)
        unit_of(watched, 0), unit_warning(watched, 0), has_rescale(watched, 0), rescale_of(watched, 0, path)
        voxels._padding(watched, 0, path), voxels._check_bits(watched, path)
    tags = {pydicom.tag.Tag(key) for key in looked_up}
    assert len(tags) > 10 and tags <= quick.USED

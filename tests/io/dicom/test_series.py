"""DICOM series: voxels and geometry compared with SimpleITK, on series written with pydicom."""

import shutil
import struct
import threading
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import item, stored, write_ct, write_enhanced_ct
from pydicom.config import WARN
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)
from pydicom.valuerep import validate_value
from refusal import refused
from scipy.spatial.transform import Rotation

from medgen.io.dicom import header as dicom_header
from medgen.io.dicom.header import read_header
from medgen.io.dicom.read import read_series
from medgen.io.dicom.series import list_series, series_uid
from medgen.io.formats.itk import itk_affine
from medgen.io.read import read_geometry, read_volume
from medgen.io.volume import same_geometry
from medgen.io.write import write_volume

LIDC = Path(__file__).parents[4] / "shared/data/lidc_dicom"
AXIAL = np.eye(3)
OBLIQUE = Rotation.from_euler("xyz", (12, -25, 40), degrees=True).as_matrix()
ORIENTATIONS = {
    "axial": AXIAL,
    "feet first, prone": np.diag([-1.0, -1.0, 1.0]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "sagittal": np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]),
    "oblique": OBLIQUE,
}


def scan(slices=6, rows=5, columns=7, low=0, high=4000):
    return np.random.default_rng(1).integers(low, high, (slices, rows, columns))


def write_series(folder, stored, axes=AXIAL, *, kind="u2", step=2.5, names=None, positions=None, uid=None, **tags):
    """Write one file per slice; the columns of ``axes`` are row direction, column direction and normal (LPS)."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    for k, pixels in enumerate(stored):
        ds = FileDataset(None, {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = (
            uid,
            uid[:60] + ".1",
            uid[:60] + ".2",
        )
        ds.PatientID, ds.Modality, ds.SeriesNumber, ds.SeriesDescription = "p", "CT", 3, "thin"
        ds.InstanceNumber = len(stored) - k  # reverse of the position order; must have no effect
        position = np.array([-100.5, 20.25, 30]) + k * step * axes[:, 2] if positions is None else positions[k]
        ds.ImagePositionPatient = [f"{x:.8f}"[:16] for x in position]
        ds.ImageOrientationPatient = [f"{x:.12f}"[:16] for x in axes[:, :2].T.ravel()]
        ds.PixelSpacing, ds.SliceThickness = ["0.8", "0.6"], "2.5"
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns = pixels.shape
        ds.BitsAllocated = ds.BitsStored = 8 * np.dtype(kind).itemsize
        ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(np.dtype(kind).kind == "i")
        ds.RescaleSlope, ds.RescaleIntercept = "1", "-1024"
        ds.PixelData = pixels.astype(kind).tobytes()
        for keyword, value in tags.items():
            value = value(k) if callable(value) else value
            delattr(ds, keyword) if value is None else setattr(ds, keyword, value)
        ds.save_as(folder / (names[k] if names else f"{k:03}.dcm"), enforce_file_format=True)
    return uid


def by_simpleitk(folder, uid):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), uid))
    image = reader.Execute()
    return sitk.GetArrayFromImage(image).transpose(), itk_affine(image)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_agrees_with_simpleitk_in_any_orientation(tmp_path, orientation):
    uid = write_series(tmp_path, scan(), ORIENTATIONS[orientation])
    volume = read_volume(tmp_path)
    array, affine = by_simpleitk(tmp_path, uid)
    np.testing.assert_array_equal(volume.data, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-6)
    assert volume.spacing == pytest.approx((0.6, 0.8, 2.5)) and volume.dtype == np.int16
    assert same_geometry(read_geometry(tmp_path), volume.geometry, tolerance=0.0)


def test_voxel_position_follows_the_slice_header(tmp_path):
    """From the standard (C.7.6.2.1.1): P = S + X * column spacing * column + Y * row spacing * row."""
    stored = scan()
    write_series(tmp_path, stored, OBLIQUE)
    volume = read_volume(tmp_path)
    for k, row, column in ((0, 0, 0), (5, 4, 6), (2, 3, 1)):
        ds = pydicom.dcmread(tmp_path / f"{k:03}.dcm")
        x, y = np.reshape(ds.ImageOrientationPatient, (2, 3)).astype(float)
        lps = np.array(ds.ImagePositionPatient, float) + x * 0.6 * column + y * 0.8 * row
        index = np.linalg.solve(volume.affine, (*(lps * (-1, -1, 1)), 1))[:3]
        np.testing.assert_allclose(index, np.rint(index), atol=1e-4)
        assert volume.data[tuple(np.rint(index).astype(int))] == stored[k, row, column] - 1024


@pytest.mark.parametrize("coding", ["implicit", "undefined lengths", "padding"])
def test_slices_that_differ_in_coding_only_are_one_volume(tmp_path, coding):
    """Names, sequences and padding of every second slice are coded in another way, as by another program."""
    write_ct(tmp_path, stored(6))
    for n, path in enumerate(sorted(tmp_path.iterdir())):
        ds = pydicom.dcmread(path)
        code = pydicom.Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99X", "CT"
        ds.ReferringPhysicianName, ds.ProcedureCodeSequence = "DOE^J", [code]
        if n % 2 and coding == "implicit":
            ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            ds.save_as(path, implicit_vr=True, little_endian=True)
            continue
        if n % 2 and coding == "undefined lengths":
            ds["ProcedureCodeSequence"].is_undefined_length = code.is_undefined_length_sequence_item = True
        if n % 2 and coding == "padding":
            ds.add_new("PixelPaddingValue", "US", 63536)
        ds.save_as(path)
    assert read_series(tmp_path).data.shape[2] == 6
    for path in sorted(tmp_path.iterdir())[::2]:
        ds = pydicom.dcmread(path)
        ds.ProcedureCodeSequence[0].CodeValue = "2"
        ds.save_as(path)
    assert len(list_series(tmp_path)) == 2


def test_order_of_files_does_not_matter(tmp_path):
    stored, names = scan(), ["d", "b.dcm", "a", "f.IMA", "c.dcm", "e.dcm"]
    write_series(tmp_path, stored, OBLIQUE, names=names)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, stored.transpose(2, 1, 0) - 1024.0)
    # one file stands for its series, with and without extension
    for name in ("a", "b.dcm"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).data, volume.data)
        assert read_geometry(tmp_path / name).shape == volume.data.shape


@pytest.mark.parametrize("kind, low", [("i2", -2000), ("u2", 0), ("u1", 0)])
def test_rescale_is_applied_slice_by_slice(tmp_path, kind, low):
    stored = scan(low=low, high=250 if kind == "u1" else 3000)
    slope, inter = [1, 1, 2, 2, 0.5, 0.25], [-1024, 0, 7, 1, -3.5, 0]
    tags = {"RescaleSlope": lambda k: str(slope[k]), "RescaleIntercept": lambda k: str(inter[k])}
    write_series(tmp_path, stored, kind=kind, **tags)
    volume = read_volume(tmp_path)
    expected = stored * np.reshape(slope, (-1, 1, 1)) + np.reshape(inter, (-1, 1, 1))
    np.testing.assert_array_equal(volume.data, expected.transpose(2, 1, 0))
    assert volume.dtype == np.float32  # not all are integers


@pytest.mark.parametrize("high, kind", [(4000, np.int16), (60000, np.int32)])
def test_stored_type_holds_the_values_and_is_written_to_nifti(tmp_path, high, kind):
    write_series(tmp_path / "dicom", scan(high=high))
    volume = read_volume(tmp_path / "dicom")
    assert volume.dtype == kind
    write_volume(tmp_path / "a.nii.gz", volume)
    back = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.dtype == kind and same_geometry(back.geometry, volume.geometry)


def test_without_rescale_the_stored_values_are_the_values(tmp_path):
    stored = scan()
    uid = write_series(tmp_path, stored, RescaleSlope=None, RescaleIntercept=None)
    volume = read_volume(tmp_path)
    np.testing.assert_array_equal(volume.data, stored.transpose(2, 1, 0))
    np.testing.assert_array_equal(volume.data, by_simpleitk(tmp_path, uid)[0])


@pytest.mark.parametrize(
    "tags, fault",
    [
        ({"RescaleSlope": "2", "RescaleIntercept": None}, "only one element of the rescale"),
        ({"RescaleSlope": None, "RescaleIntercept": "-1024"}, "only one element of the rescale"),
        ({"RescaleSlope": "2", "RescaleIntercept": ""}, "only one element of the rescale"),
        ({"RescaleSlope": "1", "RescaleIntercept": ["-1024", "-1024"]}, "a rescale that is not a finite number"),
        ({"RescaleSlope": "0", "RescaleIntercept": "5"}, "a RescaleSlope of 0"),
        ({"RescaleSlope": "nan"}, "a rescale that is not a finite number"),
        ({"RescaleIntercept": "-inf"}, "a rescale that is not a finite number"),
    ],
)
def test_invalid_rescale_is_refused(tmp_path, tags, fault):
    write_series(tmp_path, scan(3), **tags)
    with refused("dicom-rescale-invalid", names=("000.dcm", fault, "RescaleSlope")):
        read_volume(tmp_path)


def test_monochrome1_does_not_change_hu(tmp_path):
    """MONOCHROME1 asks a viewer to show low values bright (C.7.6.3.1.2). ITK inverts the values; medgen does not."""
    stored = scan()
    write_series(tmp_path, stored, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_volume(tmp_path).data, stored.transpose(2, 1, 0) - 1024.0)


def test_rle_is_decoded_and_a_missing_decoder_is_named(tmp_path):
    stored = scan(slices=3)
    write_series(tmp_path, stored)
    for path in tmp_path.iterdir():
        ds = pydicom.dcmread(path)
        ds.compress(RLELossless)
        ds.save_as(path)
    np.testing.assert_array_equal(read_volume(tmp_path).data, stored.transpose(2, 1, 0) - 1024.0)
    for path in tmp_path.iterdir():  # not JPEG 2000 data: refused with and without a decoder
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.save_as(path)
    with refused("dicom-not-decodable"):
        read_volume(tmp_path)


@pytest.mark.parametrize("header, stream", [(0, True), (1, False), (1, True), (0, False)])
def test_jpeg_2000_of_another_sign_than_the_header_is_refused(tmp_path, header, stream):
    """Only the SIZ marker of the codestream is read here; without a contradiction, its lack of data is the error."""
    write_series(tmp_path, scan(slices=3))
    siz = struct.pack(">HHHHIIIIIIIIHBBB", 0xFF4F, 0xFF51, 41, 0, 8, 8, 0, 0, 8, 8, 0, 0, 1, 15 | stream << 7, 1, 1)
    for path in tmp_path.iterdir():
        ds = pydicom.dcmread(path)
        ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
        ds.PixelRepresentation = header
        ds.PixelData = encapsulate([siz])
        ds["PixelData"].VR = "OB"
        ds.save_as(path)
    with refused("dicom-codestream-sign" if header != stream else "dicom-not-decodable"):
        read_volume(tmp_path)


def test_several_series_are_listed_and_chosen(tmp_path):
    first, second = scan(slices=4), scan(slices=6, low=1000)
    a = write_series(tmp_path, first, names=[f"a{k}" for k in range(4)])
    b = write_series(
        tmp_path,
        second,
        names=[f"b{k}" for k in range(6)],
        SeriesNumber=1,
        SeriesDescription="Thick Arterial",
    )
    assert [(s.uid, s.description, s.modality, len(s.files)) for s in list_series(tmp_path)] == [
        (b, "Thick Arterial", "CT", 6),
        (a, "thin", "CT", 4),
    ]
    with refused("dicom-ambiguous-folder") as info:
        read_volume(tmp_path)
    for part in ("--series", a, b, "'thin'", "'Thick Arterial'", "4 slices", "6 slices", "1)", "2)"):
        assert part in str(info.value)
    for choice, expected in ((a, first), ("2", first), ("thin", first), ("1", second), ("arterial", second)):
        volume = read_volume(tmp_path, series=choice)
        np.testing.assert_array_equal(volume.data, expected.transpose(2, 1, 0) - 1024.0)
        assert read_geometry(tmp_path, series=choice).shape == volume.data.shape
    assert series_uid(tmp_path / "a0") == a
    assert read_volume(tmp_path / "a0").data.shape[2] == 4  # a file names its own series
    for choice in ("3", "th", "venous", "", "0"):
        with refused("dicom-ambiguous-folder", names=f"'{choice}'"):
            read_volume(tmp_path, series=choice)


def test_localisers_segmentations_and_other_files_are_ignored(tmp_path):
    stored = scan()
    write_series(tmp_path, stored)
    write_series(tmp_path / "x", scan(2), names=["s0", "s1"], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "y", scan(1), names=["seg"], Modality="SEG")
    for path in (tmp_path / "x/s0", tmp_path / "x/s1", tmp_path / "y/seg"):
        path.rename(tmp_path / path.name)
    (tmp_path / "report.txt").write_text("not DICOM")
    (tmp_path / "empty.txt").touch()
    np.testing.assert_array_equal(read_volume(tmp_path).data, stored.transpose(2, 1, 0) - 1024.0)
    assert [s.remark for s in list_series(tmp_path)].count("localiser") == 1


def test_a_folder_of_folders(tmp_path):
    stored = scan()
    write_series(tmp_path / "study" / "series", stored)
    np.testing.assert_array_equal(read_volume(tmp_path).data, stored.transpose(2, 1, 0) - 1024.0)


def test_rounded_positions_are_accepted_and_the_stack_is_straight(tmp_path):
    positions = [np.round([-10, -10, 0.625 * k], 1) for k in range(30)]
    write_series(tmp_path, scan(30), positions=positions)
    volume = read_volume(tmp_path)
    np.testing.assert_allclose(volume.affine[:3, 2], (0, 0, positions[-1][2] / 29))


def test_tilted_gantry_gives_a_sheared_affine(tmp_path):
    shift = np.array([0, np.sin(np.radians(15)), np.cos(np.radians(15))]) * 3
    write_series(tmp_path, scan(), positions=[shift * k for k in range(6)])
    volume = read_volume(tmp_path)
    for k in range(6):
        np.testing.assert_allclose((volume.affine @ (0, 0, k, 1))[:3], shift * k * (-1, -1, 1), atol=1e-6)


def test_a_single_slice_needs_its_thickness(tmp_path):
    write_series(tmp_path, scan(1))
    assert read_volume(tmp_path).spacing == pytest.approx((0.6, 0.8, 2.5))
    write_series(tmp_path, scan(1), SliceThickness=None)
    with refused("dicom-single-slice"):
        read_volume(tmp_path)


# Refused, each with one sentence that names the folder or file --------------------------------------------


def refused_reading(code, folder, names=(), series=None):
    for read in (read_volume, read_geometry):
        with refused(code, names=names) as info:
            read(folder, series=series)
        assert str(folder) in str(info.value) and "\n" not in str(info.value)


@pytest.mark.parametrize("slices, gone", [(8, 3), (3, 1), (50, 48)])
def test_a_missing_slice_is_named_with_its_gap(tmp_path, slices, gone):
    write_series(tmp_path, scan(slices + 1), OBLIQUE)
    (tmp_path / f"{gone:03}.dcm").unlink()
    names = ("5.000 mm", f"{gone - 1:03}.dcm", f"{gone + 1:03}.dcm", f"{3.75 if slices == 3 else 2.5:.3f} mm")
    refused_reading("dicom-spacing-uneven", tmp_path, names)


def test_left_justified_pixels_are_refused(tmp_path):
    """pydicom and SimpleITK read left-justified pixels as wrong values."""
    write_series(tmp_path / "left", scan() << 4, BitsStored=12, HighBit=15)
    with refused("dicom-high-bit", names=("000.dcm", "HighBit")):
        read_volume(tmp_path / "left")
    write_series(tmp_path / "unsaid", scan(), HighBit=None)
    np.testing.assert_array_equal(read_volume(tmp_path / "unsaid").data, scan().transpose(2, 1, 0) - 1024.0)


def test_uneven_and_duplicate_slices(tmp_path):
    heights = [0, 1, 2, 3.3, 4.3, 5.3]
    write_series(tmp_path / "uneven", scan(), positions=[np.array([0, 0, z]) for z in heights])
    names = ("1.300 mm", "002.dcm", "003.dcm", "1.000 mm")
    refused_reading("dicom-spacing-uneven", tmp_path / "uneven", names)
    heights = [0, 1, 2, 2, 3, 4]
    write_series(tmp_path / "twice", scan(), positions=[np.array([0, 0, z]) for z in heights])
    refused_reading("dicom-same-position", tmp_path / "twice", ("002.dcm", "003.dcm"))
    wander = [np.array([0.5 * (k == 3), 0, k]) for k in range(6)]
    write_series(tmp_path / "wander", scan(), positions=wander)
    refused_reading("dicom-slices-shifted", tmp_path / "wander", ("003.dcm", "0.500 mm", "002.dcm"))


def test_mixed_slices(tmp_path):
    turned = OBLIQUE[:, :2].T.ravel().round(6).tolist()
    straight = AXIAL[:, :2].T.ravel().tolist()
    write_series(tmp_path / "turned", scan(), ImageOrientationPatient=lambda k: turned if k == 4 else straight)
    refused_reading("dicom-slices-differ", tmp_path / "turned", ("004.dcm", "orientation"))
    write_series(tmp_path / "zoom", scan(), PixelSpacing=lambda k: [1, 1] if k == 2 else [2, 2])
    refused_reading("dicom-slices-differ", tmp_path / "zoom", "pixel spacing")
    uid = write_series(tmp_path / "size", scan(4))
    write_series(tmp_path / "size", scan(1, rows=9), names=["z"], uid=uid)
    refused_reading("dicom-slices-differ", tmp_path / "size", "in size")


@pytest.mark.parametrize(
    "tags, code, name",
    [
        ({"ImagePositionPatient": None}, "dicom-geometry-missing", "ImagePositionPatient"),
        ({"ImageOrientationPatient": None}, "dicom-geometry-missing", "ImageOrientationPatient"),
        ({"PixelSpacing": None}, "dicom-geometry-missing", "PixelSpacing"),
        ({"PixelSpacing": [0, 1]}, "dicom-geometry-missing", "PixelSpacing"),
        ({"NumberOfFrames": 2}, "dicom-frames-not-placed", "000.dcm"),
        ({"SamplesPerPixel": 3}, "dicom-colour", "000.dcm"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "dicom-orientation-invalid", "ImageOrientationPatient"),
    ],
)
def test_images_without_a_position_are_refused(tmp_path, tags, code, name):
    write_series(tmp_path, scan(2), **tags)
    refused_reading(code, tmp_path, name)


def test_damaged_files(tmp_path):
    write_series(tmp_path, scan(rows=40))
    path = tmp_path / "003.dcm"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with refused("dicom-not-decodable", names="003.dcm"):
        read_volume(tmp_path)
    for content, code in (
        (whole[:400], "dicom-truncated"),
        (whole[:200], "dicom-truncated"),
        (b"", "dicom-unreadable"),
        (b"text file, not DICOM", "dicom-unreadable"),
    ):
        path.write_bytes(content)
        with refused(code, names="003.dcm"):
            read_volume(tmp_path)


def test_pydicoms_warnings_stay_silent_whatever_threads_overlap(tmp_path, monkeypatch):
    """One thread finishes reading while another reads a value that a pydicom warning quotes."""
    write_series(tmp_path, scan(2))
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    real = dicom_header._elements

    def elements(file, prefixed):
        if file.name.endswith("000.dcm"):
            first_in.set()
            assert second_in.wait(10)
        else:
            second_in.set()
            assert first_out.wait(10)
            validate_value("UI", "Doe^Jane", WARN)
        return real(file, prefixed)

    monkeypatch.setattr(dicom_header, "_elements", elements)
    first, second = (threading.Thread(target=read_header, args=[tmp_path / f"00{n}.dcm"]) for n in (0, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first.start()
        assert first_in.wait(10)
        second.start()
        first.join()
        first_out.set()
        second.join()
        validate_value("UI", "Doe^Jane", WARN)
    assert not caught


@pytest.mark.skipif(not LIDC.is_dir(), reason="../shared/data/lidc_dicom is absent")
def test_a_scanner_series_agrees_with_simpleitk():
    volume = read_series(LIDC)
    uid = list_series(LIDC)[0].uid
    folder = list_series(LIDC)[0].files[0].parent
    array, affine = by_simpleitk(folder, uid)
    np.testing.assert_array_equal(volume.data, array)
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert volume.data.shape == (512, 512, 40) and volume.spacing == pytest.approx((0.78, 0.78, 1), abs=0.01)


def test_a_slice_without_the_rescale_of_the_others(tmp_path):
    """Its values would be wrong by about 1000 HU."""
    write_ct(tmp_path / "a", stored(4, 8, 9))
    ds = pydicom.dcmread(tmp_path / "a/002.dcm")
    del ds.RescaleSlope, ds.RescaleIntercept
    ds.save_as(tmp_path / "a/002.dcm")
    with refused("dicom-rescale-partly-missing", names=("002.dcm", "000.dcm")):
        read_volume(tmp_path / "a")


@pytest.mark.parametrize("others", ["frame", "nothing changed"])
def test_a_frame_without_the_rescale_of_the_others(tmp_path, others):
    write_enhanced_ct(tmp_path / "a.dcm", stored(4, 8, 9))
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    if others == "nothing changed":  # then the stored values are used, with or without a warning
        for group in ds.PerFrameFunctionalGroupsSequence:
            group.PixelValueTransformationSequence = [item(RescaleSlope="1", RescaleIntercept="0", RescaleType="HU")]
    del ds.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence
    ds.save_as(tmp_path / "a.dcm")
    if others == "nothing changed":
        np.testing.assert_array_equal(read_volume(tmp_path).data, stored(4, 8, 9).transpose(2, 1, 0))
        return
    with refused("dicom-rescale-partly-missing", names=("a.dcm frame 3", "a.dcm frame 1")):
        read_volume(tmp_path)


@pytest.mark.parametrize("bits", [1, 12, 24])
def test_pixels_of_other_than_whole_bytes_are_refused(tmp_path, bits):
    write_series(tmp_path, scan(3))
    for path in tmp_path.iterdir():
        ds = pydicom.dcmread(path)
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
        ds.save_as(path)
    with refused("dicom-bits-allocated", names="BitsAllocated"):
        read_volume(tmp_path)


def test_truncated_compressed_image_is_named(tmp_path):
    """pydicom then drops all elements of the file, so that the rescale seems to be missing."""
    write_series(tmp_path, scan(3))
    paths = sorted(tmp_path.iterdir())
    for path in paths:
        ds = pydicom.dcmread(path)
        ds.compress(RLELossless)
        ds.save_as(path)
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    with refused("dicom-truncated", names=paths[1].name):
        read_volume(tmp_path)


def test_deeply_nested_sequences_are_refused(tmp_path):
    write_series(tmp_path, scan(3))
    path = sorted(tmp_path.iterdir())[1]
    begin, end = (
        bytes.fromhex("40007502 5351 0000 ffffffff feff00e0 ffffffff"),
        bytes.fromhex("feff0de0 00000000 feffdde0 00000000"),
    )
    data = path.read_bytes()
    place = data.index(bytes.fromhex("e07f1000"))
    path.write_bytes(data[:place] + begin * 3000 + end * 3000 + data[place:])
    with refused("dicom-nested-too-deep", names=path.name):
        read_volume(tmp_path)


def test_each_volume_of_a_series_has_its_own_description(tmp_path):
    names = ("Abd arterial", "Abd portal")
    write_series(tmp_path, scan(), SeriesDescription=lambda k: names[k % 2], AcquisitionNumber=lambda k: k % 2 + 1)
    assert sorted(s.description for s in list_series(tmp_path)) == list(names)


def test_a_number_in_the_list_that_another_series_has_is_refused(tmp_path):
    """Folders of a study often hold the series 2 and 3: does 2 mean the second in the list, or the series 2?"""
    write_series(tmp_path, scan(4), names=[f"a{k}" for k in range(4)], SeriesNumber=2, SeriesDescription="native")
    write_series(tmp_path, scan(5), names=[f"b{k}" for k in range(5)], SeriesNumber=3, SeriesDescription="portal")
    with refused("dicom-series-number-ambiguous", names="'native'"):
        read_volume(tmp_path, series="2")
    assert read_volume(tmp_path, series="1").data.shape[2] == 4


def test_a_scout_above_the_folder_of_the_scan_does_not_hide_it(tmp_path):
    write_series(tmp_path / "CT", scan(4))
    write_series(tmp_path, scan(1), names=["scout"], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert read_volume(tmp_path).data.shape[2] == 4
    shutil.rmtree(tmp_path / "CT")
    assert "no scan: localiser" in read_volume(tmp_path).warnings[-1]


def test_derived_slices_after_a_gap_are_part_of_the_scan(tmp_path):
    """A slice is lost, and those after it were marked as derived by another program."""
    write_series(tmp_path, scan(10), ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])
    for path in sorted(tmp_path.iterdir(), key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))[8:]:
        ds = pydicom.dcmread(path)
        ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        ds.save_as(path)
    sorted(tmp_path.iterdir(), key=lambda p: float(pydicom.dcmread(p).ImagePositionPatient[2]))[7].unlink()
    with refused("dicom-spacing-uneven"):
        read_volume(tmp_path)

"""NRRD, MHA and MHD compared with SimpleITK, and damaged files that ITK reads without an error."""

import numpy as np
import pytest
import SimpleITK as sitk
from refusal import refused
from scipy.spatial.transform import Rotation

from medgen.io.formats.itk import data_files
from medgen.io.read import read_geometry, read_volume
from medgen.io.volume import Volume
from medgen.io.write import write_volume

ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")


def image(kind=np.int16, shape=(7, 6, 5)) -> sitk.Image:
    """A SimpleITK image, array axes (Z, Y, X), oblique."""
    made = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 120, shape).astype(kind))
    made.SetSpacing((0.7, 0.8, 2.5))
    made.SetOrigin((-120.3, 55.1, 700.7))
    made.SetDirection(Rotation.from_euler("xyz", (10, -20, 35), degrees=True).as_matrix().ravel().tolist())
    return made


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_reads_and_writes_what_simpleitk_does(tmp_path, ending, compressed, kind):
    original = image(kind)
    path, copy = tmp_path / f"a{ending}", tmp_path / "copy" / f"a{ending}"
    sitk.WriteImage(original, str(path), useCompression=compressed)
    volume = read_volume(path)
    assert volume.dtype == np.dtype(kind) and volume.data.dtype == np.float32
    np.testing.assert_array_equal(volume.data, sitk.GetArrayFromImage(original).transpose())
    for index in ((0, 0, 0), (4, 5, 6), (4, 0, 3)):
        lps = original.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((volume.affine @ (*index, 1))[:3], np.multiply(lps, (-1, -1, 1)), atol=1e-9)
    np.testing.assert_array_equal(read_geometry(path).affine, volume.affine)
    write_volume(copy, volume)
    back, read_again = sitk.ReadImage(str(copy)), sitk.ReadImage(str(path))
    assert back.GetPixelID() == original.GetPixelID()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(original))
    np.testing.assert_allclose(back.GetSpacing(), read_again.GetSpacing(), rtol=1e-14)
    np.testing.assert_allclose(back.GetDirection(), read_again.GetDirection(), atol=1e-14)
    np.testing.assert_allclose(back.GetOrigin(), read_again.GetOrigin(), rtol=1e-14)


def test_header_and_data_file_are_written_together(tmp_path):
    volume = Volume(np.zeros((3, 4, 5)), np.eye(4), np.dtype(np.int16))
    write_volume(tmp_path / "a.mhd", volume)
    write_volume(tmp_path / "a.nhdr", volume)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mhd", "a.nhdr", "a.raw.gz", "a.zraw"]
    assert data_files(tmp_path / "a.mhd") == [tmp_path / "a.zraw"]
    assert data_files(tmp_path / "a.nhdr") == [tmp_path / "a.raw.gz"]


@pytest.mark.parametrize(
    ("name", "field", "found"),
    [
        ("h.mhd", "ElementDataFile = LIST\r\ns1.raw\r\nnone.raw\n", ["s1.raw"]),
        ("h.mhd", "ElementDataFile = s%d.raw 1 2 1\n", ["s1.raw", "s2.raw"]),
        ("h.nhdr", "NRRD0004\ndatafile: s%d.raw 1 2 1\n", ["s1.raw", "s2.raw"]),
        ("h.nhdr", "NRRD0004\ndatafile: s%02d.raw 1 2 1\n", []),
        ("h.nhdr", "NRRD0004\ndata file: LIST\ns2.raw\n", ["s2.raw"]),
        ("h.mhd", "ElementDataFile = LOCAL\n", []),
        ("h.mhd", "ElementDataFile = ../s1.raw\n", []),
        ("h.mhd", "ElementDataFile = \0\n", []),
        ("h.mhd", "ElementDataFile =\ns1.raw", []),
        ("h.nhdr", "NRRD0004\ndata file: %\n", []),
        ("h.mha", "ElementDataFile = s1.raw\n", ["s1.raw"]),
    ],
)
def test_data_files_are_the_existing_files_of_the_header(tmp_path, name, field, found):
    (tmp_path / name).write_bytes(field.encode())
    for n in (1, 2):
        (tmp_path / f"s{n}.raw").write_bytes(b"x")
    assert [path.name for path in data_files(tmp_path / name)] == found
    assert data_files(tmp_path / f"none/{name}") == []


def test_nrrd_of_another_space_is_turned(tmp_path):
    """NRRD may be in RAS, which is medgen's own convention."""
    header = (
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: right-anterior-superior\nsizes: 2 3 4\n"
        "space directions: (2,0,0) (0,3,0) (0,0,4)\nkinds: domain domain domain\nencoding: raw\n"
        "space origin: (10,20,30)\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + bytes(range(24)))
    volume = read_volume(tmp_path / "a.nrrd")
    expected = np.diag([2.0, 3, 4, 1])
    expected[:3, 3] = (10, 20, 30)
    np.testing.assert_allclose(volume.affine, expected)
    np.testing.assert_array_equal(volume.data.ravel(order="F"), range(24))


def refused_reading(code, path, capfd, names=(), readers=(read_volume, read_geometry)):
    for read in readers:
        with refused(code, names=names) as info:
            read(path)
        assert str(path) in str(info.value) and "\n" not in str(info.value)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_wrong_kinds_of_image_are_refused(tmp_path, capfd, ending):
    array = np.ones((3, 4, 5, 3), np.uint8)
    for name, made, code in (
        (
            "vector",
            sitk.GetImageFromArray(array, isVector=True),
            {".mha": "meta-vector-voxels", ".nrrd": "nrrd-vector-voxels"}[ending],
        ),
        ("flat", sitk.GetImageFromArray(array[0, ..., 0]), "volume-too-few-axes"),
        ("series", sitk.GetImageFromArray(array, isVector=False), "volume-too-many-axes"),
    ):
        path = tmp_path / f"{name}{ending}"
        sitk.WriteImage(made, str(path))
        refused_reading(code, path, capfd)
    path = tmp_path / f"nan{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(np.full((3, 3, 3), np.nan, np.float32)), str(path))
    refused_reading("volume-not-finite", path, capfd, " 27 ", [read_volume])


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
def test_a_fourth_axis_of_one_is_a_volume(tmp_path, ending):
    array = np.arange(60).reshape(1, 3, 4, 5).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(tmp_path / f"a{ending}"))
    np.testing.assert_array_equal(read_volume(tmp_path / f"a{ending}").data, array[0].transpose())


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
@pytest.mark.parametrize("compressed", [True, False])
def test_truncated_or_corrupt_voxels_are_refused(tmp_path, capfd, ending, compressed):
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(image(shape=(20, 20, 20)), str(path), useCompression=compressed)
    whole = path.read_bytes()
    for keep in (len(whole) - 3, len(whole) // 2) if compressed or ending == ".mha" else (len(whole) // 2,):
        path.write_bytes(whole[:keep])
        refused_reading("volume-truncated", path, capfd, (), [read_volume])
    if compressed:  # ITK returns thousands of wrong voxels without an error
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes(b ^ 255 for b in whole[middle : middle + 4]) + whole[middle + 4 :])
        refused_reading("volume-truncated", path, capfd, (), [read_volume])


@pytest.mark.parametrize("ending", ENDINGS)
def test_text_and_empty_files_are_refused(tmp_path, capfd, ending):
    path = tmp_path / f"text{ending}"
    code = "meta-header-incomplete" if ending in (".mha", ".mhd") else "nrrd-magic-missing"
    for content in ("", "hello\n", "a = b\n" * 100):
        path.write_text(content)
        refused_reading(code, path, capfd)


@pytest.mark.parametrize("ending, data", [(".mhd", "a.zraw"), (".nhdr", "a.raw.gz")])
def test_a_lost_data_file_is_named(tmp_path, capfd, ending, data):
    sitk.WriteImage(image(), str(tmp_path / f"a{ending}"), useCompression=True)
    (tmp_path / data).unlink()
    refused_reading("header-data-missing", tmp_path / f"a{ending}", capfd, data, [read_volume])


@pytest.mark.parametrize(
    "field, code",
    [("DimSize = 5 0 7", "volume-zero-dimension"), ("DimSize = 90000 90000 7", "volume-implausible-size")],
)
def test_absurd_sizes_are_refused(tmp_path, capfd, field, code):
    sitk.WriteImage(image(), str(tmp_path / "a.mha"))
    path = tmp_path / "a.mha"
    path.write_bytes(path.read_bytes().replace(b"DimSize = 5 6 7", field.encode()))
    refused_reading(code, path, capfd)

"""MetaImage headers written by hand: each field that changes values or positions; compared with ITK if ITK uses it."""

import zlib

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusal import refused
from scipy.spatial.transform import Rotation

from medgen.io.formats.itk import itk_affine
from medgen.io.read import read_geometry, read_volume
from medgen.io.write import write_volume

HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "-80 -70 10",
    "ElementSpacing": "2.5 2 3",
    "DimSize": "4 5 6",
    "ElementType": "MET_SHORT",
}
VOXELS = np.arange(-60, 60).reshape((4, 5, 6)).astype("<i2")
STORED = VOXELS.tobytes("F")


def written(folder, data=STORED, last="LOCAL", without=(), **fields):
    lines = {key: value for key, value in {**HEADER, **fields}.items() if key not in without}
    text = "".join(f"{key} = {value}\n" for key, value in lines.items()) + f"ElementDataFile = {last}\n"
    path = folder / ("a.mha" if last == "LOCAL" else "a.mhd")
    path.write_bytes(text.encode() + (data if last == "LOCAL" else b""))
    return path


def refused_reading(code, path, *names):
    with refused(code, names=(str(path), *names)):
        read_volume(path)


def test_volume_equals_itk(tmp_path):
    path = written(tmp_path)
    volume, image = read_volume(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.data, VOXELS)
    np.testing.assert_array_equal(volume.affine, itk_affine(image))
    assert volume.warnings == ()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    slope=st.sampled_from([1, 2, -1, 0.5, 0.1]),
    inter=st.sampled_from([0, -1024, 1024, 0.25]),
    kind=st.sampled_from([("MET_SHORT", "i2"), ("MET_USHORT", "u2"), ("MET_UCHAR", "u1"), ("MET_FLOAT", "f4")]),
    big=st.booleans(),
    packed=st.booleans(),
)
def test_intensity_functions_byte_orders_and_compression_are_honoured(tmp_path, slope, inter, kind, big, packed):
    """The header has no compressed size (ITK would read noise), and "true" is in lower case."""
    values = np.arange(120).reshape((4, 5, 6)).astype((">" if big else "<") + kind[1])
    data = zlib.compress(values.tobytes("F")) if packed else values.tobytes("F")
    path = written(
        tmp_path,
        data,
        ElementType=kind[0],
        BinaryDataByteOrderMSB=str(big),
        CompressedData="true" if packed else "False",
        ElementToIntensityFunctionSlope=slope,
        ElementToIntensityFunctionOffset=inter,
    )
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, (values.astype(float) * slope + inter).astype(np.float32))
    write_volume(tmp_path / "b.mha", volume)
    np.testing.assert_array_equal(read_volume(tmp_path / "b.mha").data, volume.data)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 2**31), spacing=st.tuples(*[st.floats(0.1, 9)] * 3))
def test_files_written_by_itk_are_read_without_a_warning(tmp_path, seed, spacing):
    """AnatomicalOrientation as written by ITK never counts as a contradiction of the matrix."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(VOXELS.T))
    rotation = Rotation.random(random_state=seed % 2**31).as_matrix() @ np.diag([1, 1, (-1) ** (seed % 2)])
    image.SetDirection(rotation.ravel().tolist())
    image.SetSpacing(spacing)
    image.SetOrigin((seed % 900 - 450, 5, -3))
    for ending in ("mha", "nrrd"):
        sitk.WriteImage(image, str(tmp_path / f"a.{ending}"))
        volume = read_volume(tmp_path / f"a.{ending}")
        assert volume.warnings == ()
        np.testing.assert_allclose(volume.affine, itk_affine(image), atol=1e-9)


@pytest.mark.parametrize("key", ["TransformMatrix", "Rotation", "Orientation"])
@pytest.mark.parametrize("origin", ["Offset", "Position", "Origin"])
def test_synonyms_are_read_as_by_itk(tmp_path, key, origin):
    fields = {key: "0 1 0 0 0 1 1 0 0", origin: "1 2 3"}
    path = written(tmp_path, without=("TransformMatrix", "Offset"), **fields)
    np.testing.assert_allclose(read_volume(path).affine, itk_affine(sitk.ReadImage(str(path))))


@pytest.mark.parametrize(
    ("fields", "code", "names"),
    [
        ({"Rotation": "-1 0 0 0 1 0 0 0 1"}, "meta-key-twice", ["Rotation"]),
        ({"Origin": "1 2 3"}, "meta-key-twice", ["Origin"]),
        ({"ElementByteOrderMSB": "True"}, "meta-key-twice", ["ElementByteOrderMSB"]),
        ({"ElementToIntensityFunctionSlope": "0"}, "meta-slope-zero", ["ElementToIntensityFunctionSlope"]),
        ({"ElementToIntensityFunctionOffset": "nan"}, "header-field-invalid", ["ElementToIntensityFunctionOffset"]),
        ({"ElementNumberOfChannels": "2"}, "meta-vector-voxels", ["ElementNumberOfChannels"]),
        ({"ElementNBits": "12"}, "meta-element-bits", ["ElementNBits"]),
        ({"BinaryData": "False"}, "meta-text-voxels", ["BinaryData"]),
        ({"DistanceUnits": "furlong"}, "header-unit-unknown", ["DistanceUnits", "furlong"]),
        ({"HeaderSize": "16"}, "meta-header-size", ["HeaderSize"]),
        (
            {"TransformMatrix": "0 1 0 1 0 0 0 0 1", "CenterOfRotation": "1 2 3"},
            "meta-key-unsupported",
            ["CenterOfRotation"],
        ),
        ({"ImagePosition": "1 2 3"}, "meta-image-position", ["ImagePosition"]),
        ({"CompressedData": "perhaps"}, "meta-boolean-invalid", ["CompressedData"]),
        ({"ElementType": "MET_STRING"}, "meta-element-type", ["MET_STRING"]),
        ({"ObjectType": "Tube"}, "meta-object-type", ["ObjectType"]),
        ({"ElementSpacing": "0 1 1"}, "volume-affine-singular", []),
        ({"ElementSpacing": "1 1"}, "header-field-invalid", ["ElementSpacing"]),
        ({"DimSize": "4 5"}, "meta-dimensions-disagree", ["DimSize"]),
    ],
)
def test_unsupported_field_is_refused_by_name(tmp_path, fields, code, names):
    refused_reading(code, written(tmp_path, **fields), *names)


def test_repeated_field_must_have_the_same_value(tmp_path):
    assert np.array_equal(read_volume(written(tmp_path, Position="-80.0 -70 10.00")).data, VOXELS)
    refused_reading("meta-key-twice", written(tmp_path, Position="-80 -70 11"), "Position")


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("cm", 10), ("um", 0.001), ("?", 1)])
def test_units_become_mm(tmp_path, unit, factor):
    expected = read_geometry(written(tmp_path)).affine
    expected[:3] *= factor
    np.testing.assert_allclose(read_geometry(written(tmp_path, DistanceUnits=unit)).affine, expected)


def test_anatomical_orientation_cannot_replace_the_matrix(tmp_path):
    """ITK ignores AnatomicalOrientation."""
    (warning,) = read_volume(written(tmp_path, AnatomicalOrientation="LPS")).warnings
    assert "AnatomicalOrientation = LPS contradicts TransformMatrix" in warning
    assert not read_volume(written(tmp_path, AnatomicalOrientation="???")).warnings
    path = written(tmp_path, without=("TransformMatrix",), AnatomicalOrientation="ASL")
    refused_reading("meta-orientation-without-matrix", path, "AnatomicalOrientation")
    assert not read_volume(written(tmp_path, without=("TransformMatrix",), AnatomicalOrientation="RAI")).warnings


def test_missing_spacing_and_scaling_matrix_cause_a_warning(tmp_path):
    (warning,) = read_volume(written(tmp_path, without=("ElementSpacing",))).warnings
    assert "ElementSpacing is missing" in warning
    volume = read_volume(written(tmp_path, TransformMatrix="2 0 0 0 2 0 0 0 2"))
    assert "TransformMatrix also scales" in volume.warnings[0]
    np.testing.assert_allclose(volume.spacing, (5, 4, 6))  # as ITK maps indices to positions


@pytest.mark.parametrize(("before", "size"), [(0, None), (16, "16"), (16, "-1"), (0, "0")])
def test_a_data_file_with_a_header_of_its_own(tmp_path, before, size):
    (tmp_path / "x.raw").write_bytes(b"x" * before + STORED)
    path = written(tmp_path, last="./x.raw", **({} if size is None else {"HeaderSize": size}))
    np.testing.assert_array_equal(read_volume(path).data, VOXELS)


def test_extra_bytes_cause_a_warning(tmp_path):
    (tmp_path / "x.raw").write_bytes(STORED + b"more")
    assert "4 bytes follow" in read_volume(written(tmp_path, last="x.raw")).warnings[0]


@pytest.mark.parametrize("last", ["s%02d.raw 1 6 1", "s%02d.raw", "s%02d.raw 1 6", "LIST", "LIST 2"])
def test_a_file_a_slice(tmp_path, last):
    for k in range(6):
        (tmp_path / f"s{k + 1:02}.raw").write_bytes(VOXELS[:, :, k].tobytes("F"))
    names = "".join(f"\ns{k + 1:02}.raw" for k in range(6)) if last.startswith("LIST") else ""
    path = written(tmp_path, last=last + names)
    np.testing.assert_array_equal(read_volume(path).data, VOXELS)
    (tmp_path / "s03.raw").write_bytes(b"short")
    refused_reading("volume-truncated", path)
    (tmp_path / "s03.raw").unlink()
    refused_reading("header-data-missing", path, "s03.raw")


@pytest.mark.parametrize(
    "last, code",
    [
        ("s%02d.raw 1 5 1", "volume-truncated"),
        ("s%02d.raw 1 6 0", "header-data-pattern"),
        ("s%s.raw 1 6 1", "header-data-pattern"),
        ("s%0999d.raw 1 6 1", "header-data-pattern"),
        ("s%d%d.raw 1 6 1", "header-data-pattern"),
        ("LIST\ns01.raw", "volume-truncated"),
        ("LIST", "meta-data-list-empty"),
    ],
)
def test_lists_of_other_counts_and_odd_patterns_are_refused(tmp_path, last, code):
    """From five files for six slices, ITK reads a volume with one slice of noise."""
    for k in range(6):
        (tmp_path / f"s{k + 1:02}.raw").write_bytes(VOXELS[:, :, k].tobytes("F"))
    refused_reading(code, written(tmp_path, last=last))


@pytest.mark.parametrize("name", ["../x.raw", "sub/x.raw", "/etc/hostname", "link.raw", "sub/../../in/x.raw"])
def test_data_in_another_folder_is_refused_links_followed(tmp_path, name):
    folder, other = tmp_path / "in", tmp_path / "other"
    (folder / "sub").mkdir(parents=True)
    other.mkdir()
    for place in (tmp_path, folder / "sub", other):
        (place / "x.raw").write_bytes(STORED)
    (folder / "link.raw").symlink_to(other / "x.raw")
    path = written(folder, last=name)
    if name == "sub/../../in/x.raw":  # inside its own folder
        (folder / "x.raw").write_bytes(STORED)
        np.testing.assert_array_equal(read_volume(path).data, VOXELS)
    else:
        refused_reading("header-data-elsewhere", path, name)


def test_a_header_that_is_a_link_may_lie_beside_its_data_or_a_link_to_them(tmp_path):
    store, farm = tmp_path / "store", tmp_path / "farm"
    store.mkdir(), farm.mkdir()
    (store / "x.raw").write_bytes(STORED)
    path = written(store, last="x.raw")
    (farm / "a.mhd").symlink_to(path)
    (farm / "x.raw").symlink_to(store / "x.raw")
    np.testing.assert_array_equal(read_volume(farm / "a.mhd").data, VOXELS)


@pytest.mark.parametrize("spacing", ["-0.5 0.6 2", "0.5 0.6 -2"])
def test_negative_spacing_flips_the_axis_with_a_warning(tmp_path, spacing):
    path = written(tmp_path, ElementSpacing=spacing)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, itk_affine(sitk.ReadImage(str(path))))
    assert [f"ElementSpacing is negative ({spacing})" in text for text in volume.warnings] == [True]


@pytest.mark.parametrize("name, read", [(".\\x.raw", True), ("..\\x.raw", False), ("C:\\data\\x.raw", False)])
def test_names_of_data_files_that_windows_wrote(tmp_path, name, read):
    (tmp_path / "in").mkdir()
    for place in (tmp_path, tmp_path / "in"):
        (place / "x.raw").write_bytes(STORED)
    path = written(tmp_path / "in", last=name)
    if read:
        np.testing.assert_array_equal(read_volume(path).data, VOXELS)
    else:
        refused_reading("header-data-elsewhere", path, name)


def test_devices_and_pipes_are_refused_as_data_files(tmp_path):
    import os

    os.mkfifo(tmp_path / "x.raw")
    refused_reading("header-data-missing", written(tmp_path, last="x.raw"), "x.raw", "not a regular file")
    (tmp_path / "zero.raw").symlink_to("/dev/zero")
    refused_reading("header-data-elsewhere", written(tmp_path, last="zero.raw"), "zero.raw")

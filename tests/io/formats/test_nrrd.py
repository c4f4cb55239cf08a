"""NRRD headers written by hand: each field that changes values or positions; compared with ITK if ITK uses it."""

import gzip

import numpy as np
import pytest
import SimpleITK as sitk
from refusal import refused

from medgen.io.formats.itk import itk_affine
from medgen.io.read import read_geometry, read_volume

HEADER = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "4 5 6",
    "space directions": "(2.5,0,0) (0,2,0.1) (0,0,3)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(-80,-70,10)",
}
VOXELS = np.arange(-60, 60).reshape((4, 5, 6)).astype("<i2")
STORED = VOXELS.tobytes("F")
SPACE = ("space", "space directions", "space origin")


def written(folder, data=STORED, without=(), end="", **fields):
    given = {key.replace("_", " "): value for key, value in fields.items()}
    lines = {key: value for key, value in {**HEADER, **given}.items() if key not in without}
    text = "NRRD0005\n" + "".join(f"{key}: {value}\n" for key, value in lines.items())
    path = folder / ("a.nhdr" if end else "a.nrrd")
    path.write_bytes(text.encode() + (end.encode() if end else b"\n" + data))
    return path


def refused_reading(code, path, *names):
    with refused(code, names=(str(path), *names)):
        read_volume(path)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"space": "RAS"},
        {"space": "left-anterior-superior"},
        {"endian": "big", "data": VOXELS.astype(">i2").tobytes("F")},
        {"type": "signed short int"},
        {"encoding": "gzip", "data": gzip.compress(STORED)},
        {"encoding": "gzip", "data": gzip.compress(STORED[:100]) + gzip.compress(STORED[100:])},
        {"encoding": "gzip", "byte_skip": "4", "data": gzip.compress(b"abcd" + STORED)},
        {"byte_skip": "4", "data": b"abcd" + STORED},
        {"byte_skip": "-1", "data": b"abcdef" + STORED},
        {"line_skip": "2", "data": b"ab\ncd\n" + STORED},
        {"encoding": "ascii", "data": " ".join(map(str, VOXELS.ravel(order="F"))).encode()},
        {"encoding": "hex", "data": STORED.hex().encode()},
        {"space_units": '"mm" "mm" "mm"'},
        {"measurement_frame": "(0,1,0) (1,0,0) (0,0,1)"},
        {"dimension": "4", "sizes": "1 4 5 6", "space directions": "none (2.5,0,0) (0,2,0) (0,0,3)",
         "kinds": "list domain domain domain"},
        {"dimension": "4", "sizes": "4 5 6 1", "space directions": "(2.5,0,0) (0,2,0) (0,0,3) none",
         "kinds": "domain domain domain list"},
        {"centerings": "node node node"},
        {"thicknesses": "NaN NaN 5"},
        {"space units:=": "a note of the user's"},
    ],
)  # fmt: skip
def test_volume_equals_itk(tmp_path, fields):
    path = written(tmp_path, **fields)
    volume, image = read_volume(path), sitk.ReadImage(str(path))
    np.testing.assert_array_equal(volume.data, VOXELS)
    np.testing.assert_allclose(volume.affine, itk_affine(image), atol=1e-9)
    assert volume.warnings == ()


@pytest.mark.parametrize(
    ("units", "factors"),
    [
        ('"cm" "cm" "cm"', 10),
        ('"\u00b5m" "um" "micron"', 0.001),
        ('"m" "m" "m"', 1000),
        ('"mm" "cm" "mm"', (1, 10, 1)),
        ('"" "" ""', 1),
        ('"in" "in" "in"', 25.4),
        ("cm cm cm", 10),
    ],
)
def test_space_units_become_mm(tmp_path, units, factors):
    """Units of the space axes, including the origin; ITK ignores them."""
    expected = read_geometry(written(tmp_path)).affine
    expected[:3] *= np.reshape(factors, (-1, 1))
    np.testing.assert_allclose(read_geometry(written(tmp_path, space_units=units)).affine, expected)


def test_units_of_spacings_become_mm(tmp_path):
    path = written(tmp_path, without=SPACE, spacings="0.25 0.2 0.3", units='"cm" "cm" "mm"')
    np.testing.assert_allclose(read_geometry(path).spacing, (2.5, 2, 0.3))


@pytest.mark.parametrize("space", [None, "scanner-xyz", "3D-right-handed"])
def test_non_anatomical_space_causes_a_warning(tmp_path, space):
    path = written(tmp_path, **{} if space else {"without": ("space",), "space dimension": "3"})
    if space:
        path = written(tmp_path, space=space)
    else:  # the dimension has to come before the directions for ITK; here the order does not matter
        path = written(tmp_path, without=SPACE, spacings="2.5 2 3")
    volume = read_volume(path)
    assert "not say which side is left" in volume.warnings[0]
    np.testing.assert_allclose(volume.affine, itk_affine(sitk.ReadImage(str(path))), atol=1e-9)


@pytest.mark.parametrize("encoding", ["raw", "ascii", "hex", "gzip"])
def test_voxels_beyond_the_sizes_are_reported(tmp_path, encoding):
    values = np.arange(4 * 5 * 7, dtype="<i2")
    text = {"ascii": " ".join(map(str, values)).encode(), "hex": values.tobytes().hex().encode()}
    data = text.get(encoding) or (gzip.compress(values.tobytes()) if encoding == "gzip" else values.tobytes())
    volume = read_volume(written(tmp_path, type="short", endian="little", encoding=encoding, sizes="4 5 6", data=data))
    assert any("40 bytes follow the last voxel" in warning for warning in volume.warnings)


@pytest.mark.parametrize(
    ("fields", "code", "names"),
    [
        ({"space_units": '"furlong" "mm" "mm"'}, "header-unit-unknown", ["space units", "furlong"]),
        ({"space_units": '"mm"'}, "nrrd-space-units-count", ["space units"]),
        ({"units": '"cm" "cm" "cm"'}, "nrrd-spacing-and-directions", ["units"]),
        ({"spacings": "1 1 1"}, "nrrd-spacing-and-directions", ["spacings"]),
        ({"without": SPACE, "spacings": "1 1 1", "axis mins": "0 0 0"}, "nrrd-axes-unsupported", ["axis mins"]),
        ({"without": SPACE, "axis maxs": "9 9 9"}, "nrrd-axes-unsupported", ["axis maxs"]),
        ({"old_min": "-1024", "old_max": "3000"}, "nrrd-quantised-values", ["old min"]),
        ({"oldmax": "3000"}, "nrrd-quantised-values", ["old max"]),
        ({"space": "3D-left-handed"}, "nrrd-space-unknown", ["3d-left-handed"]),
        ({"kinds": "vector domain domain"}, "nrrd-vector-voxels", ["vector"]),
        ({"kinds": "list domain domain"}, "nrrd-vector-voxels", ["list"]),
        ({"without": ("endian",)}, "nrrd-endian", ["endian"]),
        ({"encoding": "bzip2"}, "nrrd-encoding", ["bzip2"]),
        ({"type": "block"}, "nrrd-voxel-type", ["block"]),
        ({"dimension": "4"}, "nrrd-sizes-disagree", ["dimension"]),
        ({"space directions": "(1,0,0) (0,1,0) (1,1,0)"}, "volume-affine-singular", []),
        ({"space directions": "(1,0,0) (0,1,0) (nan,1,0)"}, "header-field-invalid", ["space directions"]),
        ({"space directions": "(1,0) (0,1) (1,1)"}, "nrrd-directions-dimension", ["space directions"]),
        ({"encoding": "ascii", "data": b"1 2 three"}, "volume-truncated", []),
        ({"encoding": "hex", "data": b"zz"}, "volume-truncated", []),
        ({"byte_skip": "9", "data": STORED}, "volume-truncated", []),
        ({"encoding": "gzip", "byte_skip": "-1"}, "nrrd-data-skip", ["byte skip"]),
        ({"sizes": "4 5 -6"}, "volume-zero-dimension", []),
    ],
)
def test_unsupported_field_is_refused_by_name(tmp_path, fields, code, names):
    refused_reading(code, written(tmp_path, **fields), *names)


@pytest.mark.parametrize(("head", "skip"), [(128, "128"), (77, "-1")])
def test_a_file_a_slice_with_a_header_of_its_own(tmp_path, head, skip):
    for k in range(6):
        (tmp_path / f"s{k + 1:02}.raw").write_bytes(b"h" * head + VOXELS[:, :, k].tobytes("F"))
    path = written(tmp_path, byte_skip=skip, end="data file: s%02d.raw 1 6 1\n")
    np.testing.assert_array_equal(read_volume(path).data, VOXELS)


@pytest.mark.parametrize("end", ["data file: s%02d.raw 1 6 1\n", "data file: LIST\n"])
def test_a_file_a_slice(tmp_path, end):
    for k in range(6):
        (tmp_path / f"s{k + 1:02}.raw").write_bytes(VOXELS[:, :, k].tobytes("F"))
    names = "".join(f"s{k + 1:02}.raw\n" for k in range(6)) if "LIST" in end else ""
    np.testing.assert_array_equal(read_volume(written(tmp_path, end=end + names)).data, VOXELS)
    refused_reading(
        "volume-truncated", written(tmp_path, end=f"{end.replace('6', '4')}{names[: 4 * 8]}"), "4 data files"
    )


@pytest.mark.parametrize("name", ["../x.raw", "sub/x.raw", "link.raw"])
def test_data_in_another_folder_is_refused(tmp_path, name):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "x.raw").write_bytes(STORED), (folder / "sub/x.raw").write_bytes(STORED)
    (folder / "link.raw").symlink_to(tmp_path / "x.raw")
    refused_reading("header-data-elsewhere", written(folder, end=f"data file: {name}\n"), name)
    (folder / "x.raw").write_bytes(STORED)
    np.testing.assert_array_equal(read_volume(written(folder, end="datafile: ./x.raw\n")).data, VOXELS)


def test_negative_spacings_reverse_axes_and_are_named(tmp_path):
    path = written(tmp_path, without=("space directions",), spacings="-2.5 2 3")
    volume = read_volume(path)
    assert volume.affine[0, 0] == 2.5 and volume.affine[1, 1] == -2 and "spacings -2.5 2 3" in " ".join(volume.warnings)

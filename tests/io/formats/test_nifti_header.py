"""Unusual and contradictory NIfTI fields are repaired with a warning, or refused by name; files patched by hand."""

import gzip
import struct

import nibabel as nib
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

LPS = np.diag([-2.5, -2.5, 2.5, 1])
LPS[:3, 3] = 80, 70, 10
VOXELS = np.arange(-60, 60).reshape((4, 5, 6)).astype("<i2")
NAN = float("nan")
# Field: offset and struct format in NIfTI-1 and in NIfTI-2.
PLACES = {
    "dim": (40, "8h", 16, "8q"),
    "datatype": (70, "h", 12, "h"),
    "pixdim": (76, "8f", 104, "8d"),
    "sizes": (80, "3f", 112, "3d"),
    "vox_offset": (108, "f", 168, "q"),
    "scl": (112, "2f", 176, "2d"),
    "units": (123, "b", 500, "i"),
    "codes": (252, "2h", 344, "2i"),
    "quatern": (256, "3f", 352, "3d"),
    "qoffset": (268, "3f", 376, "3d"),
    "srow": (280, "12f", 400, "12d"),
}


def written(folder, q=1, s=1, affine=LPS, *, kind=nib.Nifti1Image, order="<", ending=".nii", extra=b"", **fields):
    header = kind.header_class(endianness=order)
    header.set_data_dtype(order + "i2")
    image = kind(VOXELS.astype(order + "i2"), affine, header)
    image.set_qform(affine, q)
    image.set_sform(affine, s)
    content = bytearray(image.to_bytes())
    for name, value in fields.items():
        at, form = PLACES[name][:2] if kind is nib.Nifti1Image else PLACES[name][2:]
        struct.pack_into(order + form, content, at, *np.atleast_1d(value).tolist())
    path = folder / f"a{ending}"
    content = bytes(content) + extra
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    return path


def warned(path, *words):
    """Read a file that causes one warning with these words."""
    (warning,) = read_volume(path).warnings
    assert all(word in warning for word in (path.name, *words)), warning
    return read_volume(path)


def refused_reading(code, path, *names):
    with refused(code, names=(str(path), *names)):
        read_volume(path)


def comes_back(volume, folder):
    """Check that the volume, written with its header, is read equally by medgen and by other programs."""
    write_volume(folder / "back.nii", volume)
    again = read_volume(folder / "back.nii")
    assert again.warnings == ()
    np.testing.assert_array_equal(again.data, volume.data)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-4)
    np.testing.assert_allclose(nib.load(folder / "back.nii").affine, volume.affine, atol=1e-4)
    if volume.header["sizeof_hdr"] == 348:  # SimpleITK does not read NIfTI-2
        np.testing.assert_allclose(itk_affine(sitk.ReadImage(str(folder / "back.nii"))), volume.affine, atol=3e-3)


KINDS = pytest.mark.parametrize(
    ("kind", "order"), [(nib.Nifti1Image, "<"), (nib.Nifti1Image, ">"), (nib.Nifti2Image, "<"), (nib.Nifti2Image, ">")]
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    spacing=st.tuples(*[st.floats(0.1, 9)] * 3),
    codes=st.sampled_from([(1, 0), (0, 1), (1, 1), (1, 4), (2, 3)]),
    second=st.booleans(),
)
def test_ordinary_files_are_read_without_a_warning(tmp_path, seed, spacing, codes, second):
    """Any rotation and handedness, also near 180 degrees, where the rounding error of a quaternion is largest."""
    turn = Rotation.random(random_state=seed).as_matrix()
    if seed % 3 == 0:
        turn = Rotation.from_euler("zyx", (180, seed % 7 / 10, seed % 11 / 10), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([(-1) ** (seed % 2), 1, 1]) @ np.diag(spacing)
    affine[:3, 3] = (seed % 800 - 400, 30, -seed % 300)
    path = written(tmp_path, *codes, affine, kind=nib.Nifti2Image if second else nib.Nifti1Image)
    volume = read_volume(path)
    assert volume.warnings == ()
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)


# Voxel offset ------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("offset", [0, -5, 100, 348, 351, -(2**20)])
def test_offset_within_the_header_is_read_as_its_end(tmp_path, kind, order, ending, offset):
    path = written(tmp_path, kind=kind, order=order, ending=ending, vox_offset=offset)
    volume = warned(path, f"vox_offset is {offset:g}")
    np.testing.assert_array_equal(volume.data, VOXELS)
    comes_back(volume, tmp_path)


@pytest.mark.parametrize("offset", [NAN, float("-inf")])
def test_non_finite_offset_is_read_as_the_end_of_the_header(tmp_path, offset):
    np.testing.assert_array_equal(warned(written(tmp_path, vox_offset=offset), "vox_offset").data, VOXELS)


def extended(folder, offset, ending=".nii"):
    """Write a file with an extension of 48 bytes; its voxels begin at byte 400."""
    image = nib.Nifti1Image(VOXELS, LPS)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 36))
    content = bytearray(image.to_bytes())
    struct.pack_into("<f", content, 108, offset)
    path = folder / f"a{ending}"
    path.write_bytes(gzip.compress(bytes(content)) if ending == ".nii.gz" else bytes(content))
    return path


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("offset", [0, 352, 368, 390])
def test_offset_within_an_extension_is_read_as_its_end(tmp_path, offset, ending):
    volume = warned(extended(tmp_path, offset, ending), f"vox_offset is {offset}", "byte 400")
    np.testing.assert_array_equal(volume.data, VOXELS)
    assert len(volume.header.extensions) == 1
    assert read_volume(extended(tmp_path, 400, ending)).warnings == ()


def test_offset_that_does_not_fit_the_file_size_is_refused(tmp_path):
    refused_reading("nifti-unreadable", written(tmp_path, vox_offset=0, extra=b"1234"), "vox_offset is 0")
    refused_reading("nifti-ends-too-early", written(tmp_path, vox_offset=360), "vox_offset = 360")
    refused_reading("nifti-unreadable", written(tmp_path, vox_offset=1e9), "vox_offset is 1e+09")
    np.testing.assert_array_equal(warned(written(tmp_path, vox_offset=352.5), "352.5").data, VOXELS)


def test_bytes_after_the_last_voxel_cause_a_warning(tmp_path):
    warned(written(tmp_path, extra=b"\0" * 7), "7 bytes follow")
    warned(written(tmp_path, dim=(3, 4, 5, 5, 1, 1, 1, 1)), "40 bytes follow", "dim")


# Size, type, scaling ---------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    "dim",
    [
        (4, 4, 5, 6, 0, 1, 1, 1),
        (7, 4, 5, 6, 0, 0, 0, 0),
        (5, 4, 5, 6, 1, 0, 9, 9),
        (4, 4, 5, 6, -1, 1, 1, 1),
        (3, 4, 5, 6, 0, 0, 0, 0),
        (3, 4, 5, 6, 9, 9, 9, 9),
    ],
)
def test_axes_after_the_third_have_at_least_length_one(tmp_path, kind, order, dim):
    path = written(tmp_path, kind=kind, order=order, dim=dim)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.data, VOXELS)
    assert volume.warnings == () and read_geometry(path).shape == (4, 5, 6)
    comes_back(volume, tmp_path)


@pytest.mark.parametrize(
    ("fields", "code", "names"),
    [
        ({"dim": (2, 4, 5, 6, 1, 1, 1, 1)}, "nifti-unreadable", ["dim[0], the number of axes, is 2", "dim[3] is 6"]),
        ({"dim": (0, 4, 5, 6, 1, 1, 1, 1)}, "nifti-unreadable", ["dim[0], the number of axes, is 0"]),
        ({"dim": (9, 4, 5, 6, 1, 1, 1, 1)}, "nifti-unreadable", ["dim[0], the number of axes, is 9"]),
        ({"dim": (4, 4, 5, 3, 2, 1, 1, 1)}, "volume-too-many-axes", ["4D"]),
        ({"dim": (3, 4, 0, 6, 1, 1, 1, 1)}, "volume-zero-dimension", []),
        ({"datatype": 1}, "nifti-unreadable", ["datatype 1 "]),
        ({"datatype": 9999}, "nifti-unreadable", ["datatype 9999 "]),
        ({"datatype": 32}, "nifti-voxel-kind", ["complex"]),
        ({"datatype": 2304}, "nifti-voxel-kind", ["RGB"]),
        ({"scl": (2, NAN)}, "nifti-unreadable", ["scl_inter"]),
        ({"scl": (float("inf"), 0)}, "nifti-unreadable", ["scl_slope"]),
    ],
)
def test_invalid_field_is_refused_by_name(tmp_path, fields, code, names):
    refused_reading(code, written(tmp_path, **fields), *names)


@KINDS
@pytest.mark.parametrize("slope", [0, NAN])
def test_intercept_without_a_slope_is_not_added_and_causes_a_warning(tmp_path, kind, order, slope):
    """This follows the standard; ITK adds the intercept."""
    volume = warned(written(tmp_path, kind=kind, order=order, scl=(slope, -1024)), "scl_slope", "scl_inter = -1024")
    np.testing.assert_array_equal(volume.data, VOXELS)
    comes_back(volume, tmp_path)
    for inter in (0, NAN):
        assert read_volume(written(tmp_path, kind=kind, order=order, scl=(slope, inter))).warnings == ()


# Voxel positions --------------------------------------------------------------------------------------


def rows(affine):
    return np.asarray(affine)[:3].ravel()


@KINDS
@pytest.mark.parametrize("qform", [0, 1])
def test_sform_without_scale_gets_the_scale_of_pixdim(tmp_path, kind, order, qform):
    turned = LPS.copy()
    turned[:3, :3] = Rotation.from_euler("xyz", (10, -20, 35), degrees=True).as_matrix() @ np.diag([-2.5, 1.2, 3])
    flat = turned.copy()
    flat[:3, :3] /= np.linalg.norm(turned[:3, :3], axis=0)
    path = written(tmp_path, qform, 1, turned, kind=kind, order=order, srow=rows(flat))
    volume = warned(path, "1 x 1 x 1", "2.5 x 1.2 x 3", "pixdim is used")
    np.testing.assert_allclose(volume.affine, turned, atol=1e-5)
    np.testing.assert_allclose(read_geometry(path).spacing, (2.5, 1.2, 3), atol=1e-5)
    comes_back(volume, tmp_path)


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 1, 1)])
def test_sform_of_another_scale_is_used_with_a_warning(tmp_path, sizes):
    volume = warned(written(tmp_path, 0, 1, sizes=sizes), "2.5 x 2.5 x 2.5", f"pixdim gives {sizes[0]} x")
    np.testing.assert_allclose(volume.spacing, 2.5)
    assert (
        read_volume(written(tmp_path, 0, 1, sizes=(0, NAN, -2.5))).warnings == ()
    )  # invalid sizes in pixdim are ignored


MOVED, TURNED, MIRRORED, SLIGHTLY = LPS.copy(), LPS.copy(), LPS.copy(), LPS.copy()
MOVED[0, 3] += 10
TURNED[:3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix() @ LPS[:3, :3]
MIRRORED[0] *= -1
SLIGHTLY[0, 3] += 0.004


@pytest.mark.parametrize(
    ("other", "same_code", "two_codes"),
    [(MOVED, True, False), (TURNED, True, True), (MIRRORED, True, True), (SLIGHTLY, False, False)],
)
def test_contradictory_forms_cause_a_warning(tmp_path, other, same_code, two_codes):
    """The forms of a registered scan have two codes and may differ by a small rotation and translation."""
    for codes, expected in (((1, 1), same_code), ((1, 2), two_codes)):
        volume = read_volume(written(tmp_path, *codes, srow=rows(other)))
        assert bool(volume.warnings) == expected
        assert all("sform" in warning and "qform" in warning for warning in volume.warnings)
        np.testing.assert_allclose(volume.affine, other)


@KINDS
@pytest.mark.parametrize("bad", ["zeros", "column", "row", "nan", "inf"])
def test_invalid_sform_is_replaced_by_the_qform(tmp_path, kind, order, bad):
    sform = LPS.copy()
    sform[:3] = 0 if bad == "zeros" else sform[:3]
    sform[:3, 1] = 0 if bad == "column" else sform[:3, 1]
    sform[1] = 0 if bad == "row" else sform[1]
    sform[0, 3] = {"nan": NAN, "inf": float("inf")}.get(bad, sform[0, 3])
    path = written(tmp_path, kind=kind, order=order, srow=rows(sform))
    volume = warned(path, "sform_code is 1", "qform is used")
    np.testing.assert_allclose(volume.affine, LPS)
    comes_back(volume, tmp_path)
    refused_reading("nifti-unreadable", written(tmp_path, 0, 1, kind=kind, order=order, srow=rows(sform)), "srow_x")
    path = written(tmp_path, kind=kind, order=order, srow=rows(sform), quatern=(0, 0, 3))
    refused_reading("nifti-unreadable", path, "srow_x", "quatern_b")


@KINDS
@pytest.mark.parametrize("length", [1.0000004, 1.000002, 1.0005, 0.9999999])
@pytest.mark.parametrize("axis", [(0, 0, 1), (0, 1, 0), (1, 0, 0), (0.6, 0, 0.8), (0.48, 0.6, 0.64)])
def test_quaternion_too_long_by_rounding_is_normalised(tmp_path, kind, order, length, axis):
    path = written(tmp_path, 1, 0, kind=kind, order=order, quatern=np.multiply(axis, length))
    volume = read_volume(path)
    assert volume.warnings == ()
    turn = Rotation.from_quat([*axis, 0]).as_matrix()
    np.testing.assert_allclose(volume.affine[:3, :3], turn * 2.5, atol=3e-3)
    comes_back(volume, tmp_path)


@pytest.mark.parametrize("quatern", [(0, 0, 2), (1, 1, 1), (NAN, 0, 1), (0, float("inf"), 0)])
def test_invalid_quaternion_is_refused_or_replaced_by_the_sform(tmp_path, quatern):
    refused_reading("nifti-unreadable", written(tmp_path, 1, 0, quatern=quatern), "quatern_b")
    warned(written(tmp_path, 1, 1, quatern=quatern), "quatern_b", "sform is used")
    assert read_volume(written(tmp_path, 0, 1, quatern=quatern)).warnings == ()  # qform_code 0: the qform is not set


def test_form_codes_of_zero_cause_an_orientation_warning(tmp_path):
    volume = warned(written(tmp_path, 0, 0), "sform_code and qform_code are 0")
    np.testing.assert_allclose(volume.spacing, 2.5)
    assert warned(written(tmp_path, 1, 0, codes=(7, 0)), "qform_code is 7").affine.tolist() == LPS.tolist()
    assert read_volume(written(tmp_path, 1, 0, codes=(1, -1))).affine.tolist() == LPS.tolist()


@pytest.mark.parametrize(("size", "field"), [((2.5, 2.5, 0), "pixdim[3]"), ((NAN, 2.5, 2.5), "pixdim[1]")])
def test_sizes_that_a_qform_needs(tmp_path, size, field):
    refused_reading("nifti-unreadable", written(tmp_path, 1, 0, sizes=size), field)
    assert read_volume(written(tmp_path, 1, 1, sizes=size)).warnings == ()


def test_signs_in_pixdim(tmp_path):
    """qfac 0 counts as 1; nibabel reads -2 as 1, ITK as -1."""
    mirrored = LPS @ np.diag([1, 1, -1, 1])
    for qfac, affine, words in ((0, LPS, ()), (-1, mirrored, ()), (-2, mirrored, ("pixdim[0]",)), (NAN, LPS, ("[0]",))):
        path = written(tmp_path, 1, 0, pixdim=(qfac, 2.5, 2.5, 2.5, 0, 0, 0, 0))
        volume = warned(path, *words) if words else read_volume(path)
        assert volume.affine.tolist() == affine.tolist() and bool(volume.warnings) == bool(words)
    volume = warned(written(tmp_path, 1, 0, sizes=(-2.5, 2.5, 2.5)), "negative")
    assert volume.affine.tolist() == LPS.tolist()

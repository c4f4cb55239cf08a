"""NIfTI round trips and refused files; files written by nibabel or by hand."""

import gzip
import struct

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from refusal import refused
from scipy.spatial.transform import Rotation

from medgen.io.read import channel_count, read_channels, read_geometry, read_volume
from medgen.io.volume import Volume
from medgen.io.write import write_channels, write_volume

OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("xyz", (10, -20, 35), degrees=True).as_matrix() @ np.diag([-0.7, 0.8, 2.5])
OBLIQUE[:3, 3] = (-120.3, 55.1, 700.7)


def raw_values(shape=(5, 6, 7), low=-1024, high=3072):
    return np.random.default_rng(0).integers(low, high, shape)


def saved(path, data, affine=OBLIQUE, kind=nib.Nifti1Image, **fields):
    image = kind(data, affine, dtype=data.dtype)
    for key, value in fields.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def round_trip(path, ending=".nii.gz"):
    volume = read_volume(path)
    copy = path.parent / f"copy{ending}"
    write_volume(copy, volume)
    return volume, nib.load(copy)


def test_header_survives_to_the_byte(tmp_path):
    """Two different forms with odd codes, units, description, intent, calibration and an extension."""
    image = nib.Nifti1Image(raw_values().astype(np.int16), None)
    image.header.set_qform(OBLIQUE, 1)
    other = OBLIQUE.copy()
    other[:3, 3] += 5
    other[0, 1] += 0.1  # a quaternion cannot represent this form
    image.header.set_sform(other, 4)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"made by hand"
    image.header["cal_max"] = 300
    image.header["dim_info"] = 57
    image.header["intent_name"] = b"HU"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"kept as well"))
    path = tmp_path / "a.nii"
    nib.save(image, path)
    volume = read_volume(path)
    write_volume(tmp_path / "b.nii", volume)
    before, after = path.read_bytes(), (tmp_path / "b.nii").read_bytes()
    # scl_slope: nibabel writes 1 for "no scaling"; every other byte, voxels included, is equal
    assert {i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x != y} <= set(range(112, 120))
    np.testing.assert_array_equal(volume.affine, nib.load(path).affine)


@pytest.mark.parametrize("forms", [(0, 0), (1, 0), (0, 2)])
def test_form_codes_survive(tmp_path, forms):
    image = nib.Nifti1Image(raw_values().astype(np.int16), None)
    image.header.set_qform(OBLIQUE, forms[0])
    image.header.set_sform(OBLIQUE, forms[1])
    nib.save(image, tmp_path / "a.nii.gz")
    volume, back = round_trip(tmp_path / "a.nii.gz")
    assert (int(back.header["qform_code"]), int(back.header["sform_code"])) == forms
    np.testing.assert_array_equal(back.affine, nib.load(tmp_path / "a.nii.gz").affine)
    np.testing.assert_array_equal(volume.affine, back.affine)


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8", ">i2", ">f4"])
@pytest.mark.parametrize("image_kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_stored_types_and_versions(tmp_path, kind, image_kind):
    data = raw_values(low=0, high=100).astype(kind)
    path = tmp_path / "a.nii.gz"
    header = image_kind.header_class(endianness=">" if kind.startswith(">") else "<")
    header.set_data_dtype(kind)
    nib.save(image_kind(data, OBLIQUE, header), path)
    volume, back = round_trip(path)
    np.testing.assert_array_equal(volume.data, data)
    assert volume.data.dtype == np.float32 and volume.dtype == np.dtype(kind).newbyteorder("=")
    assert back.get_data_dtype() == np.dtype(kind) and type(back) is image_kind
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), data)
    np.testing.assert_array_equal(back.affine, nib.load(path).affine)


@pytest.mark.parametrize("slope, inter", [(1.0, -1024.0), (0.1, -3.7), (2.5, 0.0), (-0.5, 10.0)])
def test_slope_and_intercept_are_applied_and_kept(tmp_path, slope, inter):
    raw = raw_values(low=-3000, high=3000).astype(np.int16)
    image = nib.Nifti1Image(raw, OBLIQUE)
    image.header.set_slope_inter(slope, inter)
    nib.save(image, tmp_path / "a.nii.gz")
    volume, back = round_trip(tmp_path / "a.nii.gz")
    slope, inter = float(np.float32(slope)), float(np.float32(inter))
    np.testing.assert_array_equal(volume.data, (raw * slope + inter).astype(np.float32))
    np.testing.assert_array_equal(back.dataobj.get_unscaled(), raw)
    assert (back.dataobj.slope, back.dataobj.inter) == (slope, inter)
    # values that do not fit into the type: wider raw values under the same scaling, nothing wrapped
    write_volume(tmp_path / "wide.nii.gz", volume.replaced(volume.data + 40000))
    wide = nib.load(tmp_path / "wide.nii.gz")
    assert wide.get_data_dtype().kind in "iu" and wide.get_data_dtype().itemsize >= 2
    np.testing.assert_allclose(wide.get_fdata(), volume.data + 40000, atol=abs(slope) / 2 + 0.01)
    # no slope in MHA: fractions are not rounded away
    write_volume(tmp_path / "a.mha", volume)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.mha").data, volume.data)


def test_trailing_axes_of_one_are_one_volume_and_stay(tmp_path):
    data = raw_values((4, 5, 6, 1)).astype(np.int16)
    volume, back = round_trip(saved(tmp_path / "a.nii.gz", data))
    assert volume.data.shape == (4, 5, 6) and read_geometry(tmp_path / "a.nii.gz").shape == (4, 5, 6)
    assert back.shape == (4, 5, 6, 1)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), data)


def test_units_of_metres_and_micrometres_become_mm(tmp_path):
    for code, factor in ((1, 1000), (3, 0.001)):
        path = saved(tmp_path / f"{code}.nii", raw_values().astype(np.int16), xyzt_units=code)
        volume, back = round_trip(path)
        np.testing.assert_allclose(volume.affine[:3], nib.load(path).affine[:3] * factor)
        np.testing.assert_allclose(sitk.ReadImage(str(path)).GetSpacing(), volume.spacing, rtol=1e-5)
        np.testing.assert_array_equal(back.affine, nib.load(path).affine)


def test_a_volume_without_header_is_written_for_other_tools(tmp_path):
    volume = Volume(raw_values(), OBLIQUE, np.dtype(np.int16))
    write_volume(tmp_path / "a.nii.gz", volume)
    back = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(back.get_sform(), OBLIQUE, atol=1e-4)
    np.testing.assert_allclose(back.get_qform(), OBLIQUE, atol=1e-4)
    assert back.header.get_xyzt_units()[0] == "mm" and int(back.header["sform_code"]) == 1
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).transpose(), volume.data)
    corner = np.array(image.TransformIndexToPhysicalPoint((4, 5, 6))) * (-1, -1, 1)
    np.testing.assert_allclose(corner, (OBLIQUE @ (4, 5, 6, 1))[:3], atol=1e-3)


def test_changed_affine_replaces_both_forms_and_keeps_the_codes(tmp_path):
    path = saved(tmp_path / "a.nii", raw_values().astype(np.int16), sform_code=4, qform_code=1)
    volume = read_volume(path)
    moved = Volume(volume.data, np.diag([1.0, 2, 3, 1]), volume.dtype, volume.header)
    write_volume(tmp_path / "b.nii", moved)
    back = nib.load(tmp_path / "b.nii")
    np.testing.assert_allclose(back.get_sform(), moved.affine)
    np.testing.assert_allclose(back.get_qform(), moved.affine, atol=1e-5)
    assert (int(back.header["sform_code"]), int(back.header["qform_code"])) == (4, 1)


def test_a_sheared_affine_is_kept_and_the_quaternion_left_out(tmp_path):
    sheared = OBLIQUE.copy()
    sheared[:3, 2] += 0.3 * sheared[:3, 0]
    write_volume(tmp_path / "a.nii", Volume(raw_values(), sheared, np.dtype(np.int16)))
    back = nib.load(tmp_path / "a.nii")
    np.testing.assert_allclose(back.affine, sheared, atol=1e-4)
    assert int(back.header["qform_code"]) == 0


def test_writing_twice_gives_the_same_bytes_and_keeps_the_input(tmp_path):
    volume = read_volume(saved(tmp_path / "a.nii.gz", raw_values().astype(np.int16)))
    data, header = volume.data.copy(), volume.header.copy()
    for name in ("b", "c"):
        write_volume(tmp_path / f"{name}.nii.gz", volume)
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()
    np.testing.assert_array_equal(volume.data, data)
    assert volume.header == header


# Refused, each with one sentence that names the file ------------------------------------------------------


def refused_reading(code, path, capfd, names=(), readers=(read_volume, read_geometry)):
    for read in readers:
        with refused(code, names=names) as info:
            read(path)
        assert str(path) in str(info.value) and "\n" not in str(info.value)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")  # nothing else is printed


@pytest.mark.parametrize(
    "shape, code, name",
    [
        ((5, 6), "volume-too-few-axes", "2D"),
        ((5, 6, 7, 3), "volume-too-many-axes", "4D"),
        ((5, 6, 7, 1, 3), "volume-too-many-axes", "5D"),
        ((5, 6, 1, 7), "volume-slice-series", "4D"),
    ],
)
def test_other_dimensions(tmp_path, capfd, shape, code, name):
    refused_reading(code, saved(tmp_path / "a.nii.gz", np.ones(shape, np.int16)), capfd, name)


def test_zero_size(tmp_path, capfd):
    path = saved(tmp_path / "a.nii", np.ones((5, 6, 7), np.int16))
    content = bytearray(path.read_bytes())
    content[40:56] = struct.pack("<8h", 3, 5, 0, 7, 1, 1, 1, 1)
    path.write_bytes(content)
    refused_reading("volume-zero-dimension", path, capfd)


def test_colour_and_complex(tmp_path, capfd):
    rgb = np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused_reading("nifti-voxel-kind", saved(tmp_path / "rgb.nii.gz", rgb), capfd, "RGB")
    path = saved(tmp_path / "complex.nii.gz", np.ones((4, 4, 4), np.complex64))
    refused_reading("nifti-voxel-kind", path, capfd, "complex voxels")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_voxels(tmp_path, capfd, bad):
    data = np.zeros((4, 4, 4), np.float32)
    data[1, 2, 3] = bad
    refused_reading("volume-not-finite", saved(tmp_path / "a.nii.gz", data), capfd, " 1 ", [read_volume])


def test_float64_beyond_float32(tmp_path, capfd):
    path = saved(tmp_path / "a.nii.gz", np.full((2, 2, 2), 1e300))
    refused_reading("volume-not-finite", path, capfd, " 8 ", [read_volume])


def test_bad_affines(tmp_path, capfd):
    data = np.ones((4, 4, 4), np.int16)
    flat, broken = np.diag([1.0, 0, 1, 1]), OBLIQUE.copy()
    broken[0, 3] = np.nan
    for name, affine, fault in (("flat", flat, "singular"), ("broken", broken, "NaN")):
        image = nib.Nifti1Image(data, None)
        image.header.set_sform(affine, 1)
        nib.save(image, tmp_path / f"{name}.nii.gz")
        refused_reading("nifti-unreadable", tmp_path / f"{name}.nii.gz", capfd, ("sform_code", fault))


def test_truncated(tmp_path, capfd):
    noise = np.random.default_rng(0).integers(-30000, 30000, (20, 20, 20)).astype(np.int16)
    whole = saved(tmp_path / "a.nii.gz", noise).read_bytes()
    torn = "nifti-not-decompressible"
    for keep, code in (
        (0, "nifti-empty"),
        (1, "nifti-unreadable"),
        (10, torn),
        (200, torn),
        (len(whole) // 2, torn),
        (len(whole) - 5, torn),
    ):
        path = tmp_path / "cut.nii.gz"
        path.write_bytes(whole[:keep])
        refused_reading(code, path, capfd, (), [read_volume])
    plain = saved(tmp_path / "a.nii", noise).read_bytes()
    for keep, code in (
        (0, "nifti-unreadable"),
        (100, "nifti-unreadable"),
        (348, "nifti-size-too-small"),
        (400, "nifti-size-too-small"),
        (len(plain) - 1, "nifti-ends-too-early"),
    ):
        path = tmp_path / "cut.nii"
        path.write_bytes(plain[:keep])
        refused_reading(code, path, capfd, (), [read_volume])


def test_a_flipped_bit_is_found_by_the_checksum(tmp_path, capfd):
    content = bytearray(
        saved(tmp_path / "a.nii.gz", np.zeros((30, 30, 30), np.int16) + raw_values((30, 30, 30))).read_bytes()
    )
    content[len(content) // 2] ^= 16
    (tmp_path / "a.nii.gz").write_bytes(content)
    refused_reading("nifti-not-decompressible", tmp_path / "a.nii.gz", capfd, (), [read_volume])


def test_gzip_members_are_joined_and_trailing_data_is_refused(tmp_path, capfd):
    plain = saved(tmp_path / "a.nii", raw_values().astype(np.int16)).read_bytes()
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(plain[:500]) + gzip.compress(plain[500:]) + b"\0" * 7)  # zero padding
    np.testing.assert_array_equal(read_volume(path).data, read_volume(tmp_path / "a.nii").data)
    path.write_bytes(gzip.compress(plain) + b"and more than that")
    refused_reading("nifti-not-decompressible", path, capfd, (), [read_volume])
    broken = bytearray(gzip.compress(plain))
    broken[10] |= 6  # invalid block type
    path.write_bytes(broken)
    refused_reading("nifti-not-decompressible", path, capfd, (), [read_volume])


def test_not_nifti_at_all(tmp_path, capfd):
    (tmp_path / "text.nii.gz").write_text("this is a text file\n" * 50)
    refused_reading("nifti-unreadable", tmp_path / "text.nii.gz", capfd, "not gzip-compressed")
    (tmp_path / "text.nii").write_text("this is a text file\n" * 50)
    refused_reading("nifti-unreadable", tmp_path / "text.nii", capfd, "sizeof_hdr")
    (tmp_path / "zipped.nii.gz").write_bytes(gzip.compress(b"this is a text file\n" * 50))
    refused_reading("nifti-unreadable", tmp_path / "zipped.nii.gz", capfd, "sizeof_hdr")
    saved(tmp_path / "b.nii.gz", raw_values().astype(np.int16)).rename(tmp_path / "b.nii")
    refused_reading("nifti-unreadable", tmp_path / "b.nii", capfd, "is gzip-compressed")


def test_the_header_of_a_pair(tmp_path, capfd):
    nib.save(nib.Nifti1Pair(raw_values().astype(np.int16), OBLIQUE), tmp_path / "a.hdr")
    (tmp_path / "a.hdr").rename(tmp_path / "a.nii")
    refused_reading("nifti-unreadable", tmp_path / "a.nii", capfd, ".hdr/.img")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    "shape, code", [((2000, 2000, 1000), "nifti-size-too-small"), ((30000,) * 3, "volume-implausible-size")]
)
def test_impossible_headers_allocate_no_memory(tmp_path, capfd, ending, shape, code):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    content = header.binaryblock + b"\0" * 1000
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
    refused_reading(code, path, capfd, (), [read_volume])


def test_header_that_nibabel_repairs_prints_nothing(tmp_path, capfd):
    path = saved(tmp_path / "a.nii", raw_values().astype(np.int16))
    content = bytearray(path.read_bytes())
    content[80:92] = struct.pack("<3f", -1.0, 0.0, 1.0)  # pixdim; the sform is correct
    path.write_bytes(content)
    np.testing.assert_allclose(read_volume(path).affine, OBLIQUE, atol=1e-4)
    assert capfd.readouterr() == ("", "")


# Channels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["i2", "u1", "f4"])
def test_channels_of_one_file_round_trip(tmp_path, kind):
    data = raw_values((4, 5, 6, 3), low=0, high=200).astype(kind)
    channels = read_channels(saved(tmp_path / "a.nii.gz", data))
    assert [c.data.shape for c in channels] == [(4, 5, 6)] * 3
    write_channels(tmp_path / "b.nii.gz", channels)
    back = nib.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(back.get_fdata(), data)
    np.testing.assert_array_equal(back.affine, nib.load(tmp_path / "a.nii.gz").affine)
    assert back.get_data_dtype() == np.dtype(kind)


def test_channels_with_a_slope_keep_their_values(tmp_path):
    image = nib.Nifti1Image(raw_values((4, 5, 6, 2)).astype(np.int16), OBLIQUE)
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "a.nii")
    channels = read_channels(tmp_path / "a.nii")
    write_channels(tmp_path / "b.nii", channels)
    back = nib.load(tmp_path / "b.nii")
    np.testing.assert_array_equal(back.get_fdata(), nib.load(tmp_path / "a.nii").get_fdata())


def test_vectors_as_itk_writes_them_are_channels(tmp_path):
    data = raw_values((4, 5, 6, 2)).astype(np.int16)
    channels = read_channels(saved(tmp_path / "a.nii.gz", data[:, :, :, None]))
    assert channel_count(tmp_path / "a.nii.gz") == 2
    np.testing.assert_array_equal(np.stack([c.data for c in channels], -1), data)
    for ending, code in ((".mha", "meta-vector-voxels"), (".nrrd", "nrrd-vector-voxels")):
        image = sitk.GetImageFromArray(data.transpose(2, 1, 0, 3).astype(np.float32), isVector=True)
        sitk.WriteImage(image, tmp_path / f"a{ending}")
        with refused(code):
            channel_count(tmp_path / f"a{ending}")


def test_one_volume_is_one_channel(tmp_path):
    path = saved(tmp_path / "a.nii.gz", raw_values().astype(np.int16))
    (channel,) = read_channels(path)
    write_channels(tmp_path / "b.nii.gz", [channel])
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nii.gz").data, read_volume(path).data)


def test_channels_that_cannot_share_a_file(tmp_path):
    volume = Volume(np.zeros((2, 2, 2)), np.eye(4))
    with refused("output-channels-need-nifti", names="a.mha"):
        write_channels(tmp_path / "a.mha", [volume, volume])
    with refused("output-not-finite"):
        write_channels(tmp_path / "a.nii", [volume, Volume(np.full((2, 2, 2), np.nan), np.eye(4))])
    with refused("volume-too-many-axes"):
        read_channels(saved(tmp_path / "five.nii", np.zeros((2, 2, 2, 2, 2), np.int16)))
    assert not (tmp_path / "a.nii").exists()


def test_metres_that_can_only_be_millimetres_are_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros((60, 50, 40), np.int16), np.diag([2.0, 2, 2, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    with refused("nifti-unit-metre", names=(str(tmp_path / "a.nii"), "xyzt_units", "120 m")):
        read_volume(tmp_path / "a.nii")

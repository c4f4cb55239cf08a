"""Reading and writing volumes: formats, canonical axes, geometry comparison, atomic writing, voxel types."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nibabel.affines import voxel_sizes
from nibabel.orientations import inv_ornt_aff, io_orientation
from programs import run_program
from refusal import refused
from scipy.spatial.transform import Rotation

from medgen.io.atomic import atomic_write
from medgen.io.paths import ENDINGS, case_name
from medgen.io.read import find_volumes, read_geometry, read_volume
from medgen.io.volume import (
    Geometry,
    Volume,
    canonical_view,
    contiguous,
    from_canonical,
    same_geometry,
    stored_values,
    to_canonical,
)
from medgen.io.write import write_volume


@st.composite
def oriented(draw) -> Volume:
    """Volume with any axis permutation and flips, and an oblique rotation."""
    shape = draw(st.tuples(*[st.integers(1, 6)] * 3))
    turn = Rotation.from_euler("xyz", draw(st.tuples(*[st.floats(-40, 40)] * 3)), degrees=True).as_matrix()
    axes = np.eye(3)[:, draw(st.permutations(range(3)))] * draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ np.diag(draw(st.tuples(*[st.floats(0.2, 8)] * 3)))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return Volume(rng.integers(-1024, 3072, shape), affine, np.dtype(np.int16))


@settings(max_examples=60, deadline=None)
@given(oriented())
def test_canonical_axes_are_reversible_and_keep_voxel_positions(volume):
    before = volume.data.copy()
    canonical = to_canonical(volume)
    np.testing.assert_array_equal(from_canonical(canonical.data, volume), volume.data)
    np.testing.assert_array_equal(from_canonical(canonical.data.copy(), volume, overwrite=True), volume.data)
    np.testing.assert_array_equal(volume.data, before)
    nearest = canonical.affine @ inv_ornt_aff(io_orientation(canonical.affine), canonical.data.shape)
    np.testing.assert_allclose(*(np.trace(a[:3, :3] / voxel_sizes(a)) for a in (canonical.affine, nearest)), atol=0.02)
    # every canonical voxel, found through world coordinates in the original, has the same value there
    index = np.indices(canonical.data.shape).reshape(3, -1)
    world = canonical.affine[:3, :3] @ index + canonical.affine[:3, 3:]
    original = np.linalg.solve(volume.affine[:3, :3], world - volume.affine[:3, 3:])
    np.testing.assert_allclose(original, np.rint(original), atol=1e-6)
    values = volume.data[tuple(np.rint(original).astype(int))]
    np.testing.assert_array_equal(values, canonical.data.ravel())


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.sampled_from([-135, -45, 0, 45, 90])] * 3),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
    st.integers(0, 2**31),
)
def test_files_of_one_grid_get_the_same_canonical_axes_near_45_degrees(angles, signs, seed):
    """Near 45 degrees, rounding of a float32 header must not rotate a label map by 90 degrees relative to its scan."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * signs * 0.8
    data = np.arange(4**3, dtype=np.float32).reshape(4, 4, 4)
    rounded = affine + np.random.default_rng(seed).normal(0, 1e-6, (4, 4)) * [[1], [1], [1], [0]]
    one, other = (to_canonical(Volume(data, a)) for a in (affine, rounded))
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_allclose(one.affine, other.affine, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(oriented())
def test_canonical_view_equals_the_canonical_volume_without_a_copy(volume):
    view, copied = canonical_view(volume), to_canonical(volume)
    np.testing.assert_array_equal(view.data, copied.data)
    np.testing.assert_array_equal(view.affine, copied.affine)
    assert np.shares_memory(view.data, volume.data)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 50)),
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([1, -1, 2])] * 3),
)
def test_block_copy_equals_the_array(shape, order, steps):
    data = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)[tuple(slice(None, None, k) for k in steps)]
    copied = contiguous(data.transpose(order))
    np.testing.assert_array_equal(copied, data.transpose(order))
    assert copied.flags.c_contiguous and copied.dtype == np.int16


@settings(max_examples=40, deadline=None)
@given(oriented(), st.sampled_from(ENDINGS))
def test_every_format_keeps_any_orientation(tmp_path_factory, volume, ending):
    path = tmp_path_factory.mktemp("any") / f"case{ending}"
    write_volume(path, volume)
    back = read_volume(path)
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.dtype == np.int16
    # NIfTI-1 holds float32: 1e-3 mm leaves room for 500 mm
    assert same_geometry(back.geometry, volume.geometry)
    assert same_geometry(read_geometry(path), back.geometry, tolerance=0.0)
    # the second generation no longer changes at all
    write_volume(path, back)
    np.testing.assert_allclose(read_volume(path).affine, back.affine, rtol=1e-12, atol=1e-12)


def test_same_geometry_looks_at_the_far_corner():
    a = Geometry((100, 100, 100), np.eye(4))
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("z", 1e-4).as_matrix()  # 1e-4 rad: 0.014 mm at 140 mm
    assert not same_geometry(a, Geometry((100, 100, 100), turned))
    assert same_geometry(a, Geometry((100, 100, 100), turned), tolerance=0.02)
    assert not same_geometry(a, Geometry((100, 100, 99), np.eye(4)))


def test_spacing_and_description():
    geometry = Geometry((4, 5, 6), np.array([[0, 0, -3, 1], [-1, 0, 0, 2], [0, 2, 0, 3], [0, 0, 0, 1.0]]))
    assert geometry.spacing == (1.0, 2.0, 3.0)
    text = geometry.describe()
    assert "4 x 5 x 6" in text and "1 x 2 x 3 mm" in text and "PSL" in text and "(1, 2, 3)" in text


def test_replaced_keeps_the_grid_and_refuses_another_shape():
    volume = Volume(np.zeros((2, 3, 4)), np.eye(4), np.dtype(np.int16))
    new = volume.replaced(np.ones((2, 3, 4)))
    assert new.dtype == np.int16 and new.data.dtype == np.float32 and new.data.all() and not volume.data.any()
    assert volume.replaced(new.data, np.uint8).dtype == np.uint8
    with pytest.raises(ValueError, match=r"\(2, 3, 5\), but the grid has \(2, 3, 4\)"):
        volume.replaced(np.ones((2, 3, 5)))


@settings(max_examples=80, deadline=None)
@given(
    hnp.arrays(np.float32, (2, 2, 2), elements=st.floats(-(2.0**40), 2.0**40, width=32)),
    st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "i8"]),
)
def test_integers_are_rounded_and_widened_never_wrapped(data, kind):
    raw = stored_values(data, np.dtype(kind))
    np.testing.assert_array_equal(raw.astype(np.float64), np.rint(data.astype(np.float64)))
    assert raw.dtype.itemsize >= np.dtype(kind).itemsize


@pytest.mark.parametrize(
    "values, kind, expected",
    [
        ([-1024, 3071], "i2", "i2"),
        ([0, 300], "u1", "u2"),
        ([-5, 200], "u1", "i2"),
        ([-1024, 40000], "i2", "i4"),
        ([0.0, 1.0], "?", "u1"),
        ([1e30, 0.0], "i2", "f4"),
        ([0.5, 1e30], "f8", "f8"),
    ],
)
def test_stored_type(values, kind, expected):
    data = np.float32(values)
    raw = stored_values(data, np.dtype(kind))
    assert raw.dtype == expected
    np.testing.assert_array_equal(raw.astype(np.float32), data)


def test_case_name_and_find_volumes(tmp_path):
    for name in ("b.nii.gz", "a.MHA", "c.nrrd", "._b.nii.gz", ".tmp.nii", "notes.txt", "a.raw"):
        (tmp_path / name).touch()
    (tmp_path / "folder.nii").mkdir()
    assert [p.name for p in find_volumes(tmp_path)] == ["a.MHA", "b.nii.gz", "c.nrrd"]
    assert [case_name(p) for p in find_volumes(tmp_path)] == ["a", "b", "c"]
    assert case_name("series.1.2") == "series.1.2"
    assert case_name(tmp_path / "case.7_0000.nii.gz") == "case.7_0000"


@pytest.mark.parametrize("read", [read_volume, read_geometry, find_volumes])
def test_missing_path_is_named(tmp_path, read):
    with refused("file-missing", names="absent.nii.gz"):
        read(tmp_path / "absent.nii.gz")


@pytest.mark.parametrize("read", [read_volume, read_geometry])
def test_unknown_extension_and_empty_folder_are_refused(tmp_path, read):
    (tmp_path / "scan.png").write_bytes(b"\x89PNG")
    with refused("file-unknown-format", names="scan.png"):
        read(tmp_path / "scan.png")
    (tmp_path / "empty").mkdir()
    with refused("dicom-no-series", names="empty"):
        read(tmp_path / "empty")
    with refused("output-extension-unknown"):
        write_volume(tmp_path / "scan.jpg", Volume(np.zeros((2, 2, 2)), np.eye(4)))
    with refused("folder-is-file"):
        find_volumes(tmp_path / "scan.png")


@pytest.mark.parametrize("ending", ENDINGS)
def test_non_finite_voxels_are_not_written(tmp_path, ending):
    data = np.zeros((2, 2, 2))
    data[0, 0, 0] = np.nan
    with refused("output-not-finite"):
        write_volume(tmp_path / f"x{ending}", Volume(data, np.eye(4)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ENDINGS)
def test_unwritable_output_is_named(tmp_path, ending):
    (tmp_path / "file").write_text("in the way")
    with refused("output-not-writable", names=f"x{ending}"):
        write_volume(tmp_path / "file" / f"x{ending}", Volume(np.zeros((2, 2, 2)), np.eye(4)))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


FULL_DISK = """
import resource, sys, numpy as np
from medgen.io.volume import Volume
from medgen.io.write import write_volume
from medgen.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # simulates a full disk: further writes fail
noise = np.random.default_rng(0).integers(-30000, 30000, (20, 20, 20))
try:
    write_volume(sys.argv[1], Volume(noise, np.eye(4), np.int16))
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_full_disk_gives_one_error_and_leaves_no_file(tmp_path, ending):
    path = tmp_path / f"x{ending}"
    done = run_program(FULL_DISK, path)
    assert f"x{ending} cannot be written" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())

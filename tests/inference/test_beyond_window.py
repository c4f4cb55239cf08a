"""Values beyond the network's window are unchanged, for every grid, stored type and model."""

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_series import OBLIQUE, write_ct, write_enhanced_ct
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from scipy import ndimage
from scipy.spatial.transform import Rotation
from small import SMALL_METHOD, make_model, merged, small_settings

from medgen.inference.cohort.run import convert
from medgen.inference.predict import translate_case, translate_channels
from medgen.io.grids import on_axes_of
from medgen.io.read import read_volume
from medgen.io.volume import Volume, to_canonical
from medgen.io.write import write_volume
from medgen.model_info import RangeInfo

BEYOND = [-32768, -3024, -2000, -1024, -1000.5, -1000, 1000, 1000.25, 1600, 3071, 20000, 64512]


def model_of(low=-1000, high=1000, outside="preserve", *, train=True, targets=1, **sections):
    method = merged(SMALL_METHOD, sections.pop("method", {}))
    intensity = {side: {"low": low, "high": high} for side in ("source", "target")}
    intensity["source"]["outside"] = outside
    model = make_model(small_settings(method=method, intensity=intensity, **sections), train=train)
    ranges = [RangeInfo(low=low, high=high) for _ in model.info.target_range]
    model.info = model.info.model_copy(update={"target_range": ranges})
    return model


DOMAINS = {"name": "multi_domain", "classifier_filters": 4, "classifier_layers": 1}
MODELS = {
    "residual": model_of(inference={"transfer": "difference"}),
    "image": model_of(),
    "not residual": model_of(method={"generator": {"residual": False}}, inference={"transfer": "difference"}),
    "narrow window": model_of(-200, 400, method={"generator": {"residual": False}}),
    "mirrored": model_of(sampling={"patch": (16, 16, 16), "flip": ("x",)}, inference={"mirror": ("x",)}),
    "windows": model_of(inference={"window": "patch", "overlap": 0.5, "transfer": "difference"}),
    "slices": model_of(method={"spatial_dims": 2}, sampling={"patch": (16, 16, 1)}),
    "slabs": model_of(method={"spatial_dims": 2}, sampling={"patch": (16, 3, 16)}),
    "several": model_of(data={"sources": ["a", "b"], "targets": ["c", "d"]}, inference={"transfer": "difference"}),
    "several into one": model_of(data={"sources": ["a", "b"], "targets": ["c"]}),
    "domains": model_of(method=DOMAINS, data={"domains": ["a", "b"], "paired": False}),
    "own spacing": model_of(inference={"spacing": "ignore"}),
}


@st.composite
def grids(draw):
    """Affine and shape: 0.4 to 6 mm, any rotation, some with a tilted gantry; small at the model's 2 mm too."""
    spacing = np.array([draw(st.floats(0.4, 6)) for _ in range(3)])
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", [draw(st.floats(-180, 180)) for _ in range(3)], degrees=True)
    tilt = np.eye(3)
    tilt[1, 2] = draw(st.sampled_from([0, 0, np.tan(np.radians(15)), -np.tan(np.radians(25))]))
    affine[:3, :3] = turn.as_matrix() @ tilt * spacing
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return affine, tuple(draw(st.integers(1, max(1, int(24 / max(s, 1.2))))) for s in spacing)


def values(shape, seed, low=-1000, high=1000):
    """Tissue, with blobs, single voxels and a border beyond the window."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(low, high, shape)
    x = np.where(rng.random(shape) < 0.3, rng.choice(BEYOND, shape), x)
    x[tuple(slice(n // 2, n // 2 + n // 4) for n in shape)] = rng.choice(BEYOND)
    x[..., : max(1, shape[2] // 5)] = -3024
    return x.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(MODELS)), grids(), st.integers(0, 2**31))
def test_values_beyond_the_window_are_unchanged_and_others_stay_within(name, grid, seed):
    model, (affine, shape) = MODELS[name], grid
    low, high = model.settings.intensity.source.low, model.settings.intensity.source.high
    scans = [Volume(values(shape, seed + n, low, high), affine) for n, _ in enumerate(model.settings.data.sources)]
    for scan, made in zip(scans, translate_case(model, scans), strict=False):
        beyond = (scan.data <= low) | (scan.data >= high)
        assert np.array_equal(made.data[beyond], scan.data[beyond])
        assert (np.abs(made.data[~beyond] - (low + high) / 2) <= (high - low) / 2).all()


@settings(max_examples=25, deadline=None)
@given(
    grids(),
    st.integers(0, 2**31),
    st.sampled_from([("difference", "preserve"), ("image", "preserve"), ("difference", "clip")]),
)
def test_no_halo_around_bone_metal_and_padding(grid, seed, how):
    """With a network that changes nothing, neighbours of 20,000 HU are unchanged too, despite resampling."""
    (affine, shape), (transfer, outside) = grid, how
    model = model_of(outside=outside, inference={"transfer": transfer}, train=False)
    scan = Volume(values(shape, seed), affine)
    near = ndimage.binary_dilation(np.abs(scan.data) >= 1000, np.ones((3, 3, 3)))  # image: the rest is smoothed
    (made,) = translate_case(model, [scan])
    expected = scan.data if outside == "preserve" else np.clip(scan.data, -1000, 1000)
    np.testing.assert_allclose(made.data[near], expected[near], atol=2e-3)


@pytest.mark.parametrize("spacing", [2.0, 1.3])
def test_padding_of_the_lowest_float_comes_back(spacing):
    scan = Volume(values((20, 18, 12), 0), np.diag([spacing, spacing, spacing, 1]))
    scan.data[:3] = np.finfo(np.float32).min
    for model in (MODELS["image"], MODELS["residual"]):
        (made,) = translate_case(model, [scan])
        assert np.array_equal(made.data[:3], scan.data[:3]) and np.isfinite(made.data).all()


@pytest.mark.parametrize("spacing", [2.0, 1.3])
@pytest.mark.parametrize("limit", [None, 1030])
def test_padding_that_dicom_names_within_the_window_comes_back(tmp_path, spacing, limit):
    """PixelPaddingValue 1024 is 0 HU, which the network would change."""
    raw = np.random.default_rng(0).integers(900, 1200, (9, 20, 18))
    raw[:, :6] = 1024
    raw[:, 6] = 1029
    tags = {"PixelPaddingValue": 1024} | ({} if limit is None else {"PixelPaddingRangeLimit": limit})
    write_ct(tmp_path / "a", raw, step=spacing, **tags)
    scan = read_volume(tmp_path / "a")
    low, high = 0, 0 if limit is None else limit - 1024
    assert scan.padding is not None and (scan.padding[0] == low).all() and (scan.padding[1] == high).all()
    (made,) = translate_case(MODELS["not residual"], [scan])
    kept = (scan.data >= low) & (scan.data <= high)
    assert np.array_equal(made.data[kept], scan.data[kept]) and not np.isclose(made.data[~kept], scan.data[~kept]).all()


@pytest.mark.parametrize(("kind", "value"), [("SS", -476), ("US", 65536 - 476)])
def test_padding_of_signed_pixels_may_be_written_as_unsigned(tmp_path, kind, value):
    raw = np.random.default_rng(0).integers(900, 1200, (5, 20, 18)).astype(np.int16)
    raw[:, :6] = -476
    write_ct(tmp_path / "a", raw)
    for path in (tmp_path / "a").iterdir():
        ds = pydicom.dcmread(path)
        ds.PixelRepresentation = 1
        ds.add_new("PixelPaddingValue", kind, value)
        ds.save_as(path)
    assert set(read_volume(tmp_path / "a").padding[0].ravel()) == {-1500.0}


@pytest.mark.parametrize("turn", ["axial", "oblique", "coronal"])
@pytest.mark.parametrize("enhanced", [False, True])
def test_padding_of_slices_with_their_own_rescale_comes_back(tmp_path, turn, enhanced):
    """A stored value means different HU in each slice; some single files have PixelPaddingValue, others do not."""
    axes = {"axial": np.eye(3), "oblique": OBLIQUE, "coronal": np.array([[1, 0, 0], [0, 0, 1.0], [0, -1, 0]])}[turn]
    raw = np.random.default_rng(0).integers(900, 1200, (9, 20, 18))
    raw[:, :6] = 77
    named = np.array([enhanced or k % 3 > 0 for k in range(9)])
    if enhanced:
        write_enhanced_ct(tmp_path / "a/a.dcm", raw, axes, step=1.3, rescale=lambda k: (1, -500 - 7 * k))
        ds = pydicom.dcmread(tmp_path / "a/a.dcm")
        ds.add_new("PixelPaddingValue", "US", 77)
        ds.save_as(tmp_path / "a/a.dcm")
    else:
        padding = {"PixelPaddingValue": lambda k: 77 if named[k] else None}
        write_ct(tmp_path / "a", raw, axes, step=1.3, rescale=lambda k: (1, -500 - 7 * k), **padding)
    scan = read_volume(tmp_path / "a")
    (made,) = translate_case(MODELS["not residual"], [scan])
    kept = np.zeros(scan.data.shape, bool)
    kept[:, :6, named] = True
    assert np.array_equal(made.data[kept], scan.data[kept])
    other = scan.data[:, :6, ~named], made.data[:, :6, ~named]
    assert enhanced or not np.isclose(*other).all()
    (upright,) = (on_axes_of(scan, to_canonical(scan)),)
    assert np.array_equal(
        *(((v.padding[0] <= v.data) & (v.data <= v.padding[1])) for v in (upright, to_canonical(scan)))
    )


def test_validation_measures_what_a_conversion_writes():
    model, scan = MODELS["image"], Volume(values((16, 20, 12), 0), np.diag([2.0, 2.0, 2.0, 1]))
    codes = [model.source_code]
    assert np.array_equal(translate_channels(model, [scan.data], codes)[0], translate_case(model, [scan])[0].data)


def stored(kind, slope, inter, shape=(9, 10, 11)):
    """Raw numbers of a type: tissue within the window, and the values of ``BEYOND`` that the type can represent."""
    rng, kind = np.random.default_rng(0), np.dtype(kind)
    raw = (rng.uniform(-999, 999, shape) - inter) / slope
    beyond = (np.array(BEYOND) - inter) / slope
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        raw, beyond = np.rint(np.clip(raw, limits.min, limits.max)), np.rint(beyond)
        beyond = beyond[(beyond >= limits.min) & (beyond <= limits.max)]
    return np.where(rng.random(shape) < 0.3, rng.choice(beyond, shape), raw).astype(kind)


STORED = [("u1", 20, -1500), ("i2", 1, 0), ("i2", 0.5, -1000), ("u2", 1, -1024), ("i4", 1, 0), ("i4", 0.125, 5),
          ("f4", 1, 0), ("f8", 1, 0)]  # fmt: skip


def turned(raw, spacing=(1.2, 0.9, 3.0)):
    """The array on other axes, oblique, with a spacing that is not the model's."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (12, -20, 33), degrees=True).as_matrix() * spacing
    axes = np.array([[2, -1], [0, 1], [1, -1]])
    return apply_orientation(raw, axes), affine @ inv_ornt_aff(axes, raw.shape)


@pytest.mark.parametrize(("kind", "slope", "inter"), STORED)
def test_nifti_of_any_stored_type(tmp_path, kind, slope, inter):
    raw, affine = turned(stored(kind, slope, inter))
    image = nib.Nifti1Image(raw, affine, dtype=raw.dtype)
    image.header.set_slope_inter(slope, inter)
    nib.save(image, tmp_path / "a.nii")
    (made,) = translate_case(MODELS["residual"], [read_volume(tmp_path / "a.nii")])
    write_volume(tmp_path / "b.nii.gz", made)
    after = nib.load(tmp_path / "b.nii.gz")
    assert (after.dataobj.slope, after.dataobj.inter) == (slope, inter)
    beyond = np.abs(raw * float(slope) + inter) >= 1000
    assert beyond.any() and np.array_equal(after.dataobj.get_unscaled()[beyond], raw[beyond])
    assert after.get_data_dtype() == raw.dtype


@pytest.mark.parametrize("ending", [".mha", ".nrrd"])
@pytest.mark.parametrize("kind", ["i2", "u2", "i4", "f4", "f8"])
def test_mha_and_nrrd_of_any_stored_type(tmp_path, ending, kind):
    raw = stored(kind, 1, 0)
    image = sitk.GetImageFromArray(raw)
    image.SetSpacing((1.2, 0.9, 3))
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"))
    (made,) = translate_case(MODELS["residual"], [read_volume(tmp_path / f"a{ending}")])
    write_volume(tmp_path / f"b{ending}", made)
    after = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"b{ending}")))
    beyond = np.abs(raw.astype(float)) >= 1000
    assert beyond.any() and np.array_equal(after[beyond], raw[beyond])


@pytest.mark.parametrize("rescale", [(1, -1024), (0.5, -1000.5), (2, -3024), ("0.3", "-1024.3")])
@pytest.mark.parametrize("write", [write_ct, write_enhanced_ct])
def test_dicom_by_any_rescale(tmp_path, write, rescale):
    folder, given = tmp_path / "in/case", (float(rescale[0]), float(rescale[1]))
    pixels = np.random.default_rng(0).integers(0, 5000, (6, 20, 24))
    pixels[:, :3], pixels[0, 10, 10] = 0, 65535
    if write is write_ct:
        write_ct(folder, pixels, OBLIQUE, rescale=lambda k: rescale, PixelPaddingValue=0)
    else:
        write_enhanced_ct(folder / "a.dcm", pixels, OBLIQUE, rescale=rescale)
    (result,) = convert(MODELS["residual"], tmp_path / "in", tmp_path / "out")
    assert result.status == "converted", result.error
    before, after = read_volume(folder), read_volume(tmp_path / "out/case")
    beyond = np.abs(pixels * given[0] + given[1]) >= 1000
    carried = np.abs(before.data) >= 1000
    assert beyond.sum() > 100 and np.array_equal(after.data[carried], before.data[carried])

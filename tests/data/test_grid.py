import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medgen.data.grid import resample, resample_like
from medgen.io.volume import Volume


def smooth(shape=(24, 20, 16), sigma=3.0):
    return ndimage.gaussian_filter(np.random.default_rng(0).normal(0, 1, shape), sigma).astype(np.float32) * 100


def oblique(spacing):
    turn = np.array([[0.9, -0.3, 0.1], [0.3, 0.95, 0.0], [-0.1, 0.03, 0.99]])
    turn = np.linalg.qr(turn)[0]
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = (5, -7, 11)
    return affine


def test_centre_of_the_field_of_view_stays():
    volume = Volume(smooth(), oblique((1.0, 1.5, 2.0)))
    other = resample(volume, (2.0, 2.0, 2.0))
    np.testing.assert_allclose(other.spacing, (2, 2, 2))

    def centre(v):
        return v.affine @ [*(np.asarray(v.data.shape) - 1) / 2, 1]

    np.testing.assert_allclose(centre(volume), centre(other), atol=1e-9)


def test_agrees_with_simpleitk_where_voxels_shrink():
    volume = Volume(smooth(), np.diag([2.0, 2, 2, 1]))
    fine = resample(volume, (1.0, 1.25, 1.0))
    image = sitk.GetImageFromArray(volume.data.transpose(2, 1, 0))
    image.SetSpacing((2, 2, 2))
    grid = sitk.Image(*[int(n) for n in fine.data.shape], sitk.sitkFloat32)
    grid.SetSpacing(tuple(float(s) for s in fine.spacing))
    grid.SetOrigin(tuple(float(o) for o in fine.affine[:3, 3]))
    expected = sitk.GetArrayFromImage(sitk.Resample(image, grid)).transpose(2, 1, 0)
    inside = (slice(3, -3),) * 3
    np.testing.assert_allclose(fine.data[inside], expected[inside], atol=1e-3)


def test_resampling_forth_and_back_keeps_a_smooth_image():
    volume = Volume(smooth(sigma=4), oblique((1.0, 1.0, 1.0)))
    back = resample_like(resample(volume, (1.5, 1.5, 1.5)), volume)
    assert back.shape == volume.data.shape
    inside = (slice(3, -3),) * 3
    assert np.abs(back - volume.data)[inside].mean() < 0.1 * volume.data.std()


def test_constant_stays_constant():
    volume = Volume(np.full((7, 9, 11), 55, np.float32), oblique((0.7, 0.7, 5)))
    for spacing in ((2.5, 2.5, 2.5), (0.5, 0.5, 0.5)):
        assert resample(volume, spacing).data == pytest.approx(55)


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(0.4, 3.0)] * 3), st.integers(0, 9))
def test_masked_voxels_are_not_mixed_with_tissue(spacing, seed):
    rng = np.random.default_rng(seed)
    inside = ndimage.gaussian_filter(rng.normal(size=(18, 16, 14)), 2) > 0
    data = np.where(inside, 500.0, 0.0).astype(np.float32)
    new = resample(Volume(data, np.eye(4), np.dtype(np.float32)), spacing, background=0.0)
    tissue = new.data[new.data > 0]
    np.testing.assert_allclose(tissue, 500.0, rtol=1e-5)  # a constant tissue stays constant up to its border
    shared = resample(Volume(inside.astype(np.float32), np.eye(4), np.dtype(np.float32)), spacing).data
    np.testing.assert_array_equal(new.data != 0, shared >= 0.5)

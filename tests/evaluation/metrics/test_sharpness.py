"""MTF and noise power spectrum against closed forms."""

import csv

import nibabel as nib
import numpy as np
import pytest
from evaluating import evaluate
from scipy import ndimage, special

from medgen.evaluation.metrics.image_pair import measure
from medgen.evaluation.metrics.sharpness import (
    edge_mtf,
    edge_profiles,
    edge_sharpness,
    flat_regions,
    frequency_at,
    noise_power_spectrum,
    noise_ratios,
    without_trend,
)

SPACING = (1.0, 0.8, 1.5)


def smooth_edge(sigma, normal=(1.0, 0.0, 0.0), shape=(40, 48, 28), spacing=SPACING):
    """A plane edge, blurred by a Gaussian of ``sigma`` mm: 100 erf, with the MTF exp(-2 π² σ² f²)."""
    points = np.stack(np.meshgrid(*(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"), -1)
    across = (points - np.array(shape) * spacing / 2) @ (np.array(normal) / np.linalg.norm(normal))
    return (50 * (1 + special.erf(across / (sigma * np.sqrt(2))))).astype(np.float32)


@pytest.mark.parametrize("sigma", [0.8, 1.5, 2.5])
def test_the_mtf_of_a_gaussian_edge_is_its_transform(sigma):
    x = np.arange(-20, 20, 0.25)
    frequencies, mtf = edge_mtf(special.erf(x / (sigma * np.sqrt(2))), 0.25)
    low = frequencies < 0.5 / sigma
    np.testing.assert_allclose(mtf[low], np.exp(-2 * (np.pi * sigma * frequencies[low]) ** 2), atol=0.02)
    exact = np.sqrt(np.log(2) / 2) / (np.pi * sigma)
    assert frequency_at(frequencies, mtf) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("normal", [(1, 0, 0), (0, 0, 1), (1, 1, 0), (1, 2, 0.5)])
def test_profiles_follow_the_edge_in_mm_in_every_direction(normal):
    image = smooth_edge(1.5, normal)
    (profile,), step = edge_profiles(image, [image], SPACING, _inner(image))
    exact = np.sqrt(np.log(2) / 2) / (np.pi * 1.5)
    assert frequency_at(*edge_mtf(profile, step)) == pytest.approx(exact, rel=0.12)  # linear interpolation blurs a bit


def _inner(image):
    mask = np.zeros(image.shape, bool)
    mask[10:-10, 12:-12, 8:-8] = True
    return mask


@pytest.mark.parametrize("sigma", [1.2, 1.7, 2.2])
def test_sharpness_is_the_ratio_of_the_widths(sigma):
    reference, image = smooth_edge(1.5, (1, 2, 0.5)), smooth_edge(sigma, (1, 2, 0.5))
    assert edge_sharpness(reference, image, SPACING, _inner(image)) == pytest.approx(1.5 / sigma, rel=0.1)
    assert edge_sharpness(reference, reference, SPACING) == 1


def test_coarse_voxels_are_measured_too():
    spacing = (5.0, 5.0, 5.0)
    reference, image = (smooth_edge(s, (1, 2, 0.5), (24, 24, 24), spacing) for s in (6.0, 9.0))
    assert edge_sharpness(reference, image, spacing) == pytest.approx(6 / 9, rel=0.15)


def test_an_image_without_edges_has_no_sharpness():
    flat = np.zeros((10, 10, 10), np.float32)
    assert edge_sharpness(flat, flat, SPACING) is None
    assert edge_sharpness(flat[:1], flat[:1], SPACING) is None


def test_white_noise_has_a_flat_spectrum_whose_integral_is_its_variance():
    regions = np.random.default_rng(0).normal(0, 7, (400, 8, 10, 6))
    frequency, nps = noise_power_spectrum(regions, SPACING)
    assert nps.mean() == pytest.approx(49 * np.prod(SPACING), rel=0.02)
    assert nps.std() / nps.mean() < 3 / np.sqrt(400)
    bins = 1 / np.prod(np.multiply(SPACING, regions.shape[1:]))
    assert nps.sum() * bins == pytest.approx(np.square(regions).mean(), rel=1e-9)  # Parseval
    assert frequency.max() == pytest.approx(np.linalg.norm([0.5, 0.5 / 0.8, 0.5 / 1.5]))


def test_filtered_noise_has_the_spectrum_of_its_filter():
    """A moving mean of 2 voxels along x multiplies the power by cos²(π f Δx)."""
    white = np.random.default_rng(0).normal(0, 7, (600, 16, 4, 4))
    _, nps = noise_power_spectrum((white + np.roll(white, 1, 1)) / 2, (1.0, 1.0, 1.0))
    expected = 49 * np.cos(np.pi * np.fft.fftfreq(16)) ** 2
    np.testing.assert_allclose(nps.mean((1, 2)), expected, atol=0.04 * 49)


def test_a_trend_is_no_noise():
    x, y, z = np.meshgrid(*(np.arange(n) for n in (8, 7, 5)), indexing="ij")
    noise = np.random.default_rng(0).normal(size=(3, 8, 7, 5))
    clean = without_trend(noise)
    np.testing.assert_allclose(without_trend(noise + 5 * x - 2 * y + z + 100), clean, atol=1e-9)
    np.testing.assert_allclose(without_trend(clean), clean, atol=1e-9)


def test_flat_regions_are_taken_where_the_reference_is_flat():
    rng = np.random.default_rng(0)
    reference = rng.normal(0, 5, (60, 60, 60))
    reference[:40] += 400 * (np.indices((40, 60, 60)).sum(0) % 3)
    position = np.broadcast_to(np.arange(60)[:, None, None] // 10 * 1e6, reference.shape)
    (kept,) = flat_regions(reference, [reference], (1, 1, 1))
    assert kept.std() == pytest.approx(5, rel=0.1)
    marked = reference + position
    assert flat_regions(marked, [marked], (1, 1, 1))[0].std() == pytest.approx(5, rel=0.1)


def test_noise_ratios_are_those_of_level_and_filter():
    rng = np.random.default_rng(0)
    anatomy = np.kron(rng.uniform(0, 300, (3, 3, 3)), np.ones((20, 20, 20)))
    white = rng.normal(0, 10, anatomy.shape)
    level, frequency = noise_ratios(anatomy + white, anatomy + 0.5 * white, (1, 1, 1))
    assert level == pytest.approx(0.5, rel=0.01) and frequency == pytest.approx(1, rel=0.01)
    smooth = ndimage.gaussian_filter(white, 1.0, mode="wrap")
    level, frequency = noise_ratios(anatomy + white, anatomy + smooth, (1, 1, 1))
    assert level == pytest.approx(smooth.std() / 10, rel=0.1) and frequency < 0.6
    assert noise_ratios(anatomy, anatomy, (1, 1, 1)) is None


def test_they_are_the_profile_restoration():
    rng = np.random.default_rng(0)
    reference = smooth_edge(1.5, (1, 2, 0.5), (48, 48, 32)) + rng.normal(0, 1, (48, 48, 32)).astype(np.float32)
    blurred = ndimage.gaussian_filter(reference, 1.5)
    found = measure(reference, blurred, profile="restoration", spacing=SPACING)
    assert list(found) == ["restoration_edge_sharpness", "restoration_noise", "restoration_noise_frequency"]
    assert found["restoration_edge_sharpness"] < 0.8
    assert found["restoration_noise"] < 0.5 and found["restoration_noise_frequency"] < 0.8
    assert measure(reference, blurred, profile="restoration") == {}
    small = np.zeros(reference.shape, bool)
    small[:6, :6, :6] = True  # no region of 10 mm
    assert "restoration_noise" not in measure(reference, blurred, small, profile="restoration", spacing=SPACING)


def test_evaluate_measures_mr_with_it(tmp_path):
    image = smooth_edge(1.5, (1, 2, 0.5), (60, 60, 32)) + np.random.default_rng(0).normal(0, 1, (60, 60, 32))
    for name, data in {"truth": image, "made": ndimage.gaussian_filter(image, 1.5)}.items():
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(data.astype(np.float32), np.diag([*SPACING, 1])), tmp_path / name / "a.nii.gz")
    evaluate(tmp_path / "truth", tmp_path / "made", tmp_path / "out", data_range=100.0, profile="restoration")
    (row,) = csv.DictReader(open(tmp_path / "out" / "cases.csv"))
    assert 0 < float(row["restoration_edge_sharpness"]) < 0.9 and 0 < float(row["restoration_noise"]) < 0.6

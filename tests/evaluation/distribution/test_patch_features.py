"""Features of places: equal to sums over the Gaussian window, at the same places for the same body."""

import time

import numpy as np
import pytest
from refusal import refused

from medgen.evaluation.distribution.kernel import kernel_distance
from medgen.evaluation.distribution.patch_features import feature_names, patch_features, standardised

SPACING = (1.0, 1.5, 2.0)


def body(shape=(20, 18, 16), seed=0):
    volume = np.random.default_rng(seed).normal(40, 30, shape).astype(np.float32)
    mask = np.zeros(shape, bool)
    mask[5:15, 4:13, 6:10] = True
    return volume, mask


def columns(volume, mask, count=400, seed=0, **options):
    features = patch_features(volume, mask, SPACING, count=count, seed=seed, **options)
    return dict(zip(feature_names(options.get("scales", (1.0, 3.0, 6.0))), features.T, strict=True))


def window(shape, centre, sigma_mm):
    """Gaussian weights about a voxel, cut at 3 sigma along each axis as scipy does, far from the faces."""
    weights = np.ones(shape)
    for axis, (n, step) in enumerate(zip(shape, SPACING, strict=True)):
        distance = np.arange(n) - centre[axis]
        sigma = sigma_mm / step
        line = np.exp(-0.5 * (distance / sigma) ** 2) * (np.abs(distance) <= int(3 * sigma + 0.5))
        weights = weights * np.expand_dims(line / line.sum(), [a for a in range(3) if a != axis])
    return weights


def test_mean_and_sd_are_those_of_a_gaussian_window():
    volume, mask = body()
    made = columns(volume, mask, count=40, scales=(1.0, 1.2))
    place = [made[f"place_{axis}"] for axis in "xyz"]
    voxels = np.rint(np.stack(place, 1) * (9, 8, 3) + (5, 4, 6)).astype(int)
    assert len(np.unique(voxels, axis=0)) == 40 and mask[tuple(voxels.T)].all()
    for row, voxel in enumerate(voxels):
        for scale in (1.0, 1.2):
            weights = window(volume.shape, voxel, scale)
            mean = (weights * volume).sum()
            sd = np.sqrt((weights * (volume - mean) ** 2).sum())
            assert made[f"mean_{scale:g}mm"][row] == pytest.approx(mean, rel=1e-5)
            assert made[f"sd_{scale:g}mm"][row] == pytest.approx(sd, rel=1e-5)


def test_the_gradient_of_a_ramp_is_its_slope():
    grid = np.indices((40, 30, 26))
    volume = 3.0 * grid[0] - 4.5 * grid[1] + 12 * grid[2]  # 3, -3 and 6 HU/mm
    mask = np.zeros(volume.shape, bool)
    mask[19:22, 14:17, 12:14] = True
    made = columns(volume, mask, count=18, scales=(1.0, 2.0))
    np.testing.assert_allclose(made["gradient_1mm"], np.sqrt(9 + 9 + 36), rtol=1e-4)
    np.testing.assert_allclose(made["gradient_2mm"], np.sqrt(9 + 9 + 36), rtol=1e-4)


def test_a_plain_volume_has_neither_texture_nor_edges_and_may_be_flat():
    made = columns(np.full((6, 5, 1), -50, np.int16), np.ones((6, 5, 1), np.uint8), count=30)
    for scale in ("1mm", "3mm", "6mm"):
        np.testing.assert_allclose(made[f"mean_{scale}"], -50)
        assert np.abs(made[f"sd_{scale}"]).max() < 1e-6 and np.abs(made[f"gradient_{scale}"]).max() < 1e-9
    assert made["place_x"].min() == 0 and made["place_x"].max() == 1 and set(made["place_z"]) == {0.0}


def test_the_same_mask_and_seed_give_the_same_places():
    volume, mask = body()
    first, other, again = columns(volume, mask), columns(volume + 20, mask), columns(volume, mask, seed=1)
    for name in first:
        expected = first[name] + 20 if name.startswith("mean") else first[name]
        np.testing.assert_allclose(other[name], expected, atol=1e-3)
    assert (first["place_x"] != again["place_x"]).any()


def test_a_window_clips_the_values_first():
    volume, mask = body()
    clipped = columns(np.clip(volume, 20, 50), mask)
    for name, made in columns(volume, mask, window=(20, 50)).items():
        np.testing.assert_array_equal(made, clipped[name])


def test_contrast_left_in_an_organ_is_seen_without_its_pair():
    rng = np.random.default_rng(5)

    def features(left, seed):
        volume = rng.normal(40, 12, (40, 40, 12))
        volume[10:25, 10:25] += 60 * left
        mask = np.ones(volume.shape, bool)
        return patch_features(volume, mask, (2.5,) * 3, count=300, seed=seed, window=(-150, 250))

    real = features(0, 0)
    none, some, all_ = (
        kernel_distance(standardised(real, real), standardised(features(left, 1), real)) for left in (0, 0.1, 1)
    )
    assert 2 * abs(none) < some < all_


def test_more_places_than_voxels_and_inputs_stay_as_they_were():
    volume, mask = body()
    before = volume.copy()
    assert patch_features(volume, mask, SPACING, count=2 * mask.sum(), seed=0).shape == (2 * mask.sum(), 12)
    np.testing.assert_array_equal(volume, before)


def test_standardised_reference_has_mean_0_and_sd_1():
    rng = np.random.default_rng(0)
    reference, other = rng.normal(50, 20, (500, 3)), rng.normal(60, 20, (400, 3))
    reference[:, 2] = other[:, 2] = 7
    made = standardised(reference, reference)
    np.testing.assert_allclose(made.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(made.std(0), [1, 1, 0])
    assert standardised(other, reference)[:, :2].mean() == pytest.approx(0.5, abs=0.1)


def test_a_whole_scan_takes_less_than_two_seconds_on_one_core():
    volume = np.random.default_rng(0).normal(0, 100, (160, 128, 96)).astype(np.float32)
    start = time.process_time()
    assert patch_features(volume, volume > -200, (2.5,) * 3, count=1000, seed=0).shape == (1000, 12)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "change, code",
    [
        ({"mask": np.ones((3, 3, 3))}, "features-array-shape"),
        ({"volume": np.ones((20, 18))}, "features-array-shape"),
        ({"mask": np.zeros((20, 18, 16))}, "mask-empty"),
        ({"volume": np.full((20, 18, 16), np.nan)}, "volume-not-finite"),
        ({"spacing": (1.0, 0.0, 1.0)}, "volume-spacing-invalid"),
        ({"spacing": (1.0, 1.0)}, "volume-spacing-invalid"),
        ({"count": 0}, "features-count-range"),
        ({"scales": ()}, "features-scales-range"),
        ({"scales": (-1.0,)}, "features-scales-range"),
        ({"window": (250.0, -150.0)}, "features-window-order"),
    ],
)
def test_bad_arguments_are_refused(change, code):
    volume, mask = body()
    arguments = {"volume": volume, "mask": mask, "spacing": SPACING, "count": 5, "seed": 0, **change}
    with refused(code):
        patch_features(arguments.pop("volume"), arguments.pop("mask"), arguments.pop("spacing"), **arguments)


@pytest.mark.parametrize("constant", [0.1, 1 / 3])
def test_a_constant_column_is_left_as_it_is(constant):
    real = np.random.default_rng(0).normal(size=(60, 3))
    real[:, 1] = constant
    other = np.array([[0, constant + 0.1, 0]])
    assert standardised(other, real)[0, 1] == pytest.approx(0.1)

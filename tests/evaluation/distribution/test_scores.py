"""From volumes to numbers: what each number says of itself, saved references, and memory."""

import numpy as np
import pytest
from refusal import refused

from medgen.evaluation.distribution.feature_set import collect, load_features, save_features, volumes_in
from medgen.evaluation.distribution.frechet import frechet_distance
from medgen.evaluation.distribution.kernel import kernel_distance, kid
from medgen.evaluation.distribution.precision_recall import neighbour_scores
from medgen.evaluation.distribution.scores import compare_distributions
from medgen.io.volume import Volume


class Places:
    """Values of random voxels and their neighbours: features without a network."""

    name, weights, preprocessing = "places", "ab" * 32, "none at all"
    standard = standardised = False

    def __call__(self, volume, spacing, *, mask=None):
        at = np.random.default_rng(0).choice(np.flatnonzero(mask), 10)
        return np.stack([np.roll(volume, step).ravel()[at] for step in range(3)], 1).astype(np.float64)


def volumes(count, seed, shift=0.0, spacing=1.0):
    rng = np.random.default_rng(seed)
    affine = np.diag([spacing, spacing, spacing, 1])
    return [Volume(rng.normal(100 + shift, 20, (8, 8, 8)), affine) for _ in range(count)]


def everywhere(data):
    return np.ones(data.shape, bool)


def rows(vols):
    return np.concatenate([Places()(v.data, v.spacing, mask=everywhere(v.data)) for v in vols])


def compare(x, y, extractor=None, **options):
    numbers = compare_distributions(x, y, extractor or Places(), mask_of=everywhere, **options)
    return {number["metric"]: number for number in numbers}


def test_every_score_records_its_settings():
    x, y = volumes(6, 0), volumes(5, 1, shift=10)
    made = compare(iter(x), iter(y))
    assert list(made) == [
        "Fréchet distance (places, weights abababab)",
        "kernel distance (places)",
        "MMD, Gaussian (places)",
        "precision (places)",
        "recall (places)",
        "density (places)",
        "coverage (places)",
    ]
    for number in made.values():
        assert number["extractor"] == "places" and number["weights"] == "ab" * 32 and number["notes"] == []
        assert number["preprocessing"] == "none at all"
        assert (number["reference_rows"], number["prediction_rows"]) == (60, 50)
        assert (number["reference_volumes"], number["prediction_volumes"]) == (6, 5)
    frechet, kernel, mmd = list(made.values())[:3]
    assert frechet["value"] == pytest.approx(frechet_distance(rows(x), rows(y)))
    groups = np.repeat(np.arange(6), 10), np.repeat(np.arange(5), 10)
    assert mmd["value"] == pytest.approx(kernel_distance(rows(x), rows(y), groups=groups))
    assert kernel["value"] == pytest.approx(kid(rows(x), rows(y), groups=groups)[0])
    scores = neighbour_scores(rows(x), rows(y), groups=groups)
    assert [made[f"{name} (places)"]["value"] for name in scores._fields] == list(scores)
    assert kernel["standard_error"] > 0 and frechet["standard_error"] is None


def test_only_the_standard_weights_make_fid():
    class Standard(Places):
        standard = True

        def probabilities(self, rows):
            return np.full((len(rows), 4), 0.25)

    made = compare(volumes(3, 0), volumes(3, 1), Standard())
    assert list(made)[:2] == ["FID", "KID"] and made["Inception Score"]["value"] == pytest.approx(1)
    score = made["Inception Score"]
    assert score["standard_error"] is None and score["deviation"] == pytest.approx(0)  # of splits, not of the draw
    assert not any("FID" in name for name in compare(volumes(3, 0), volumes(3, 1)))


def test_a_standardising_extractor_removes_the_references_scale():
    class Scaled(Places):
        standardised = True

        def __call__(self, *args, **options):
            return super().__call__(*args, **options) * [1, 1e4, 1e-4] + 5

    x, y = volumes(6, 0), volumes(6, 1, shift=10)
    a, b = rows(x), rows(y)
    expected = frechet_distance((a - a.mean(0)) / a.std(0, ddof=1), (b - a.mean(0)) / a.std(0, ddof=1))
    assert next(iter(compare(x, y, Scaled()).values()))["value"] == pytest.approx(expected)


def test_few_rows_and_other_voxel_sizes_are_noted():
    class Wide(Places):
        def __call__(self, volume, spacing, *, mask=None):
            return volume.reshape(8, 64).astype(np.float64)

    made = compare(volumes(2, 0), volumes(2, 1, spacing=2.0), Wide())
    frechet = next(iter(made.values()))
    assert any("16 rows for 64 features" in note for note in frechet["notes"])
    assert all(any("2 × 2 × 2 mm" in note for note in number["notes"]) for number in made.values())


def test_an_unavailable_score_gives_its_reason():
    class One(Places):
        def __call__(self, *args, **options):
            return super().__call__(*args, **options)[:1]

    made = compare(volumes(4, 0), volumes(3, 1), One())
    assert made["density (places)"]["value"] is None and "k 5" in made["density (places)"]["notes"][-1]
    assert made["kernel distance (places)"]["value"] is None
    with refused("features-too-few-rows"):
        compare(volumes(1, 0), volumes(3, 1), One())


def test_stored_rows_are_limited_and_statistics_use_all_rows():
    vols = volumes(12, 0)
    features = collect(iter(vols), Places(), limit=30, mask_of=everywhere)
    assert len(features.rows) == len(features.groups) == 30 and features.statistics.count == 120
    assert len(np.unique(features.groups)) > 6
    np.testing.assert_allclose(features.statistics.mean, rows(vols).mean(0))
    made = compare(features, volumes(4, 1))
    assert "computed from 30 random rows out of 120 of the reference" in made["recall (places)"]["notes"]


def test_a_saved_reference_gives_the_same_numbers(tmp_path):
    x, y = volumes(5, 0), volumes(4, 1, shift=5)
    save_features(collect(x, Places(), mask_of=everywhere), tmp_path / "reference.npz")
    again = load_features(tmp_path / "reference.npz", Places())
    assert compare(again, y) == compare(x, y)


def test_statistics_of_another_extractor_are_refused(tmp_path):
    path = tmp_path / "reference.npz"
    save_features(collect(volumes(3, 0), Places(), mask_of=everywhere), path)
    for key, code in (
        ("name", "features-settings-differ"),
        ("weights", "features-settings-differ"),
        ("preprocessing", "features-preprocessing-differs"),
    ):
        other = Places()
        setattr(other, key, "another")
        with refused("features-settings-differ", names="another"):
            load_features(path, other)
        with refused(code):
            compare(load_features(path, Places()), volumes(3, 1), other)
    path.write_bytes(b"nothing")
    with refused("features-file-unreadable"):
        load_features(path, Places())
    with refused("file-missing"):
        load_features(tmp_path / "absent.npz", Places())


def test_a_volume_that_is_refused_is_named(tmp_path):
    with refused("features-volume-failed", names="volume 1"):
        wrong = [volumes(1, 0)[0], Volume(np.arange(512.0).reshape(8, 8, 8) - 600, np.eye(4))]

        class Odd(Places):
            def __call__(self, volume, spacing, *, mask=None):
                return super().__call__(volume, spacing, mask=mask)[:, : 2 if volume.min() == -600 else 3]

        collect(wrong, Odd(), mask_of=everywhere)
    with refused("features-volume-failed", names="one value"):  # an empty export, which would count as real images
        collect([*volumes(1, 0), Volume(np.full((8, 8, 8), -1000.0), np.eye(4))], Places(), mask_of=everywhere)
    with refused("folder-no-volumes"):
        volumes_in(tmp_path)

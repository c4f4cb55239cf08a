import numpy as np

from medgen.data.fingerprint import describe, distribution_shift_reasons, resembles_target
from medgen.data.intensity import Range

CODE = Range(-1000, 1000)


def scan(seed, tissue=40.0, size=30):
    rng = np.random.default_rng(seed)
    data = np.full((40, 40, 30), -1000, np.float32)
    data[5 : 5 + size, 5 : 5 + size, :] = tissue + rng.normal(0, 20, (size, size, 30)) + rng.normal(0, 3)
    return data


TRAINING = [describe(scan(i), (2.5, 2.5, 2.5), CODE) for i in range(6)]


def test_a_scan_like_the_training_scans_gives_no_shift_reason():
    assert distribution_shift_reasons(describe(scan(100), (2.5, 2.5, 2.5), CODE), TRAINING) == []


def test_different_intensities_body_size_and_voxel_spacing_are_reported():
    words = distribution_shift_reasons(describe(scan(7, tissue=-150), (2.5, 2.5, 2.5), CODE), TRAINING)
    assert len(words) == 1 and "intensities" in words[0]
    words = distribution_shift_reasons(describe(scan(7, size=15), (2.5, 2.5, 2.5), CODE), TRAINING)
    assert any("body size" in w for w in words)
    words = distribution_shift_reasons(describe(scan(7), (2.5, 2.5, 1.0), CODE), TRAINING)
    assert any("voxel spacing" in w for w in words)


def test_one_training_scan_is_enough_to_compare():
    assert distribution_shift_reasons(describe(scan(7), (2.5, 2.5, 2.5), CODE), TRAINING[:1]) == []
    assert distribution_shift_reasons(describe(scan(7, tissue=600), (2.5, 2.5, 2.5), CODE), TRAINING[:1])


def looks(tissue, seeds):
    return [describe(scan(i, tissue=tissue), (2.5, 2.5, 2.5), CODE) for i in seeds]


def test_a_scan_that_resembles_the_target_is_recognised():
    sources, targets = looks(120, range(4)), looks(40, range(10, 14))
    for seed in range(20, 24):
        (taken,), (made,), (strange,) = (looks(tissue, [seed]) for tissue in (120, 40, -600))
        assert resembles_target(made, sources, targets)
        assert not resembles_target(taken, sources, targets)
        assert not resembles_target(strange, sources, targets)  # resembles neither sources nor targets


def test_similar_or_few_sources_and_targets_give_no_target_resemblance():
    (new,) = looks(40, [30])
    assert not resembles_target(new, looks(40, range(4)), looks(40, range(10, 14)))
    assert not resembles_target(new, looks(120, range(2)), looks(40, range(10, 14)))


def test_quantiles_are_numpys():
    data = scan(3)
    body = data > -500
    found = describe(data, (2.5, 2.5, 2.5), CODE, body)["quantiles"]
    np.testing.assert_allclose(found, np.quantile(CODE.encode(data[body]), np.linspace(0.01, 0.99, 25)), atol=1e-4)

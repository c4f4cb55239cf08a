import numpy as np

from medgen.data.codecs import Range
from medgen.data.fingerprint import describe, strangeness

CODE = Range(-1000, 1000)


def scan(seed, tissue=40.0, size=30):
    rng = np.random.default_rng(seed)
    data = np.full((40, 40, 30), -1000, np.float32)
    data[5 : 5 + size, 5 : 5 + size, :] = tissue + rng.normal(0, 20, (size, size, 30)) + rng.normal(0, 3)
    return data


TRAINING = [describe(scan(i), (2.5, 2.5, 2.5), CODE) for i in range(6)]


def test_a_scan_like_the_others_is_not_strange():
    assert strangeness(describe(scan(100), (2.5, 2.5, 2.5), CODE), TRAINING) == []


def test_other_intensities_size_and_voxels_are_named():
    words = strangeness(describe(scan(7, tissue=-150), (2.5, 2.5, 2.5), CODE), TRAINING)
    assert len(words) == 1 and "intensities" in words[0]
    words = strangeness(describe(scan(7, size=15), (2.5, 2.5, 2.5), CODE), TRAINING)
    assert any("size of the body" in w for w in words)
    words = strangeness(describe(scan(7), (2.5, 2.5, 1.0), CODE), TRAINING)
    assert any("voxel size" in w for w in words)


def test_one_training_scan_is_enough_to_compare():
    assert strangeness(describe(scan(7), (2.5, 2.5, 2.5), CODE), TRAINING[:1]) == []
    assert strangeness(describe(scan(7, tissue=600), (2.5, 2.5, 2.5), CODE), TRAINING[:1])

import numpy as np
import pytest
from lesion_cases import KINDS, NAMES, case, library

from medgen.augmentation.lesions.insert import insert_lesion
from medgen.augmentation.lesions.masks import draw_ellipsoid
from medgen.augmentation.lesions.procedural import Procedural

LIBRARY = library()


def inserted(kind, seed, image, label):
    return insert_lesion(
        [image], label, NAMES, library=LIBRARY, kind=kind, host="organ", painter=Procedural(LIBRARY), rng=seed,
        draw_shape=draw_ellipsoid,
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_contrast_stays_in_the_librarys_range(kind):
    known = [lesion.contrast[0] for lesion in LIBRARY.of(kind)]
    image, label = case(9, lesions=False)
    for seed in range(6):
        (contrast,) = inserted(kind, seed, image, label)[2]["contrast"]
        assert min(known) - 5 < contrast < max(known) + 5


def test_the_hosts_own_noise_stays_under_the_lesion():
    image, label = case(9, lesions=False)
    (new,), made, _ = inserted("dark", 0, image, label)
    inside = made.data == NAMES["dark"]
    assert np.corrcoef(image.data[inside], new.data[inside])[0, 1] > 0.5


def test_edges_are_soft():
    """Next to the mask there is part of the contrast; two voxels away there is none."""
    image, label = case(9, lesions=False)
    (new,), made, _ = inserted("dark", 1, image, label)
    change = (new.data - image.data)[made.data != NAMES["dark"]]
    assert -50 < change.min() < -2

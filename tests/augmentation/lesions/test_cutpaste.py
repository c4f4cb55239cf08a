import numpy as np
import pytest
from lesion_cases import KINDS, NAMES, case, library
from scipy import ndimage

from medgen.augmentation.lesions.cutpaste import CutPaste
from medgen.augmentation.lesions.insert import insert_lesion
from medgen.augmentation.lesions.masks import draw_ellipsoid, draw_real

LIBRARY = library()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draw", [draw_real, draw_ellipsoid])
def test_contrast_stays_in_the_librarys_range(kind, draw):
    known = [lesion.contrast[0] for lesion in LIBRARY.of(kind)]
    image, label = case(9, lesions=False)
    for seed in range(4):
        _, _, record = insert_lesion(
            [image], label, NAMES, library=LIBRARY, kind=kind, host="organ", painter=CutPaste(LIBRARY), rng=seed,
            draw_shape=draw,
        )  # fmt: skip
        (contrast,) = record["contrast"]
        assert min(known) - 6 < contrast < max(known) + 6  # an edge of a voxel, and noise of 8 HU


def test_intensity_is_shifted_to_the_new_host():
    """A lesion with a contrast of -60 HU has 100 HU in an organ of 160 HU."""
    image, label = case(9, lesions=False)
    brighter = image.replaced(np.where(label.data == NAMES["organ"], image.data + 60, image.data))
    (new,), made, _ = insert_lesion(
        [brighter], label, NAMES, library=LIBRARY, kind="dark", host="organ", painter=CutPaste(LIBRARY), rng=0
    )
    assert new.data[made.data == NAMES["dark"]].mean() == pytest.approx(160 - 60, abs=12)


def test_images_without_a_unit_get_contrast_in_units_of_the_hosts_spread():
    """The gain of MR differs between scans: here it is three times that of the library."""
    known = library(2, gain=0.1, dtype=np.float32)  # no air below -200: not taken for HU
    assert known.absolute == [False]
    image, label = case(9, lesions=False, dtype=np.float32, gain=0.3)
    _, _, record = insert_lesion(
        [image], label, NAMES, library=known, kind="dark", host="organ", painter=CutPaste(known), rng=0
    )
    assert record["contrast"][0] == pytest.approx(-60 * 0.3, rel=0.35)


def test_the_pasted_lesion_keeps_the_noise_of_a_scan():
    image, label = case(9, lesions=False)
    (new,), made, _ = insert_lesion(
        [image], label, NAMES, library=LIBRARY, kind="dark", host="organ", painter=CutPaste(LIBRARY), rng=3
    )
    core = ndimage.binary_erosion(made.data == NAMES["dark"])
    assert core.sum() > 20 and 4 < new.data[core].std() < 12

"""Similarity of lesions: sign and size of the contrast in every channel, and texture if enough are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.augmentation.lesions.appearance import Appearance, appearance_outliers, contrast_limits


def look(contrast, host_mean=(500.0, 400.0), host_sd=(20.0, 15.0), gain=1.0):
    """Lesions in two channels, dark in one and bright in the other, with the gain of a scanner."""
    flat = [5.0 * gain] * 2
    return Appearance(
        [m * gain for m in host_mean], [s * gain for s in host_sd], [c * gain for c in contrast], flat, flat, [1.0] * 2
    )


def real(count, seed=0, gains=True):
    rng = np.random.default_rng(seed)
    return [
        look((rng.uniform(-60, -30), rng.uniform(40, 80)), gain=rng.uniform(0.3, 3) if gains else 1)
        for _ in range(count)
    ]


@pytest.mark.parametrize("count", [2, 4, 30])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_contrast_of_the_other_sign_is_found_in_each_channel(count, absolute):
    known = real(count, gains=not absolute)
    units = [absolute, absolute]
    assert appearance_outliers(look((-45, 60)), known, units) == []
    assert appearance_outliers(look((45, 60)), known, units) == ["contrast of image 1"]
    assert appearance_outliers(look((-45, -60)), known, units) == ["contrast of image 2"]
    assert appearance_outliers(look((0, 0)), known, units) == ["contrast of image 1", "contrast of image 2"]


def test_a_contrast_half_as_large_is_found():
    """A contrast of 8 where real lesions have 18 to 20, in HU or scanner units, for many lesions or three."""
    for count in (3, 30):
        for absolute in (True, False):
            known = [look((c, 60)) for c in np.linspace(18, 20, count)]
            assert appearance_outliers(look((8, 60)), known, [absolute, absolute]) == ["contrast of image 1"]
            assert appearance_outliers(look((30, 60)), known, [absolute, absolute]) == ["contrast of image 1"]
            assert appearance_outliers(look((17, 60)), known, [absolute, absolute]) == []


def test_a_noisy_host_does_not_make_a_faint_lesion_likely():
    """A contrast of 8 in a quiet host has as many SDs as 19 in a noisy one, but is too small relative to its mean."""
    known = [look((c, 60), host_sd=(s, 15)) for c in (18, 19, 20) for s in (8, 12, 20)]
    assert appearance_outliers(look((8, 60), host_sd=(8, 15)), known, [False, False]) == ["contrast of image 1"]


def test_specks_do_not_determine_the_contrast_of_lesions():
    """MS lesions in T1: most of their volume is dark, but most of the many small ones are next to darker tissue."""
    values, volumes = [-20.0] * 8 + [15.0] * 20, [1.0] * 8 + [0.02] * 20
    low, high = contrast_limits(values, volumes)
    assert low < -20 < high < 0
    known = [look((v, 60)) for v in values]
    assert appearance_outliers(look((10, 60)), known, [True, True], volumes) == ["contrast of image 1"]
    assert appearance_outliers(look((-18, 60)), known, [True, True], volumes) == []


@given(st.lists(st.floats(5, 100), min_size=1, max_size=40), st.sampled_from([-1, 1]))
@settings(max_examples=60, deadline=None)
def test_limits_have_one_sign_and_hold_the_middle(values, sign):
    low, high = contrast_limits([sign * v for v in values])
    assert (low > 0) if sign > 0 else (high < 0)
    assert low <= sign * float(np.median(values)) <= high
    assert high - low < 2 * max(values)


def test_where_real_ones_have_either_sign_both_pass():
    known = [look((c, 60)) for c in (-20, -15, 14, 18)]
    assert all(appearance_outliers(look((c, 60)), known, [True, True]) == [] for c in (-18, 16))
    assert appearance_outliers(look((60, 60)), known, [True, True]) == ["contrast of image 1"]


def test_texture_is_judged_by_ten_and_more_only():
    odd = look((-45, 60))
    odd.sd[0] = 50.0
    assert appearance_outliers(odd, real(9), [False, False]) == []
    assert "sd of image 1" in appearance_outliers(odd, real(12), [False, False])
    assert appearance_outliers(odd, [], [False, False]) == []

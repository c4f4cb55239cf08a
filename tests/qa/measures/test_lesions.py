import numpy as np
import pytest
from scipy import ndimage

from medgen.qa.measures.lesions import lesion_conservation, matched_lesions, sensitivity

MM = (2.5, 2.5, 2.5)
SHAPE = (60, 50, 40)


def ball(centre, radius, spacing=MM, shape=SHAPE):
    grids = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((g - c) * s) ** 2 for g, c, s in zip(grids, centre, spacing, strict=True)) <= radius**2


def noisy(image, seed, sigma=10.0):
    return image + np.random.default_rng(seed).normal(0, sigma, image.shape)


@pytest.fixture
def pair():
    """An organ with two lesions, enhanced and plain: the change differs between organ and surroundings."""
    organ = ball((30, 25, 20), 45)
    one, two = ball((22, 25, 20), 9), ball((38, 25, 20), 9)
    source = np.where(organ, 110.0, 60.0) - 70 * one - 60 * two
    output = np.where(organ, 55.0, 50.0) - 30 * one - 25 * two
    return noisy(source, 1), noisy(output, 2), one | two


def test_contrasts_are_those_drawn(pair):
    source, output, lesions = pair
    found = lesion_conservation(source, output, lesions, MM)
    assert [f.contrast for f in found] == pytest.approx([-70, -60], abs=4)
    assert [f.contrast_output for f in found] == pytest.approx([-30, -25], abs=4)
    assert all(f.visible and f.kept for f in found) and sensitivity(found) == 1
    assert found[0].place == pytest.approx([55, 62.5, 50], abs=1)
    assert found[0].volume_ml == pytest.approx(4 / 3 * np.pi * 0.9**3, rel=0.1)


def test_an_erased_lesion_is_lost_and_inputs_are_untouched(pair):
    source, output, lesions = pair
    erased = np.where(ball((22, 25, 20), 12), noisy(np.full(SHAPE, 55.0), 3), output)
    before = [v.copy() for v in (source, erased, lesions)]
    found = lesion_conservation(source, erased, lesions, MM, uptake=0.4)
    assert [f.lost for f in found] == [True, False] and sensitivity(found) == 0.5
    assert all((a == b).all() for a, b in zip(before, (source, erased, lesions), strict=True))


def test_lesions_of_an_instance_mask_may_touch():
    one, two = ball((24, 25, 20), 9), ball((31, 25, 20), 9)
    two &= ~one
    organ = ball((30, 25, 20), 45)
    source = noisy(np.where(organ, 110.0, 60.0) - 60 * (one | two), 1)
    erased = np.where(two, noisy(np.full(SHAPE, 110.0), 3), source)
    assert len(lesion_conservation(source, erased, one | two, MM)) == 1
    found = lesion_conservation(source, erased, one + 70000 * two, MM)
    assert [f.lost for f in found] == [False, True]


def test_expected_contrast_after_removal(pair):
    source, output, lesions = pair
    first, second = lesion_conservation(source, output, lesions, MM, uptake=0.4)
    assert (first.expected, second.expected) == pytest.approx((-70 + 0.6 * 55, -60 + 0.6 * 55), abs=5)
    assert lesion_conservation(source, output, lesions, MM)[0].expected == first.contrast


def test_a_lesion_as_dark_as_water_has_no_uptake_despite_partial_volume():
    lesion = ball((30, 25, 20), 9)
    share = ndimage.gaussian_filter(lesion.astype(float), 0.5)
    source = noisy(160 - 152 * share, 1)  # a cyst of 8 HU in a kidney
    for host, sure in ((30.0, False), (60.0, True)):  # 22 HU of contrast, diluted, are no more than noise may hide
        output = noisy(host - (host - 8) * share, 2, sigma=30 if not sure else 10)
        (found,) = lesion_conservation(source, output, lesion, MM, uptake=0.4)
        assert found.expected == pytest.approx(found.contrast_output, abs=7) and found.sure is sure and found.kept


@pytest.mark.parametrize(("left", "replaced"), [(-30, False), (-140, True), (45, True)])
def test_a_lesion_whose_hu_no_iodine_explains_was_replaced(left, replaced):
    """A cyst of 6 HU at the border of a kidney, replaced by fat or by tissue of another kidney."""
    lesion = ball((30, 25, 20), 9)
    source, output = noisy(np.where(lesion, 6.0, 160.0), 1), noisy(np.where(lesion, 35.0 + left, 35.0), 2)
    (found,) = lesion_conservation(source, output, lesion, MM, uptake=0.4)
    assert (found.replaced, found.lost) == (replaced, replaced)


def test_what_may_be_isodense_without_contrast_is_not_sure():
    organ = np.full(SHAPE, 110.0)
    lesion = ball((30, 25, 20), 8)
    for hu in (75, 200):  # took up most of what its host did; brighter than its host
        found = lesion_conservation(noisy(np.where(lesion, hu, organ), 1), noisy(organ - 55, 2), lesion, MM, uptake=0.4)
        assert found[0].visible and not found[0].sure and found[0].lost


def test_in_fat_a_bright_lesion_stays_bright():
    lesion = ball((30, 25, 20), 8)
    source = noisy(np.where(lesion, 90.0, -100.0), 1)
    for left, lost in ((20.0, False), (-100.0, True)):
        found = lesion_conservation(source, noisy(np.where(lesion, left, -100.0), 2), lesion, MM, uptake=0.4)
        assert found[0].sure and found[0].lost is lost and found[0].expected == pytest.approx(100, abs=3)


def test_inverted_contrast_counts_as_kept_where_either_sign_is_allowed(pair):
    source, output, lesions = pair
    turned = np.where(lesions, 2 * 55 - output, output)
    assert all(f.lost for f in lesion_conservation(source, turned, lesions, MM))
    assert all(f.kept and not f.sure for f in lesion_conservation(source, turned, lesions, MM, either_sign=True))


def test_host_is_the_commonest_label_of_the_ring():
    labels = np.ones(SHAPE, int)
    labels[32:] = 2
    lesion = ball((27, 25, 20), 8)
    source = np.where(labels == 2, -100.0, 100.0) - 60 * lesion
    found = lesion_conservation(noisy(source, 1), noisy(source, 2), lesion, MM, labels=labels)
    assert found[0].contrast == pytest.approx(-60, abs=4)


def test_matched_lesions_counts():
    source = ball((15, 25, 20), 8) | ball((40, 25, 20), 8)
    output = ball((16, 25, 20), 6) | ball((30, 10, 10), 6) | ball((50, 40, 30), 6)
    assert matched_lesions(source, output) == (1, 1, 2)
    assert matched_lesions(np.zeros(SHAPE), output) == (0, 0, 3)
    assert matched_lesions(source, output, least=100) == (1, 1, 0)

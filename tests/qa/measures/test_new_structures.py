import numpy as np
import pytest
from scipy import ndimage

from medgen.qa.measures.new_structures import BALL, brighter, new_structures, predict_from_other

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


def test_filter_response_to_a_ball():
    """`BALL` is the difference of two chi distributions; the drawn ball agrees within its voxels."""
    from scipy.stats import chi

    assert BALL == pytest.approx(chi.cdf(3**0.5, 3) - chi.cdf(3**0.5 / 1.6, 3), abs=0.01)


@pytest.mark.parametrize(("hu", "radius"), [(30, 8), (-35, 7), (60, 5)])
def test_an_invented_lesion_is_found_where_it_is(pair, hu, radius):
    source, output, _ = pair
    at = (30, 33, 20)
    found = new_structures(output + hu * ball(at, radius), source, np.ones(SHAPE, bool), MM)
    assert len(found) == 1
    assert np.linalg.norm(np.subtract(found[0].place, np.multiply(at, MM))) < 8
    assert np.sign(found[0].contrast) == np.sign(hu) and abs(found[0].contrast) > 0.5 * abs(hu)


def test_a_correct_pair_has_nothing_new(pair):
    source, output, _ = pair
    assert new_structures(output, source, np.ones(SHAPE, bool), MM) == []


def test_other_units_and_inverted_contrast_are_nothing_new(pair):
    source, _, _ = pair
    inverted = noisy(900 - 3 * source, 5, 30)
    assert new_structures(inverted, source, np.ones(SHAPE, bool), MM) == []
    found = new_structures(inverted + 200 * ball((30, 33, 20), 8), source, np.ones(SHAPE, bool), MM)
    assert len(found) == 1


def test_nothing_in_an_empty_mask(pair):
    assert new_structures(pair[1], pair[0], np.zeros(SHAPE, bool), MM) == []


def test_explained_follows_each_tissues_change():
    """The mean over similar voxels is exact where each value of the other image has one change."""
    other = np.where(np.arange(40)[:, None, None] < 20, 10.0, 50.0) * np.ones((40, 40, 40))
    image = np.where(other < 30, -5.0, 80.0)
    mean, scatter = predict_from_other(image, other, np.ones(other.shape, bool), (2.0, 2.0, 2.0))
    inner = np.abs(np.arange(40) - 19.5) > 4  # beyond the blur of the boundary
    assert np.abs(mean - image)[inner].max() < 0.5 and scatter[inner].max() < 5
    edge = ndimage.gaussian_filter(other, 1)  # between the two values lies what their mixtures change
    assert ((mean >= -5.5) & (mean <= 80.5)).all() and edge.shape == mean.shape


def vessels(seed, shape=SHAPE):
    """Lung with vessels: edges everywhere."""
    rng = np.random.default_rng(seed)
    drawn = [ball(rng.uniform(0, shape), 4) for _ in range(60)]
    return ndimage.gaussian_filter(np.where(np.any(drawn, 0), 100.0, -850.0), 0.5)


def test_a_nodule_among_vessels_is_found_where_it_is_whatever_they_lose():
    source = vessels(1)
    output = source - 100 * (source > -400)
    at = (30, 33, 20)
    found = brighter(noisy(output + 200 * ball(at, 5.5), 2), noisy(source, 1), np.ones(SHAPE, bool), MM, 8, 75)
    assert len(found) == 1 and 75 < found[0].contrast < 200 and 6 < found[0].diameter < 16
    assert np.linalg.norm(np.subtract(found[0].place, np.multiply(at, MM))) < 6
    assert brighter(noisy(output, 2), noisy(source, 1), np.ones(SHAPE, bool), MM, 8, 75) == []
    assert brighter(output, source, np.zeros(SHAPE, bool), MM, 8, 75) == []

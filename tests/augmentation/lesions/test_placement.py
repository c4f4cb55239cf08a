import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from lesion_cases import ball
from refusal import refused
from scipy import ndimage

from medgen.augmentation.lesions.placement import NoRoom, choose_site, free_sites

SHAPE = (20, 22, 18)


def scene(seed):
    rng = np.random.default_rng(seed)
    host = ndimage.gaussian_filter(rng.normal(size=SHAPE), 3) > -0.02
    others = ball(SHAPE, rng.uniform(4, 14, 3), 2)
    mask = np.pad(ball((5, 5, 5), (2, 2, 2), rng.uniform(0.5, 2)), 2)
    return host, others, mask


def full(mask, site):
    placed = np.zeros(SHAPE, bool)
    at = np.argwhere(mask) + site
    placed[tuple(at.T)] = True
    return placed


def brute_force(host, others, mask, spacing, margin, gap):
    near = ndimage.distance_transform_edt(np.pad(host & ~others, 1), spacing)[1:-1, 1:-1, 1:-1] <= margin
    near |= ndimage.distance_transform_edt(~others, spacing) <= gap
    voxels = np.argwhere(mask)
    found = []
    for site in np.ndindex(*SHAPE):
        at = voxels + np.array(site) - voxels.min(0)
        if (at < SHAPE).all() and not near[tuple(at.T)].any():
            found.append(np.array(site) - voxels.min(0))
    return np.array(found).reshape(-1, 3)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), margin=st.floats(0, 4), gap=st.floats(0, 6))
def test_free_sites_are_all_that_a_search_finds(seed, margin, gap):
    host, others, mask = scene(seed)
    spacing = (2.0, 1.5, 2.5)
    sites = free_sites(mask, host, others, spacing, margin_mm=margin, gap_mm=gap)
    assert {tuple(s) for s in sites} == {tuple(s) for s in brute_force(host, others, mask, spacing, margin, gap)}


def test_a_scan_of_one_slice_does_not_end_along_its_axis():
    host = np.ones((12, 12, 1), bool)
    mask = np.zeros((3, 3, 1), bool)
    mask[1, 1] = True
    sites = free_sites(mask, host, np.zeros_like(host), (2, 2, 2), margin_mm=4)
    assert {tuple(s + [1, 1, 0]) for s in sites} == {(x, y, 0) for x in range(2, 10) for y in range(2, 10)}


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_never_beyond_the_hosts_border_or_near_other_lesions(seed):
    host, others, mask = scene(seed)
    try:
        site = choose_site(mask, host, others, (1, 1, 1), np.random.default_rng(seed), margin_mm=1.5, gap_mm=3)
    except NoRoom:
        assert not len(free_sites(mask, host, others, (1, 1, 1), margin_mm=1.5, gap_mm=3))
        return
    placed = full(mask, site)
    assert placed.sum() == mask.sum()
    away = ndimage.distance_transform_edt(~placed)
    assert (away[~host] > 1.5).all() and (away[others] > 3).all()


def test_no_room_names_size_and_host():
    host = ball(SHAPE, (10, 10, 9), 3)
    with refused("lesions-no-room", names=("liver", "case7")):
        choose_site(
            ball((11, 11, 11), (5, 5, 5), 5), host, host & False, (1, 1, 1), np.random.default_rng(0),
            what="liver of case7",
        )  # fmt: skip


def test_sites_follow_the_known_positions():
    host = np.ones((40, 20, 20), bool)
    mask, rng = ball((3, 3, 3), (1, 1, 1), 1), np.random.default_rng(0)
    options = {"positions": [(0.2, 0.5, 0.5)], "margin_mm": 0}
    sites = [choose_site(mask, host, host & False, (1, 1, 1), rng, **options)[0] + 1 for _ in range(200)]
    alike = [choose_site(mask, host, host & False, (1, 1, 1), rng, margin_mm=0)[0] + 1 for _ in range(200)]
    assert abs(np.median(sites) / 39 - 0.2) < 0.08 < abs(np.median(alike) / 39 - 0.2)
    assert max(sites) > 25  # anywhere now and then

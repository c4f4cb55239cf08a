"""Radiomics of patches: plain statistics, a co-occurrence counted by hand, places, quiet and processes."""

import logging

import numpy as np
import pytest
from refusal import refused

pytest.importorskip("mirp", reason="mirp is absent: pip install 'medgen[radiomics]'")

from medgen.evaluation.features import radiomics
from medgen.evaluation.features.radiomics import Radiomics, patch_boxes, patch_radiomics

PATCH = np.random.default_rng(0).uniform(0, 8, (6, 6, 6))


def uncompressed(values):
    return np.sign(values) * np.expm1(np.abs(values))


def test_first_order_features_are_plain_statistics():
    made = uncompressed(patch_radiomics(PATCH, bins=8, families=["statistics"]))
    for value in (PATCH.mean(), PATCH.var(), np.median(PATCH), PATCH.min(), PATCH.max(), np.sqrt((PATCH**2).mean())):
        assert np.isclose(made, value, rtol=1e-5).any()
    assert made.shape == (18,)


def test_co_occurrences_are_those_of_grey_levels_one_unit_wide():
    # contrast = mean (i - j)² over the 13 directions' neighbours, counted here voxel by voxel
    levels = np.floor(PATCH)
    total = count = 0
    for step in [(a, b, c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1) if (a, b, c) > (0, 0, 0)]:
        here = tuple(slice(max(0, -s), 6 - max(0, s)) for s in step)
        there = tuple(slice(max(0, s), 6 - max(0, -s)) for s in step)
        total += ((levels[here] - levels[there]) ** 2).sum()
        count += levels[here].size
    made = uncompressed(patch_radiomics(PATCH, bins=8, families=["cm"]))
    assert np.isclose(made, total / count, rtol=1e-5).any()


def test_a_flat_patch_has_finite_features():
    for value in (0.0, 3.3, 8.0):
        made = patch_radiomics(np.full((6, 6, 6), value), bins=8)
        assert np.isfinite(made).all() and np.abs(made).max() < 25


def test_boxes_lie_in_the_volume_about_voxels_of_the_mask():
    mask = np.zeros((20, 30, 5), bool)
    mask[0, 29, 4] = mask[10, 15, 2] = True
    boxes = patch_boxes(mask, count=50, side=8, seed=0)
    assert {mask[box].shape for box in boxes} == {(8, 8, 5)} and all(mask[box].any() for box in boxes)
    assert boxes == patch_boxes(mask, count=50, side=8, seed=0) != patch_boxes(mask, count=50, side=8, seed=1)


def test_rows_are_the_same_from_any_number_of_processes_and_nothing_is_logged(capfd):
    volume = np.random.default_rng(0).normal(size=(12, 12, 12))
    kept = logging.getLogger().handlers[:]
    options = {"patches": 3, "patch": 6, "families": ["statistics"]}
    alone, shared = (Radiomics(**options, workers=n)(volume, (1, 1, 1)) for n in (1, 2))
    np.testing.assert_array_equal(alone, shared)
    assert alone.shape == (3, 18)
    assert logging.getLogger().handlers == kept and capfd.readouterr() == ("", "")


def test_a_window_keeps_hu_and_percentiles_do_not():
    volume = np.random.default_rng(0).normal(40, 20, (8, 8, 8))
    options = {"patches": 1, "patch": 8, "families": ["statistics"], "workers": 1}
    fixed, free = Radiomics(window=(-200, 300), **options), Radiomics(**options)
    shift = [np.abs(e(volume + 15, (1, 1, 1)) - e(volume, (1, 1, 1))).max() for e in (fixed, free)]
    assert shift[0] > 0.05 and shift[1] < 1e-4


def test_absent_mirp_and_bad_settings_are_refused(monkeypatch):
    with refused("radiomics-settings-range"):
        Radiomics(patches=0)
    monkeypatch.setitem(__import__("sys").modules, "mirp", None)
    with refused("dependency-missing", names="medgen[radiomics]"):
        Radiomics()


def test_the_version_is_in_the_preprocessing():
    assert f"mirp {radiomics._mirp_version()}" in Radiomics().preprocessing

import numpy as np
import pytest

from medgen.qa.measures.hounsfield import scale_drift, unenhancing_change

MM = (2.0, 2.0, 2.0)


@pytest.fixture
def scan():
    """Noisy slabs of lung, fat, soft tissue and dense bone, with the mask of each."""
    hu = np.full((40, 24, 24), 50.0)
    hu[:10], hu[10:20], hu[34:] = -800, -100, 900
    return hu + np.random.default_rng(0).normal(0, 10, hu.shape)


def test_an_offset_shows_in_every_tissue(scan):
    change = unenhancing_change(scan, scan + 15, np.ones(scan.shape, bool), MM)
    assert set(change) == {"fat", "lung", "dense bone"}
    assert [moved for _, moved in change.values()] == pytest.approx([15, 15, 15], abs=1e-3)
    assert change["fat"][0] == pytest.approx(-100, abs=2) and change["lung"][0] == pytest.approx(-800, abs=2)


def test_soft_tissue_stands_in_for_fat_that_is_not_there(scan):
    lean = np.where((scan < 0) & (scan > -400), 50.0, scan)
    change = unenhancing_change(lean, lean + 15, np.ones(scan.shape, bool), MM)
    assert set(change) == {"soft tissue", "lung", "dense bone"}
    assert change["soft tissue"][1] == pytest.approx(15, abs=1e-3)


def test_iodine_in_soft_tissue_moves_nothing(scan):
    removed = np.where((scan > 0) & (scan < 200), scan - 80, scan)
    change = unenhancing_change(scan, removed, np.ones(scan.shape, bool), MM)
    assert abs(change["fat"][1]) < 0.5 and abs(change["lung"][1]) < 0.5


def test_drift_is_the_slope(scan):
    change = unenhancing_change(scan, 1.06 * scan + 3, np.ones(scan.shape, bool), MM)
    assert scale_drift(change) == pytest.approx(0.06, abs=0.002)
    assert np.isnan(scale_drift({"fat": (-100.0, 1.0)}))


def test_muscle_needs_labels_and_small_tissues_are_left_out(scan):
    labels = np.zeros(scan.shape, np.uint8)
    labels[22:32] = 7
    change = unenhancing_change(scan, scan - 9, np.ones(scan.shape, bool), MM, labels=labels, names={7: "muscle"})
    assert change["muscle"][1] == pytest.approx(-9, abs=1e-3)
    nothing = np.zeros(scan.shape, bool)
    assert unenhancing_change(scan, scan, nothing, MM) == {}


def test_every_label_of_a_skeletal_muscle_counts(scan):
    labels = np.zeros(scan.shape, int)
    labels[4:14, 4:14, 4:14], labels[20:30, 4:14, 4:14], labels[4:14, 20:30, 4:14] = 1, 2, 3
    output = scan - 9.0 * (labels < 3) - 50.0 * (labels == 3)
    names = {1: "Autochthon_left", 2: "gluteus_maximus_right", 3: "heart_muscle"}
    change = unenhancing_change(scan, output, np.ones(scan.shape, bool), MM, labels=labels, names=names)
    assert change["muscle"][1] == pytest.approx(-9, abs=1e-3)
    del names[1], names[2]
    assert "muscle" not in unenhancing_change(scan, output, np.ones(scan.shape, bool), MM, labels=labels, names=names)

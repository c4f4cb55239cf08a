"""Means over cases: what is infinite, what is missing, and the way from source to truth."""

import numpy as np
import pytest

from medgen.evaluation.summary import _region_row, describe


def test_missed_organs_are_counted_and_move_the_median():
    names = [str(i) for i in range(20)]
    half = describe([np.inf] * 11 + [3.0] * 9, names)
    assert (half["mean"], half["n"], half["missed"], half["median"]) == (3.0, 9, 11, np.inf)
    few = describe([np.inf] * 3 + list(range(17)), names)
    assert (few["mean"], few["missed"], few["median"]) == (8.0, 3, np.median([*range(17), *[np.inf] * 3]))
    assert few["median_interval"][0] < few["median"] < few["median_interval"][1]
    assert describe([np.nan, 1.0], ["a", "b"])["missed"] == 0 and describe([np.nan], ["a"])["median"] is None


def test_the_way_is_of_cases_with_source_truth_and_prediction():
    rows = [
        {"mean_prediction": 50.0, "mean_reference": 40.0, "mean_source": 140.0},
        {"mean_prediction": 210.0, "mean_reference": 200.0},
    ]
    row = _region_row("liver", rows)
    assert row["fraction"] == pytest.approx(0.9) and row["mean_prediction"] == 130 and row["cases"] == 2
    assert _region_row("liver", rows[1:])["fraction"] is None

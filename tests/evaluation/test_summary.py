"""Means over cases: what is infinite and what is missing."""

import numpy as np
import pytest

from medgen.evaluation.summary import describe, infinite_ones


def test_infinite_values_are_counted_and_move_the_median():
    names = [str(i) for i in range(20)]
    half = describe([np.inf] * 11 + [3.0] * 9, names)
    assert (half["mean"], half["n"], half["infinite"], half["median"]) == (3.0, 9, 11, np.inf)
    few = describe([np.inf] * 3 + list(range(17)), names)
    assert (few["mean"], few["infinite"], few["median"]) == (8.0, 3, np.median([*range(17), *[np.inf] * 3]))
    assert few["median_interval"][0] < few["median"] < few["median_interval"][1]
    assert describe([np.nan, 1.0], ["a", "b"])["infinite"] == 0 and describe([np.nan], ["a"])["median"] is None


@pytest.mark.parametrize(
    ("values", "words"), [([1.0, np.inf, np.nan], "1 of 2 infinite"), ([np.inf], "1 of 1 infinite"), ([1.0], "")]
)
def test_what_a_mean_leaves_out_is_said(values, words):
    assert infinite_ones(describe(values, [str(i) for i in range(len(values))])) == words

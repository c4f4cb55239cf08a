"""Means over cases with infinite and missing values."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen.evaluation.summary import CaseResult, Evaluation, describe, excluded_values_text, summary


def test_infinite_values_are_counted_and_move_the_median():
    names = [str(i) for i in range(20)]
    half = describe([np.inf] * 11 + [3.0] * 9, names)
    assert (half.mean, half.n, half.infinite, half.median) == (3.0, 9, 11, np.inf)
    few = describe([np.inf] * 3 + list(range(17)), names)
    assert (few.mean, few.infinite, few.median) == (8.0, 3, np.median([*range(17), *[np.inf] * 3]))
    assert few.median_interval[0] < few.median < few.median_interval[1]
    assert describe([np.nan, 1.0], ["a", "b"]).infinite == 0 and describe([np.nan], ["a"]).median is None


@pytest.mark.parametrize(
    ("values", "words"), [([1.0, np.inf, np.nan], "1 of 2 infinite"), ([np.inf], "1 of 1 infinite"), ([1.0], "")]
)
def test_a_mean_reports_its_excluded_values(values, words):
    assert excluded_values_text(describe(values, [str(i) for i in range(len(values))])) == words


MEANS = ("mean_reference", "mean_prediction", "error", "rmse")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(max_examples=30)
@given(st.lists(st.floats(-1e80, 1e80) | st.sampled_from([np.inf, -np.inf, np.nan]), max_size=5))
def test_extreme_values_of_a_case_do_not_stop_the_summary(values):
    """Infinite, missing and huge values of cases give numbers or None, not an error at the end of a run."""
    cases = [
        CaseResult(str(n), {}, {"mae": value}, [{"region": "r", **dict.fromkeys(MEANS, value), "mean_source": -value}])
        for n, value in enumerate(values)
    ]
    found = summary(Evaluation(cases, [], [], 1.0, "", {}, 0.0, Path()))
    assert set(found.metrics) <= {"mae"} and set(found.agreement) == ({"r"} if values else set())

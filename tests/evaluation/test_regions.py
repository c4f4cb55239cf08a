"""Means by region, and when the correction from source to truth is defined."""

import pytest

from medgen.evaluation.regions import correction_fraction, least_change, mean_regions


def way(*means):
    return [{"mean_source": s, "mean_reference": t, "mean_prediction": p} for s, t, p in means]


def test_the_correction_uses_cases_with_source_truth_and_prediction():
    rows = [
        {"region": "liver", "mean_prediction": 50.0, "mean_reference": 40.0, "mean_source": 140.0, "error": 10.0},
        {"region": "liver", "mean_prediction": 210.0, "mean_reference": 230.0, "error": -20.0},
        {"region": "fat", "mean_prediction": 210.0, "mean_reference": 200.0},
    ]
    liver, fat = mean_regions(rows, 15)
    assert liver["fraction"] == pytest.approx(0.9) and liver["mean_prediction"] == 130 and liver["cases"] == 2
    assert liver["error"] == -5 and liver["abs_error"] == 15 and liver["mae"] is None
    assert (fat["region"], fat["cases"], fat["fraction"]) == ("fat", 1, None)


@pytest.mark.parametrize(
    ("means", "fraction"),
    [
        ([(18.6, 10.5, -124.8)], None),  # a gallbladder has no uptake: 1766 % of 8 HU
        ([(55.0, 40.0, 47.0)], None),
        ([(56.0, 40.0, 48.0)], 0.5),
        ([(40.0, 140.0, 190.0)], 1.5),  # contrast added, and too much
        ([(100.0, 40.0, 160.0)], -1.0),
        # A mean change of 20 HU, with a standard error of 160, and of 5
        ([(200.0, 20.0, 100.0), (20.0, 160.0, 100.0)], None),
        ([(65.0, 40.0, 40.0), (55.0, 40.0, 40.0)], 1.0),
    ],
)
def test_the_correction_is_defined_only_where_source_and_truth_clearly_differ(means, fraction):
    assert correction_fraction(way(*means), 15.0) == (None if fraction is None else pytest.approx(fraction))


def test_the_minimum_change_follows_the_data_range_of_images_without_units():
    assert least_change(True, 2000) == 15 and least_change(False, 4095) == pytest.approx(15, rel=0.1)

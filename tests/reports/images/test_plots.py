from pathlib import Path

import pytest

from medgen.evaluation.summary_file import Summary
from medgen.reports.images.plots import BOTTOM, LEFT, RIGHT, TOP, bland_altman, main_regions
from medgen.reports.results import System

ENHANCING = ["liver", "kidney_left", "aorta"]


def _system(name="a", **agreement):
    summary = {"unit": "HU", "agreement": agreement, "settings": {"structures_that_take_up_contrast": ENHANCING}}
    return System(name, Path("."), Summary(cases=[], **summary), [])


def _region(*points, **more):
    listed = [{"case": f"c{i}", "mean": x, "difference": y} for i, (x, y) in enumerate(points)]
    return {"points": listed, "bias": 5.0, "lower": -10.0, "upper": 20.0, **more}


def test_points_and_lines_lie_where_the_axes_say():
    system = _system(liver=_region((30, 0), (70, 10)))
    (plot,) = bland_altman([system])

    def value(pixel, ticks):
        (p0, t0), (p1, t1) = ticks[0], ticks[-1]
        low, high = (float(text.replace("−", "-")) for text in (t0, t1))
        return low + (pixel - p0) / (p1 - p0) * (high - low)

    assert [value(x, plot.x_ticks) for x, _, _ in plot.points] == pytest.approx([30, 70], abs=0.2)
    assert [value(y, plot.y_ticks) for _, y, _ in plot.points] == pytest.approx([0, 10], abs=0.2)
    assert [value(line.y, plot.y_ticks) for line in plot.lines] == pytest.approx([20, 5, -10], abs=0.2)
    assert [line.label for line in plot.lines] == ["limit +20.0", "bias +5.0", "limit −10.0"]
    assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y, _ in plot.points)
    assert plot.points[0][2] == "c0: mean 30.0, difference 0.0 HU"


def test_labels_of_close_lines_do_not_cover_each_other():
    close = _region((30, 0), (40, 300), bias=1.0, lower=0.9, upper=1.1)
    (plot,) = bland_altman([_system(liver=close)])
    first, second, third = (line.label_y for line in plot.lines)
    assert second - first >= 10 and third - second >= 10 and plot.lines[2].y - plot.lines[0].y < 1


def test_systems_of_one_region_have_the_same_axes():
    plots = bland_altman([_system("a", liver=_region((30, 1), (31, 2))), _system("b", liver=_region((80, 90)))])
    assert [plot.title for plot in plots] == ["liver: a", "liver: b"]
    assert plots[0].x_ticks == plots[1].x_ticks and plots[0].y_ticks == plots[1].y_ticks


def test_one_case_without_limits_still_makes_a_plot():
    alone = {
        "points": [{"case": "c", "mean": 40.0, "difference": None}, {"case": "d", "mean": 41.0, "difference": 2.0}]
    }
    (plot,) = bland_altman([_system(liver=alone | {"bias": 2.0, "lower": None, "upper": None})])
    assert len(plot.points) == 1 and len(plot.lines) == 1
    assert bland_altman([_system(liver={"bias": 1.0, "points": []})]) == []


def test_structures_that_enhance_come_first():
    names = ["body", "fat", "liver", "lung", "kidney_left", "aorta", "bone"]
    system = _system(**{name: _region((1, 1)) for name in names})
    assert main_regions([system]) == ["aorta", "kidney_left", "liver", "body", "fat", "lung"]

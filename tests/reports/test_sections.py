"""Tables of errors: how infinite values count, and the text for the correction achieved."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.evaluation.summary import describe
from medgen.evaluation.summary_file import Summary
from medgen.reports.comparisons import compare
from medgen.reports.overview import differences
from medgen.reports.results import CaseNumbers, System
from medgen.reports.sections import _correction_cell, all_measures, main_numbers, ranked_cases, regions


def test_unequal_cases_of_two_systems_are_stated():
    def of(name, truth, cases=2):
        row = {"cases": cases, "mean_reference": truth, "mean_prediction": 1.0, "error": 0.0, "mae": 1.0}
        return System(name, Path(), Summary(unit="HU", regions={"liver": row}, metrics={}, cases=[]), [])

    assert "different cases" not in regions([of("a", 50.0), of("b", 50.0)]).note
    assert "different cases or truths" in regions([of("a", 50.0), of("b", 60.0)]).note
    assert "different cases" in regions([of("a", 50.0), of("b", 50.0, cases=1)]).note


def system(name="a", converted=(), source=(), measure="psnr"):
    """Return a system with one value per case of the metric, for converted and source images."""
    columns = {key: values for key, values in ((measure, converted), (f"source_{measure}", source)) if values}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    cases = [CaseNumbers(str(i), row, {}) for i, row in enumerate(rows)]
    metrics = {key: describe(values, [str(i) for i in range(len(values))]) for key, values in columns.items()}
    metrics |= {"source_mae": describe([1.0], ["0"])} if source else {}
    return System(name, Path(), Summary(unit="HU", metrics=metrics, cases=[]), cases)


@pytest.mark.parametrize(
    ("measure", "converted", "source", "text", "tone", "improved"),
    [
        ("psnr", [40.0, 41.0], [30.0, 31.0], "+10.00", "good", "2 of 2"),
        ("psnr", [math.inf, 41.0], [30.0, 31.0], "+10.00", "good", "2 of 2"),
        ("psnr", [math.inf, math.inf], [30.0, math.inf], "+∞", "good", "1 of 2"),
        ("psnr", [math.inf, 21.0], [30.0, 31.0], "−10.00", "", "1 of 2"),  # neither better nor worse
        ("psnr", [40.0, 21.0], [math.inf, 31.0], "−10.00", "bad", "0 of 2"),
        ("hd95", [math.inf, 4.0], [9.0, 3.0], "+1.0", "bad", "0 of 2"),
        ("hd95", [math.inf, 4.0], [9.0, 9.0], "−5.0", "", "1 of 2"),
        ("psnr", [math.nan, 41.0], [30.0, 31.0], "+10.00", "good", "1 of 1"),
    ],
)
def test_an_infinite_value_is_the_best_or_the_worst(monkeypatch, measure, converted, source, text, tone, improved):
    monkeypatch.setattr("medgen.reports.sections.headline", lambda: (measure,))
    row = main_numbers([system("a", converted, source, measure)]).rows[0]
    assert (row[4].text, row[4].tone, row[5].text) == (text, tone, improved)


@pytest.mark.parametrize(
    ("measure", "ours", "theirs", "strong"),
    [
        ("psnr", [40.0, 41.0], [30.0, 31.0], "a"),
        ("psnr", [math.inf, 30.0], [40.0, 41.0], "a"),
        ("psnr", [math.inf, 30.0], [math.inf, 31.0], "b"),
        ("psnr", [math.inf, math.inf], [math.inf, 99.0], "a"),
        ("psnr", [math.inf, math.inf], [math.inf, math.inf], "ab"),
        ("hd95", [math.inf, 1.0], [9.0, 9.0], "b"),
    ],
)
def test_the_best_mean_is_that_of_all_values(monkeypatch, measure, ours, theirs, strong):
    monkeypatch.setattr("medgen.reports.sections.headline", lambda: (measure,))
    row = main_numbers([system("a", ours, measure=measure), system("b", theirs, measure=measure)]).rows[0]
    assert "".join(name for name, cell in zip("ab", row[-2:], strict=True) if cell.tone == "strong") == strong


def test_means_of_other_cases_are_not_called_the_best(monkeypatch):
    monkeypatch.setattr("medgen.reports.sections.headline", lambda: ("psnr",))
    table = main_numbers([system("a", [30.0, math.nan], measure="psnr"), system("b", [31.0, 25.0], measure="psnr")])
    assert not any(cell.tone == "strong" for cell in table.rows[0])
    assert "where all systems have the same cases" in table.note


def test_cases_count_also_where_they_are_infinite():
    found = all_measures([system("a", [math.inf, 40.0, 42.0], measure="mask_psnr")])
    _, mean, spread, median, cases = [cell.text for cell in found.rows[0]]
    assert mean.endswith(", 1 of 3 infinite") and median.endswith("∞]") and (spread, cases) == ("1.41", "3")
    assert found.note.startswith("Infinite: images identical to the truth")


@pytest.mark.parametrize(
    ("fraction", "text"),
    [
        (0.72, "72\u00a0%"),
        (1.9, "190\u00a0%"),
        (17.66, "overshot"),
        (-9.2, "wrong direction"),
        (None, "–"),
        (-0.5, "−50\u00a0%"),
    ],
)
def test_extreme_corrections_are_shown_as_words(fraction, text):
    assert (_correction_cell(fraction).text, _correction_cell(fraction).value) == (text, fraction)


@pytest.mark.parametrize(("summary", "least"), [({"unit": "HU"}, "15 HU"), ({"data_range": 2.0}, "0.008")])
def test_the_minimum_change_is_stated_in_the_unit_of_the_images(summary, least):
    row = {"cases": 1, "mean_source": 1.0, "mean_reference": 0.0, "mean_prediction": 0.5, "fraction": 0.5}
    table = regions(
        [System("a", Path(), Summary(regions={"liver": row}, metrics={"mae": {}}, cases=[], **summary), [])]
    )
    assert f"differ by no more than {least} or two standard errors" in table.note


@pytest.mark.parametrize(
    ("converted", "source", "tone"),
    [
        ([1.003, 1.0025, 1.0025, 1.0037], [1.0009, 1.0042, 1.0018, 1.0009], ""),  # as smooth as the scans, shown as 0
        ([1.03, 1.05], [1.06, 1.00], ""),  # scans differ by more from each other
        ([1.2, 1.3], [1.01, 1.02], "bad"),
        ([1.2], [1.0], "bad"),
        ([1.02, 1.01], [1.2, 1.21], "good"),
    ],
)
def test_a_slice_jump_within_the_noise_of_the_scans_has_no_colour(converted, source, tone):
    assert main_numbers([system("a", converted, source, "slice_jump")]).rows[0][4].tone == tone


def test_a_change_that_is_shown_as_zero_has_no_colour(monkeypatch):
    monkeypatch.setattr("medgen.reports.sections.headline", lambda: ("mae",))
    cell = main_numbers([system("a", [10.01], [10.0], "mae")]).rows[0][4]
    assert (cell.text, cell.tone) == ("0.0", "")


@given(
    st.lists(st.tuples(st.sampled_from(["fail", "review", "pass", None]), st.floats(0, 100)), min_size=1, max_size=9)
)
def test_cases_are_ranked_by_verdict_then_by_error(found):
    rows = [{"case": str(n), "status": status} for n, (status, _) in enumerate(found) if status]
    cases = [CaseNumbers(str(n), {"mae": error}, {}) for n, (_, error) in enumerate(found)]
    ranked = ranked_cases([System("a", Path(), Summary(structure={"cases": rows}, cases=[]), cases)])
    order = {"fail": 0, "review": 1, None: 1, "pass": 2} if rows else {None: 0}
    keys = [(order[found[int(n)][0]], -found[int(n)][1]) for n in ranked]
    assert keys == sorted(keys) and len(keys) == len(found)


@pytest.mark.parametrize(("span", "tested"), [(1.0, {"mae", "psnr"}), (2.0, {"mae"})])
def test_values_that_depend_on_the_data_range_are_compared_in_one_range_only(span, tested):
    def of(name, add, span):
        cases = [CaseNumbers(str(n), {"mae": n + add, "psnr": 40 - n - add}, {}) for n in range(6)]
        return System(
            name,
            Path(),
            Summary(unit="HU", data_range=span, metrics={}, cases=[{"case": str(n)} for n in range(6)]),
            cases,
        )

    assert {row["metric"] for row in compare([of("a", 0, 1.0), of("b", 0.5, span)])} == tested


HASHES = {"reference": "r", "source": "s", "labels": "l", "prediction": "p"}
SETTINGS = {"reference": "truth", "prediction": "out/a", "tolerance_mm": 1, "thresholds": {"offset": 2.0}}


def of(name, *, hashes=HASHES, patient="p", settings=SETTINGS):
    cases = [{"case": f"{n}", "hashes": hashes, "patient": patient} for n in range(6)]
    found = [CaseNumbers(f"{n}", {"mae": float(n + (name != "a"))}, {}) for n in range(6)]
    return System(name, Path(), Summary(unit="HU", settings=settings, cases=cases), found)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"hashes": HASHES | {"prediction": "other"}, "settings": SETTINGS | {"prediction": "out/b"}}, None),
        ({"settings": SETTINGS | {"reference": "copy"}}, None),
        ({"hashes": HASHES | {"reference": "other"}}, "The truth of 6 cases, such as 0, is another file"),
        ({"hashes": HASHES | {"source": "other"}}, "The unconverted source of 6 cases"),
        ({"hashes": HASHES | {"labels": "other"}}, "The label map of 6 cases"),
        ({"hashes": {}, "settings": SETTINGS | {"reference": "copy"}}, "truth of the systems is in different folders"),
        ({"settings": SETTINGS | {"tolerance_mm": 4}}, "a different tolerance mm (a 1, b 4)"),
        ({"settings": SETTINGS | {"thresholds": {"offset": 9.0}}}, "a different thresholds offset (a 2.0, b 9.0)"),
        ({"settings": SETTINGS | {"mask": "m"}}, "mask of the systems is in different folders (m, none)"),
        ({"settings": SETTINGS | {"segmenter": "x"}}, "a different segmenter (a none, b x)"),
        ({"patient": "q"}, "different patients for 6 cases, such as 0"),
    ],
)
def test_what_makes_systems_incomparable_is_told(changed, said):
    found = differences([of("a"), of("b", **changed)])
    assert len(found) == (said is not None) and (said is None or said in found[0])


def test_patients_of_the_tests_do_not_depend_on_the_order_of_the_systems():
    def named(name, patients):
        cases = [{"case": f"{n}", "patient": patient} for n, patient in enumerate(patients)]
        found = [CaseNumbers(f"{n}", {"mae": n + (name == "a") * (1 + n % 2)}, {}) for n in range(8)]
        return System(name, Path(), Summary(unit="HU", cases=cases), found)

    one, other = named("a", "00112233"), named("b", "01234567")
    (forth,), (back,) = compare([one, other]), compare([other, one])
    assert forth["p"] == back["p"] and forth["mean_difference"] == -back["mean_difference"]
    assert (
        forth["p"] == compare([one, named("b", "00112233")])[0]["p"] > compare([named("a", "01234567"), other])[0]["p"]
    )


def test_a_case_without_a_verdict_ranks_before_those_that_pass():
    cases = [CaseNumbers(n, {"mae": v}, {}) for n, v in (("a", 3.0), ("b", 99.0), ("c", 4.0))]
    structure = {"cases": [{"case": "a", "status": "pass"}, {"case": "c", "status": "pass"}]}
    one = System("s", Path(), Summary(unit="HU", metrics={}, cases=[], structure=structure), cases)
    assert ranked_cases([one])[0] == "b"

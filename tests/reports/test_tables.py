import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.evaluation.summary_file import Statistics
from medgen.reports.tables import (
    Cell,
    Head,
    Table,
    about_infinite,
    bracket,
    estimate,
    number,
    p_value,
    value_cell,
    verdict_cell,
    with_error,
)


@given(st.integers(1, 40), st.integers(2, 12), st.integers(0, 3))
def test_a_wide_table_is_cut_into_parts_that_fit_and_lose_nothing(columns, widest, rows):
    table = Table(
        [Head(str(c)) for c in range(columns)],
        [[Cell(f"{r}.{c}") for c in range(columns)] for r in range(rows)],
        "note",
    )
    parts = table.parts(widest)
    assert all(len(part.heads) <= widest and part.heads[0] == table.heads[0] for part in parts)
    assert [table.heads[0], *(head for part in parts for head in part.heads[1:])] == list(table.heads)
    for row in range(rows):
        assert all(part.rows[row][0] == table.rows[row][0] for part in parts)
        assert [cell for part in parts for cell in part.rows[row][1:]] == list(table.rows[row][1:])
    assert [part.note for part in parts] == [""] * (len(parts) - 1) + ["note"]


@pytest.mark.parametrize(
    ("stats", "text", "value"),
    [
        ({"mean": 12.34, "mean_interval": [-1.26, 26]}, "12.3 [−1.3,\u00a026.0]", 12.34),
        ({"mean": 12.34, "mean_interval": [None, 26]}, "12.3", 12.34),
        ({"mean": 12.34, "mean_interval": [math.nan, math.nan]}, "12.3", 12.34),
        ({"mean": None}, "–", None),
        ({"mean": 4.0, "mean_interval": [3, 5], "n": 32, "infinite": 12}, "4.0 [3.0,\u00a05.0], 12 of 44 infinite", 4),
        ({"mean": None, "n": 0, "infinite": 3}, "3 of 3 infinite", None),
        (None, "–", None),
    ],
)
def test_estimates_show_their_interval_and_excluded_values(stats, text, value):
    assert estimate(stats and Statistics.model_validate(stats)) == Cell(text, value)


@pytest.mark.parametrize(
    ("stats", "text"),
    [
        ({"median": 8.0, "median_interval": [3, None], "n": 17, "infinite": 3}, "8.0 [3.0,\u00a0∞]"),
        ({"median": None, "median_interval": None, "n": 9, "infinite": 11}, "∞"),
        ({"median": None, "median_interval": None, "n": 0, "infinite": 0}, "–"),
    ],
)
def test_a_null_median_with_infinite_values_is_infinite(stats, text):
    assert estimate(Statistics.model_validate(stats), key="median").text == text


def test_infinite_values_are_explained_where_there_are_some():
    note = about_infinite([[Cell("x"), Cell("3 of 3 infinite")]], "no label")
    assert note == "Infinite: no label; means exclude them."
    assert about_infinite([[Cell("x"), Cell("3.0")]], "no label") == ""


def test_values_without_known_digits_are_rounded_by_size():
    shown = [value_cell(v).text for v in (0.0123456, 12345.6, -2.0, True, "text", None, math.nan, -1e-7)]
    assert shown == ["0.01235", "12\u202f346", "−2", "yes", "text", "–", "–", "−1.0\u00a0×\u00a010⁻⁷"]


def test_small_probabilities_are_not_zero():
    assert [p_value(p).text for p in (0.0, 0.00099, 0.001, 0.5, None)] == ["< 0.001", "< 0.001", "0.001", "0.500", "–"]


def test_verdicts_sort_from_fail_to_pass():
    cells = sorted((verdict_cell(status) for status in ("pass", "fail", "review")), key=lambda cell: cell.value)
    assert [cell.text for cell in cells] == ["fail", "review", "pass"] and bracket(None) == ""


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(0, 8))
def test_numbers_have_no_e_notation_or_ascii_minus(value, digits):
    for text in (number(value, digits), value_cell(value).text):
        assert "e" not in text and "-" not in text and len(text) < 30


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3.41823, 0.0123, "3.418 ± 0.012"),
        (123.4, 4.567, "123.4 ± 4.6"),
        (1234.5, 456.7, "1\u202f234 ± 457"),
        (3.41823, None, "3.418"),
        (0.0, 0.0, "0"),
        (-9.083e-5, 1e-9, "−9.1\u00a0×\u00a010⁻⁵ ± 1.0\u00a0×\u00a010⁻⁹"),
    ],
)
def test_a_value_has_the_digits_of_its_error(value, error, text):
    assert with_error(value, error) == text


def test_printed_columns_have_room_for_their_longest_word():
    rows = [[Cell("a" * 50 + " b"), Cell("−12.3 [−15.0,\u00a0−9.6]"), Cell("1")], [Cell("x"), Cell("–"), Cell("2")]]
    shares = Table([Head("case", words=True), Head("MAE"), Head("Very long heading")], rows).shares
    assert sum(shares) == pytest.approx(100, abs=0.1) and shares[0] > shares[1] > shares[2]
    crowded = Table([Head(f"h{n}") for n in range(9)], [[Cell("1" * (30 if n == 4 else 20)) for n in range(9)]]).shares
    assert max(crowded) == crowded[4] and min(crowded) > 100 / 12

"""CSV files that spreadsheets read as text and numbers without formulas, and that round-trip unchanged."""

import ast
import csv
import io
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from refusal import refused

import medgen
from medgen.io.spreadsheet import csv_line, csv_text, read_csv

DANGEROUS = ("=1+1", "@SUM(A1)", "+1", "-2+3", "-5", "\t=1", "\r=1", "\n=1", " =1", "＝1", "'=1", "''+1")
FIRST = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
names = st.text(st.sampled_from("=+-@\t\r\n'\" ;,ab5＝é"), max_size=6) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8
)


def cells(text):
    return next(csv.reader(io.StringIO(text, newline="")))


@given(names)
@example("'=1").via("an apostrophe of its own")
def test_no_text_is_a_formula_and_all_text_round_trips(tmp_path_factory, name):
    path = tmp_path_factory.getbasetemp() / "names.csv"
    path.write_text(csv_text([name, "n"], [{name: name, "n": -1.5}]), encoding="utf-8", newline="")
    for shown in cells(csv_line([name])) if name else []:
        assert not shown.startswith(FIRST) and not shown.strip().startswith(FIRST)
    if name != "n":
        assert read_csv(path) == [{name: name, "n": "-1.5"}]


@given(names, st.sampled_from([",", ";", "\t"]))
def test_name_stays_in_one_cell_with_any_separator(name, separator):
    """Spreadsheets with a decimal comma separate cells at semicolons, so text after a semicolon would be a new cell."""
    text = csv_line([name])
    line = next(csv.reader(io.StringIO(text, newline=""), delimiter=separator), [])
    assert len(line) <= 1 or separator == ","
    assert not any(cell.startswith(FIRST) for cell in line)


@pytest.mark.parametrize("text", DANGEROUS)
def test_known_formulas_begin_with_an_apostrophe(text):
    assert cells(csv_line([text]))[0] == f"'{text}"


def test_numbers_stay_numbers():
    assert csv_line([-2, -0.5, 1e-9, float("inf"), float("-inf")]) == "-2,-0.5,1e-09,inf,-inf\n"
    assert csv_line([float("nan"), None, ""]) == ",,\n" and csv_line([-1 / 3], 3) == "-0.333\n"


def test_only_the_spreadsheet_module_writes_csv():
    """No other module writes CSV itself: its names would not be escaped. The peers are what others would write."""
    root = Path(medgen.__file__).parent
    files = [
        p for folder in (root, root.parent / "pipelines", root.parent / "benchmarks") for p in folder.rglob("*.py")
    ]
    writing = {
        path.relative_to(root.parent).as_posix()
        for path in files
        if path.parent.name != "peers"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("writer", "DictWriter", "to_csv", "savetxt")
    }
    assert writing == set()


def test_pipe_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "cases.csv")
    with refused("file-not-regular"):
        read_csv(tmp_path / "cases.csv")

"""Every CSV file of the program is written and read here: no text cell is a formula to a spreadsheet.

A spreadsheet runs a cell that begins with = + - @, a tab or a line break as a formula, and names of files and labels
may begin so. Such text gets an apostrophe in front, which `read_csv` takes away. Numbers stay as they are.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from medgen.io.text import read_text

# Also behind spaces, which some programs remove, in full width, and behind the apostrophes that this module adds.
FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠]|'*[\t\r\n]")
QUOTED = re.compile(r'[",;\t\r\n]|^\s|\s$')  # ; and tab part cells where the decimal sign is a comma


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], digits: int | None = None) -> str:
    """A whole CSV file of rows as {column: value}; what a row lacks is an empty cell."""
    lines = ([row.get(column) for column in columns] for row in rows)
    return csv_line(columns) + "".join(csv_line(line, digits) for line in lines)


def csv_line(values: Iterable[Any], digits: int | None = None) -> str:
    """One line of a CSV file with its end.

    Args:
        values: text and numbers; None and NaN are empty cells, infinity is "inf".
        digits: significant ones of numbers; None: all.
    """
    return ",".join(_quoted(_cell(value, digits)) for value in values) + "\n"


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file as {column: text}, text as it was before `csv_line`; a short row lacks its last columns.

    Raises OSError, ValueError or csv.Error where the file is not one.
    """
    stream = io.StringIO(read_text(path), newline="")
    lines = [[_plain(cell) for cell in line] for line in csv.reader(stream) if line]
    return [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]


def _cell(value: Any, digits: int | None) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, Real):
        return str(value) if digits is None or isinstance(value, Integral) else f"{value:.{digits}g}"
    text = str(value)
    return f"'{text}" if FORMULA.match(text) else text


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if QUOTED.search(text) else text

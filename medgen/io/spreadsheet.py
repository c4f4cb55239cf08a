"""Write and read CSV files without formula injection.

Spreadsheet programs run a cell as a formula if it starts with = + - @, a tab or a line break. File and label names may
do so. Such text gets a leading apostrophe, which `read_csv` removes. Numbers are not changed. All CSV files of the
program are written and read here.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from medgen.io.text import read_text

# Also matches after spaces (which some programs remove), full-width characters, and after added apostrophes.
FORMULA = re.compile(r"'*\s*[=+\-@＝＋－＠]|'*[\t\r\n]")
QUOTED = re.compile(r'[",;\t\r\n]|^\s|\s$')  # ; and tab separate cells in locales with decimal commas


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], digits: int | None = None) -> str:
    """Return a CSV file as text; rows are {column: value}, and missing values become empty cells."""
    lines = ([row.get(column) for column in columns] for row in rows)
    return csv_line(columns) + "".join(csv_line(line, digits) for line in lines)


def csv_line(values: Iterable[Any], digits: int | None = None) -> str:
    """Return one line of a CSV file with a line break.

    Args:
        values: text and numbers; None and NaN become empty cells, infinity becomes "inf".
        digits: significant digits of floats; None: all.
    """
    return ",".join(_quoted(_cell(value, digits)) for value in values) + "\n"


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file as {column: text}, with the changes of `csv_line` undone.

    Columns that are missing at the end of a short row are missing in its dict. Raises OSError, ValueError or csv.Error
    if the file cannot be read as CSV.
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

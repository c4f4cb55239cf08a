"""Tables as data for the templates, and the formatting of numbers."""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medgen.evaluation.summary import excluded_values_text
from medgen.evaluation.summary_file import Statistics
from medgen.reports.results import System

Centre = Literal["mean", "median"]
MINUS = "−"
LARGE, SMALL = 1e9, 1e-3  # larger or smaller numbers are written with a power of ten
WIDEST = 9  # maximum number of table columns on a printed page
PRINTED = 150  # characters of a printed line over its whole width, less what capitals need more than digits
PADDING, LONGEST = 3, 60  # characters between columns; beyond which longer texts get no wider column


@dataclass(frozen=True)
class Head:
    """A column heading; ``words``: its cells are text, left-aligned and wrapped; ``about``: tooltip."""

    text: str
    words: bool = False
    about: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell: the text, the ``value`` to sort by (None: the text), ``tone``: strong, good, bad or review."""

    text: str
    value: float | None = None
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Headings, rows of cells, a note below the table, and (label, explanation) of the metrics."""

    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    about: Sequence[tuple[str, str]] = ()

    def parts(self, widest: int = WIDEST) -> list["Table"]:
        """Split the table for print into tables of at most ``widest`` columns; each starts with the first column."""
        if len(self.heads) <= widest:
            return [self]
        count = math.ceil((len(self.heads) - 1) / (widest - 1))
        step = math.ceil((len(self.heads) - 1) / count)
        starts = range(1, len(self.heads), step)
        tables = [
            Table(
                [self.heads[0], *self.heads[start : start + step]],
                [[row[0], *row[start : start + step]] for row in self.rows],
            )
            for start in starts
        ]
        return [*tables[:-1], replace(tables[-1], note=self.note, about=self.about)]

    @property
    def shares(self) -> list[float]:
        """Width of each printed column in percent: its longest word, and of the rest what its longest text needs.

        Measuring every cell again and again for the best widths took half the time of the PDF.
        """
        least, most = [], []
        for column, head in enumerate(self.heads):
            cells = [row[column].text for row in self.rows]
            longest = max(_width(word) for text in (head.text, *cells) for word in re.split(r"[ \n]", text))
            least.append(min(longest, LONGEST) + PADDING)
            most.append(max(least[-1], min(max(map(_width, cells), default=0), LONGEST) + PADDING))
        spare, wanted = max(PRINTED - sum(least), 0), max(sum(most) - sum(least), 1)
        widths = [low + min(spare / wanted, 1) * (high - low) for low, high in zip(least, most, strict=True)]
        return [round(100 * width / sum(widths), 2) for width in widths]


def _width(text: str) -> int:
    """Width of a text in characters; those of Chinese, Japanese and Korean are twice as wide."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def without_empty_columns(table: Table) -> Table:
    """Return the table without empty columns."""
    kept = [c for c in range(len(table.heads)) if not c or any(row[c].text != "–" for row in table.rows)]
    return replace(table, heads=[table.heads[c] for c in kept], rows=[[row[c] for c in kept] for row in table.rows])


def text_cell(value: Any, tone: str = "") -> Cell:
    """Return a text cell; an en dash for a missing value."""
    return Cell("–" if value is None or value == "" else str(value), tone=tone)


def number_cell(value: float | None, digits: int = 1, tone: str = "") -> Cell:
    """Return a cell with a number."""
    return Cell(number(value, digits), _sortable(value), tone)


def signed_cell(value: float | None, digits: int = 1, tone: str = "") -> Cell:
    """Return a cell with a number that always shows its sign."""
    return Cell(signed(value, digits), _sortable(value), tone)


def value_cell(value: Any, tone: str = "") -> Cell:
    """Return a cell for a value without declared digits: numbers with four significant digits, text unchanged."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text_cell({True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value, tone)
    return Cell(significant(value), _sortable(value), tone)


def estimate(stats: Statistics | None, digits: int = 1, key: Centre = "mean", tone: str = "") -> Cell:
    """Return a mean or median as "12.3 [11.0, 13.4]"; a mean also with the number of infinite values left out."""
    if stats is None:
        return number_cell(None, digits, tone)
    value, interval, infinite = getattr(stats, key), getattr(stats, f"{key}_interval"), excluded_values_text(stats)
    if infinite and key == "median":  # in JSON, null stands for an infinite median or interval end
        value = math.inf if value is None else value
        interval = interval and [math.inf if end is None else end for end in interval]
    texts = [] if value is None and infinite else [number(value, digits) + bracket(interval, digits)]
    texts += [infinite] if infinite and key == "mean" else []
    return Cell(", ".join(texts), _sortable(value), tone)


def about_infinite(rows: Sequence[Sequence[Cell]], what: str) -> str:
    """Return a note on infinite values if a table has any; empty otherwise."""
    return f"Infinite: {what}; means exclude them." if any("infinite" in c.text for r in rows for c in r) else ""


def bracket(interval: Sequence[float | None] | None, digits: int = 1) -> str:
    """Return " [11.0, 13.4]" with a leading space; empty if there is no interval."""
    if not interval or any(end is None or math.isnan(end) for end in interval):
        return ""
    return " [" + ",\u00a0".join(number(end, digits) for end in interval) + "]"


def number(value: float | None, digits: int = 1) -> str:
    """Format a number with fixed digits and a true minus sign; an en dash for None or NaN, ∞ for infinity."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if abs(value) >= LARGE:
        return power_of_ten(value)
    text = f"{value:,.{digits}f}".replace(",", "\u202f")  # narrow no-break space
    return text.removeprefix("-") if not text.strip("-0.") else text.replace("-", MINUS)


def signed(value: float | None, digits: int = 1) -> str:
    """Format like `number`, with a sign unless the result is zero."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.") else text


def percent(value: float | None) -> str:
    """Format a fraction in percent: 0.873 → 87 %."""
    return number(value if value is None else 100 * value, 0) + ("" if value is None else "\u00a0%")


def significant(value: float) -> str:
    """Format with four significant digits, or with a power of ten if small: 0.01235, 12 346, 9.1 × 10⁻⁵."""
    if not math.isfinite(value) or value == int(value) or abs(value) >= 1000:
        return number(value, 0)
    return power_of_ten(value) if abs(value) < SMALL else f"{value:.4g}".replace("-", MINUS)


def power_of_ten(value: float) -> str:
    """Format with two significant digits and a power of ten: 3.4 × 10³⁸."""
    digits, power = f"{value:.1e}".split("e")
    exponent = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits.replace('-', MINUS)}\u00a0×\u00a010{exponent}"


def with_error(value: float | None, error: float | None) -> str:
    """Format as "3.418 ± 0.012", with two significant digits of the error; without an error as `general` does."""
    if value is None or error is None or not (math.isfinite(value) and 0 < error < math.inf):
        return value_cell(value).text
    digits = 1 - math.floor(math.log10(error))
    if digits > 6 or abs(value) >= LARGE:
        return f"{significant(value)} ± {significant(error)}"
    return f"{number(value, max(digits, 0))} ± {number(error, max(digits, 0))}"


def verdict_cell(status: Any) -> Cell:
    """Return the coloured cell of a verdict; it sorts from fail to pass."""
    tones = {"pass": ("good", 2.0), "review": ("review", 1.0), "fail": ("bad", 0.0)}
    tone, rank = tones.get(str(status), ("", None))
    return Cell(str(status) if status else "–", rank, tone)


def p_value(p: float | None) -> Cell:
    """Return the cell of a p value with three digits, "< 0.001" if smaller."""
    return Cell("< 0.001" if p is not None and p < 0.001 else number(p, 3), _sortable(p))


def _sortable(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def table_by_system(
    first: Head,
    systems: Sequence[System],
    heads: Iterable[Head],
    rows: Sequence[Sequence[Cell]],
    note: str = "",
    about: Sequence[tuple[str, str]] = (),
) -> Table | None:
    """Return a table with one system per row and, for several systems, a column with its name; None if empty.

    The rows must have the cells of `of_system` after the first cell.
    """
    between = [Head("system", words=True)] if len(systems) > 1 else []
    return Table([first, *between, *heads], rows, note, about) if rows else None


def of_system(system: System, systems: Sequence[System]) -> list[Cell]:
    """Return the cell with the name of a row's system; empty if it is the only system."""
    return [text_cell(system.name)] if len(systems) > 1 else []


def system_heading(text: str, system: System, systems: Sequence[System]) -> str:
    """Return the heading of a column of one system, with the system's name if there are several."""
    return text if len(systems) == 1 else f"{system.name}: {text}"


def in_order(names: Iterable[str]) -> list[str]:
    """Return each name once, in the order of first appearance."""
    return list(dict.fromkeys(names))

"""Tables as data: what every section hands to the template, and numbers as they stand in print."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from medgen.evaluation.summary import infinite_ones
from medgen.evaluation.summary_file import Statistics
from medgen.reports.results import System

Centre = Literal["mean", "median"]
MINUS = "−"
LARGE, SMALL = 1e9, 1e-3  # beyond, a number is written with a power of ten
WIDEST = 9  # columns of a table on a printed page


@dataclass(frozen=True)
class Head:
    """The head of a column; ``words``: its cells are text, left-aligned and wrapped; ``about``: what it says."""

    text: str
    words: bool = False
    about: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell: the text shown, the ``value`` sorted by (the text if None), ``tone``: strong, good or bad."""

    text: str
    value: float | None = None
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """Heads, rows of as many cells, a note below, and a line for each measure: (label, what it says)."""

    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    about: Sequence[tuple[str, str]] = ()

    def parts(self, widest: int = WIDEST) -> list["Table"]:
        """Tables of at most ``widest`` columns that each begin with the first one: paper does not scroll."""
        if len(self.heads) <= widest:
            return [self]
        count = math.ceil((len(self.heads) - 1) / (widest - 1))
        step = math.ceil((len(self.heads) - 1) / count)
        starts = range(1, len(self.heads), step)
        tables = [
            Table([self.heads[0], *self.heads[at : at + step]], [[row[0], *row[at : at + step]] for row in self.rows])
            for at in starts
        ]
        return [*tables[:-1], replace(tables[-1], note=self.note, about=self.about)]


def filled(table: Table) -> Table:
    """The table without columns in which nothing was measured."""
    kept = [c for c in range(len(table.heads)) if not c or any(row[c].text != "–" for row in table.rows)]
    return replace(table, heads=[table.heads[c] for c in kept], rows=[[row[c] for c in kept] for row in table.rows])


def words(value: Any, tone: str = "") -> Cell:
    """A cell of text; an en dash for what is absent."""
    return Cell("–" if value is None or value == "" else str(value), tone=tone)


def figure(value: float | None, digits: int = 1, tone: str = "") -> Cell:
    """A cell with a number."""
    return Cell(number(value, digits), _sortable(value), tone)


def change(value: float | None, digits: int = 1, tone: str = "") -> Cell:
    """A cell with a number that carries its sign."""
    return Cell(signed(value, digits), _sortable(value), tone)


def general(value: Any, tone: str = "") -> Cell:
    """A cell for a value whose digits are not known: four significant ones; text as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return words({True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value, tone)
    return Cell(significant(value), _sortable(value), tone)


def estimate(stats: Statistics | None, digits: int = 1, key: Centre = "mean", tone: str = "") -> Cell:
    """A mean or median as "12.3 [11.0, 13.4]", a mean with how many infinite values it leaves out."""
    if stats is None:
        return figure(None, digits, tone)
    value, interval, infinite = getattr(stats, key), getattr(stats, f"{key}_interval"), infinite_ones(stats)
    if infinite and key == "median":  # JSON has null for the infinity that it is, or that its interval reaches
        value = math.inf if value is None else value
        interval = interval and [math.inf if end is None else end for end in interval]
    shown = [] if value is None and infinite else [number(value, digits) + bracket(interval, digits)]
    shown += [infinite] if infinite and key == "mean" else []
    return Cell(", ".join(shown), _sortable(value), tone)


def about_infinite(rows: Sequence[Sequence[Cell]], what: str) -> str:
    """What infinite values are, below a table that has any; empty otherwise."""
    return f"Infinite: {what}; means are of the others." if any("infinite" in c.text for r in rows for c in r) else ""


def bracket(interval: Sequence[float | None] | None, digits: int = 1) -> str:
    """ " [11.0, 13.4]" with a space in front; empty where there is no interval."""
    if not interval or any(end is None or math.isnan(end) for end in interval):
        return ""
    return " [" + ",\u00a0".join(number(end, digits) for end in interval) + "]"


def number(value: float | None, digits: int = 1) -> str:
    """Fixed digits with a true minus sign; an en dash for what was not measured, ∞ for identical images."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if abs(value) >= LARGE:
        return power_of_ten(value)
    text = f"{value:,.{digits}f}".replace(",", "\u202f")  # a space at which no line breaks
    return text.removeprefix("-") if not text.strip("-0.") else text.replace("-", MINUS)


def signed(value: float | None, digits: int = 1) -> str:
    """`number` with its sign always shown, except for zero."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.") else text


def percent(value: float | None) -> str:
    """0.873 → 87 %."""
    return number(value if value is None else 100 * value, 0) + ("" if value is None else "\u00a0%")


def significant(value: float) -> str:
    """Four significant digits, large numbers in full, small ones with a power of ten: 0.01235, 12 346, 9.1 × 10⁻⁵."""
    if not math.isfinite(value) or value == int(value) or abs(value) >= 1000:
        return number(value, 0)
    return power_of_ten(value) if abs(value) < SMALL else f"{value:.4g}".replace("-", MINUS)


def power_of_ten(value: float) -> str:
    """Two significant digits: 3.4 × 10³⁸."""
    digits, power = f"{value:.1e}".split("e")
    raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{digits.replace('-', MINUS)}\u00a0×\u00a010{raised}"


def with_error(value: float | None, error: float | None) -> str:
    """ "3.418 ± 0.012": to the second digit of the error; four significant digits where there is none."""
    if value is None or error is None or not (math.isfinite(value) and 0 < error < math.inf):
        return general(value).text
    digits = 1 - math.floor(math.log10(error))
    if digits > 6 or abs(value) >= LARGE:
        return f"{significant(value)} ± {significant(error)}"
    return f"{number(value, max(digits, 0))} ± {number(error, max(digits, 0))}"


def verdict_cell(status: Any) -> Cell:
    """pass in green, review and fail in colours that warn; sorts from fail to pass."""
    tones = {"pass": ("good", 2.0), "review": ("review", 1.0), "fail": ("bad", 0.0)}
    tone, rank = tones.get(str(status), ("", None))
    return Cell(str(status) if status else "–", rank, tone)


def p_value(p: float | None) -> Cell:
    """Three digits, and never "0.000"."""
    return Cell("< 0.001" if p is not None and p < 0.001 else number(p, 3), _sortable(p))


def _sortable(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def listed(
    first: Head,
    systems: Sequence[System],
    heads: Iterable[Head],
    rows: Sequence[Sequence[Cell]],
    note: str = "",
    about: Sequence[tuple[str, str]] = (),
) -> Table | None:
    """A table whose rows belong to one system each (`of_system`), named where there are several; None if empty."""
    between = [Head("system", words=True)] if len(systems) > 1 else []
    return Table([first, *between, *heads], rows, note, about) if rows else None


def of_system(system: System, systems: Sequence[System]) -> list[Cell]:
    """The cell that names a row's system; nothing if it is the only one."""
    return [words(system.name)] if len(systems) > 1 else []


def under(text: str, system: System, systems: Sequence[System]) -> str:
    """The head of a system's column."""
    return text if len(systems) == 1 else f"{system.name}: {text}"


def in_order(names: Iterable[str]) -> list[str]:
    """Each name once, in the order of their first appearance."""
    return list(dict.fromkeys(names))

"""Bland–Altman plots as plain shapes that the template draws: no image, sharp at any size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from medgen.evaluation.summary_file import Agreement, Ends
from medgen.reports.results import System
from medgen.reports.tables import number, signed
from medgen.terminology import display_rank

LETTERS = 10  # pixels from one label to the next
MOST = 6  # regions that are plotted, the most telling of the enhancement first
LEFT, RIGHT, TOP, BOTTOM, WIDTH, HEIGHT = 46, 330, 10, 190, 392, 226  # pixels of the axes and of the plot


@dataclass(frozen=True)
class Line:
    """A horizontal line of the plot at ``y``, its label at ``label_y``; ``band``: the interval's two ends."""

    y: float
    label: str
    label_y: float
    band: tuple[float, float] | None
    dashed: bool


@dataclass(frozen=True)
class Plot:
    """Difference against mean of converted and truth, in pixels from the upper left corner."""

    title: str
    unit: str
    points: Sequence[tuple[float, float, str]]
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


def bland_altman(systems: Sequence[System]) -> list[Plot]:
    """A plot for each of the main regions of each system; those of one region have the same axes."""
    plots = []
    for name in main_regions(systems):
        measured = [(s, of) for s in systems if (of := s.summary.agreement.get(name)) and of.points]
        xs = _axis([mean for _, of in measured for _, mean, _ in _points(of)])
        ys = _axis([value for _, of in measured for value in _heights(of)])
        for system, of in measured:
            title = name.replace("_", " ") + (f": {system.name}" if len(systems) > 1 else "")
            plots.append(_plot(title, system, of, xs, ys))
    return plots


def main_regions(systems: Sequence[System], most: int = MOST) -> list[str]:
    """Regions to plot: those that enhance first, then as they stand in the summary."""
    names = list(dict.fromkeys(name for system in systems for name in system.summary.agreement))
    taking_up = {name for system in systems for name in system.summary.settings.structures_that_take_up_contrast}
    return sorted(names, key=lambda name: (name not in taking_up, display_rank(name)))[:most]


def _points(of: Agreement) -> list[tuple[str, float, float]]:
    """(case, mean, difference) of those that have both."""
    return [(p.case, p.mean, p.difference) for p in of.points if p.mean is not None and p.difference is not None]


def _ends(of: Agreement) -> list[tuple[str, float, Ends]]:
    """(name, value, interval) of limits and bias from top to bottom, those that are known."""
    found = (("upper", of.upper, of.upper_interval), ("bias", of.bias, of.bias_interval))
    return [(n, v, ends) for n, v, ends in (*found, ("lower", of.lower, of.lower_interval)) if v is not None]


def _heights(of: Agreement) -> list[float]:
    """All that the vertical axis must hold: points, lines, the ends of their intervals, and 0."""
    intervals = [of.upper_interval, of.bias_interval, of.lower_interval]
    ends = [end for interval in intervals for end in interval or () if end is not None]
    return [*(difference for *_, difference in _points(of)), *(value for _, value, _ in _ends(of)), *ends, 0.0]


def _plot(title: str, system: System, of: Agreement, xs: Sequence[float], ys: Sequence[float]) -> Plot:
    def x(value: float) -> float:
        return round(LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (RIGHT - LEFT), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (BOTTOM - TOP), 1)

    return Plot(
        title,
        system.unit,
        [(x(mean), y(difference), _says(case, mean, difference, system)) for case, mean, difference in _points(of)],
        _lines(of, system.digits, y),
        [(x(value), number(value, _digits(xs))) for value in xs],
        [(y(value), number(value, _digits(ys))) for value in ys],
    )


def _lines(of: Agreement, digits: int, y: Callable[[float], float]) -> list[Line]:
    """Limits and bias from top to bottom, labels far enough apart to be read."""
    lines: list[Line] = []
    for name, value, interval in _ends(of):
        low, high = interval or (None, None)
        band = None if low is None or high is None else (y(high), y(low))
        label = f"{'bias' if name == 'bias' else 'limit'} {signed(value, digits)}"
        label_y = max(y(value), lines[-1].label_y + LETTERS) if lines else y(value)
        lines.append(Line(y(value), label, label_y, band, name != "bias"))
    return lines


def _says(case: str, mean: float, difference: float, system: System) -> str:
    """What a mouse over the point shows."""
    texts = number(mean, system.digits), signed(difference, system.digits)
    return f"{case}: mean {texts[0]}, difference {texts[1]} {system.unit}".strip()


def _axis(values: Sequence[float]) -> list[float]:
    """Round numbers that span the values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-6 * max(1.0, abs(high)):
        low, high = low - 1, high + 1
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks]


def _digits(ticks: Sequence[float]) -> int:
    step = ticks[1] - ticks[0]
    return next((digits for digits in range(9) if abs(round(step, digits) - step) < 1e-9), 9)

"""Bland–Altman plots as coordinates, which the template draws as SVG."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from medgen.evaluation.summary_file import Agreement, Ends
from medgen.reports.results import System
from medgen.reports.tables import number, signed
from medgen.terminology import display_rank

LABEL_DISTANCE = 10  # minimum distance between labels in pixels
MOST = 6  # maximum number of plotted regions
LEFT, RIGHT, TOP, BOTTOM, WIDTH, HEIGHT = 46, 330, 10, 190, 392, 226  # edges of the axes and size of the plot, pixels


@dataclass(frozen=True)
class Line:
    """A horizontal line at ``y`` with its label at ``label_y``; ``band``: the ends of its confidence interval."""

    y: float
    label: str
    label_y: float
    band: tuple[float, float] | None
    dashed: bool


@dataclass(frozen=True)
class Plot:
    """A plot of converted − truth against the mean of the two; coordinates in pixels from the upper left corner."""

    title: str
    unit: str
    points: Sequence[tuple[float, float, str]]
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]


def bland_altman(systems: Sequence[System]) -> list[Plot]:
    """Return one plot per main region and system; plots of the same region have the same axes."""
    plots = []
    for name in main_regions(systems):
        measured = [(s, stats) for s in systems if (stats := s.summary.agreement.get(name)) and stats.points]
        xs = _axis([mean for _, stats in measured for _, mean, _ in _points(stats)])
        ys = _axis([value for _, stats in measured for value in _y_values(stats)])
        for system, stats in measured:
            title = name.replace("_", " ") + (f": {system.name}" if len(systems) > 1 else "")
            plots.append(_plot(title, system, stats, xs, ys))
    return plots


def main_regions(systems: Sequence[System], most: int = MOST) -> list[str]:
    """Return the regions to plot: those that take up contrast medium first, each group by `display_rank`."""
    names = list(dict.fromkeys(name for system in systems for name in system.summary.agreement))
    enhancing = {name for system in systems for name in system.summary.settings.structures_that_take_up_contrast}
    return sorted(names, key=lambda name: (name not in enhancing, display_rank(name)))[:most]


def _points(stats: Agreement) -> list[tuple[str, float, float]]:
    """Return (case, mean, difference) of the cases in which both numbers are known."""
    return [(p.case, p.mean, p.difference) for p in stats.points if p.mean is not None and p.difference is not None]


def _bias_and_limits(stats: Agreement) -> list[tuple[str, float, Ends]]:
    """Return (name, value, interval) of upper limit, bias and lower limit, in this order; unknown ones are left out."""
    upper_two = (("upper", stats.upper, stats.upper_interval), ("bias", stats.bias, stats.bias_interval))
    return [(n, v, ends) for n, v, ends in (*upper_two, ("lower", stats.lower, stats.lower_interval)) if v is not None]


def _y_values(stats: Agreement) -> list[float]:
    """Return all values that the vertical axis must include: points, lines, interval ends and 0."""
    intervals = [stats.upper_interval, stats.bias_interval, stats.lower_interval]
    ends = [end for interval in intervals for end in interval or () if end is not None]
    return [
        *(difference for *_, difference in _points(stats)),
        *(value for _, value, _ in _bias_and_limits(stats)),
        *ends,
        0.0,
    ]


def _plot(title: str, system: System, stats: Agreement, xs: Sequence[float], ys: Sequence[float]) -> Plot:
    def x(value: float) -> float:
        return round(LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (RIGHT - LEFT), 1)

    def y(value: float) -> float:
        return round(BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (BOTTOM - TOP), 1)

    return Plot(
        title,
        system.unit,
        [
            (x(mean), y(difference), _tooltip(case, mean, difference, system))
            for case, mean, difference in _points(stats)
        ],
        _lines(stats, system.digits, y),
        [(x(value), number(value, _digits(xs))) for value in xs],
        [(y(value), number(value, _digits(ys))) for value in ys],
    )


def _lines(stats: Agreement, digits: int, y: Callable[[float], float]) -> list[Line]:
    """Return the lines of limits and bias from top to bottom, with labels that do not overlap."""
    lines: list[Line] = []
    for name, value, interval in _bias_and_limits(stats):
        low, high = interval or (None, None)
        band = None if low is None or high is None else (y(high), y(low))
        label = f"{'bias' if name == 'bias' else 'limit'} {signed(value, digits)}"
        label_y = max(y(value), lines[-1].label_y + LABEL_DISTANCE) if lines else y(value)
        lines.append(Line(y(value), label, label_y, band, name != "bias"))
    return lines


def _tooltip(case: str, mean: float, difference: float, system: System) -> str:
    texts = number(mean, system.digits), signed(difference, system.digits)
    return f"{case}: mean {texts[0]}, difference {texts[1]} {system.unit}".strip()


def _axis(values: Sequence[float]) -> list[float]:
    """Return axis ticks at round numbers that enclose the values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < 1e-6 * max(1.0, abs(high)):
        low, high = low - 1, high + 1
    ticks = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks]


def _digits(ticks: Sequence[float]) -> int:
    """Return the number of decimals that shows the distance between ticks exactly."""
    step = ticks[1] - ticks[0]
    return next((digits for digits in range(9) if abs(round(step, digits) - step) < 1e-9), 9)

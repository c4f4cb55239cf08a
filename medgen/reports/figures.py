"""One case as a picture: rows axial, coronal, sagittal; columns input, output, truth, signed difference.

Radiological convention: patient right on the left of the image, anterior (axial) or superior (coronal,
sagittal) on top, marked at the edges; all planes to one scale in mm. CT is shown in the soft tissue window
(W 400, L 40), other images from the truth's 1st percentile to the 99th of its foreground.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from medgen.data.body import foreground_threshold, looks_like_hu
from medgen.io.volume import Volume, read_volume, same_geometry, to_canonical
from medgen.reports.slices import PLANES, Plane, choose_slices, field_of_view, interest
from medgen.types import InputError

SOFT_TISSUE = (-160.0, 240.0)  # W 400, L 40
WIDTH, COLUMN, GAP, TOP, BAR = (
    1400,
    320,
    6,
    34,
    76,
)  # pixels: page, widest column, gaps, title line, colour bar
TALLEST = 1500  # pixels of all rows together; a whole-body scan is drawn smaller
INK = "#e8e8e8"
MARK = "#f2c14e"
# Black where nothing differs, so that faults stand out on the dark page; blue against orange is safe for the
# colour-blind, and the two ends do not meet in one pale tint.
SIGNED = LinearSegmentedColormap.from_list(
    "signed", [(0, "#9adcff"), (0.2, "#1673d1"), (0.5, "#000000"), (0.8, "#cf4a12"), (1, "#ffc37a")]
)


@dataclass(frozen=True)
class Picture:
    """A JPEG and the line that belongs under it."""

    jpeg: bytes
    caption: str


@dataclass(frozen=True)
class Column:
    """One column of a picture: what to draw, and the values drawn black and white (or as the two colours)."""

    title: str
    data: np.ndarray
    limits: tuple[float, float]
    signed: bool = False


def case_picture(files: Mapping[str, Path]) -> Picture:
    """Input (if there is a ``source``), output, truth and output - truth of one evaluated case.

    ``files``: paths by role: reference, prediction, and maybe source and labels; read here, so that one case
    at a time is in memory. Raises `InputError` if one cannot be read or the grids differ.
    """
    volumes = _read({role: files[role] for role in ("reference", "prediction", "source", "labels") if role in files})
    truth, output = volumes["reference"], volumes["prediction"].data
    source = volumes["source"].data if "source" in volumes else None
    labels = volumes["labels"].data if "labels" in volumes else None
    window, unit = _window(truth.data)
    limit = (window[1] - window[0]) / 4
    columns = [
        Column("output", output, window),
        Column("truth", truth.data, window),
        Column("output − truth", output - truth.data, (-limit, limit), signed=True),
    ]
    if source is not None:
        columns.insert(0, _input_column(source, window, unit))
    where = interest(truth.data, output if source is None else source, labels)
    return _draw(columns, truth, choose_slices(where), unit)


def conversion_picture(input_: Path, output: Path) -> Picture:
    """Input, output and output - input of a conversion without truth, where they differ most."""
    volumes = _read({"input": input_, "output": output})
    source, result = volumes["input"], volumes["output"].data
    window, unit = _window(result)
    limit = (window[1] - window[0]) / 2
    columns = [
        _input_column(source.data, window, unit),
        Column("output", result, window),
        Column("output − input", result - source.data, (-limit, limit), signed=True),
    ]
    return _draw(columns, source, choose_slices(interest(source.data, result, None)), unit)


def _read(files: Mapping[str, Path]) -> dict[str, Volume]:
    volumes = {role: to_canonical(read_volume(path)) for role, path in files.items()}
    first_path, first = next((path, volumes[role]) for role, path in files.items())
    for role, volume in volumes.items():
        if not same_geometry(first.geometry, volume.geometry):
            raise InputError(f"{files[role]} and {first_path} are not on one grid")
    return volumes


def _window(data: np.ndarray) -> tuple[tuple[float, float], str]:
    """Values shown black and white, and their unit: HU, or none."""
    if looks_like_hu(data):
        return SOFT_TISSUE, "HU"
    foreground = data[data > foreground_threshold(data)]
    low = float(np.percentile(data, 1))
    high = float(np.percentile(foreground, 99)) if foreground.size else low
    return (low, high if high > low else low + 1.0), ""


def _input_column(source: np.ndarray, window: tuple[float, float], unit: str) -> Column:
    """The input in the truth's window; in its own, and said so, where that would be all black or white."""
    own, own_unit = _window(source)
    alike = own_unit == unit and 0.5 < (own[1] - own[0]) / (window[1] - window[0]) < 2
    return Column("input", source, window) if alike else Column("input (own window)", source, own)


def _draw(columns: Sequence[Column], grid: Volume, at: tuple[int, int, int], unit: str) -> Picture:
    view = field_of_view(grid.data, grid.spacing)
    sizes = [plane.size(view, grid.spacing) for plane in PLANES]  # mm (width, height)
    column = min(COLUMN, (WIDTH - BAR - 2 * GAP) // len(columns) - GAP) if len(columns) > 3 else COLUMN + 60
    scale = min(column / max(w for w, _ in sizes), TALLEST / sum(h for _, h in sizes))  # pixels a mm
    width = GAP + len(columns) * (column + GAP) + BAR
    height = TOP + sum(round(h * scale) + GAP for _, h in sizes)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    top = TOP
    for plane, (w, h) in zip(PLANES, sizes, strict=True):
        w, h = round(w * scale), round(h * scale)
        for index, part in enumerate(columns):
            left = GAP + index * (column + GAP) + (column - w) // 2
            axes = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
            _panel(axes, part, plane, plane.cut(part.data, at, view))
            if top == TOP:
                middle = GAP + index * (column + GAP) + column / 2
                figure.text(
                    middle / width,
                    1 - TOP / 2 / height,
                    part.title,
                    color=INK,
                    size=12,
                    ha="center",
                    va="center",
                )
            elif plane is PLANES[-1] and index == 0:
                _scale_bar(axes, w, scale)
        top += h + GAP
    _colour_bar(figure, columns[-1], width, height, round(sizes[0][1] * scale), unit)
    buffer = io.BytesIO()
    canvas.print_jpg(buffer, pil_kwargs={"quality": 88})
    return Picture(buffer.getvalue(), _caption(columns, grid, at, unit))


def _panel(axes, part: Column, plane: Plane, image: np.ndarray) -> None:
    axes.set_axis_off()
    axes.imshow(
        image,
        cmap=SIGNED if part.signed else "gray",
        vmin=part.limits[0],
        vmax=part.limits[1],
        aspect="auto",
        interpolation="bilinear",
    )
    left, right, top, bottom = plane.marks
    places = {left: (0.015, 0.5), right: (0.985, 0.5), top: (0.5, 0.985), bottom: (0.5, 0.015)}
    for mark, (x, y) in places.items():
        horizontal = "left" if x < 0.1 else "right" if x > 0.9 else "center"
        vertical = "bottom" if y < 0.1 else "top" if y > 0.9 else "center"
        text = axes.text(x, y, mark, color=MARK, size=9, ha=horizontal, va=vertical, transform=axes.transAxes)
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _scale_bar(axes, width: int, scale: float) -> None:
    """50 mm in the lower left corner of the last row (10 mm for a field narrower than 120 mm)."""
    length = 50 if width / scale > 120 else 10
    x = 0.04, 0.04 + length * scale / width
    axes.plot(x, (0.05, 0.05), color=INK, linewidth=2, transform=axes.transAxes, scalex=False, scaley=False)
    axes.text(x[0], 0.065, f"{length} mm", color=INK, size=8, ha="left", va="bottom", transform=axes.transAxes)


def _colour_bar(figure: Figure, part: Column, width: int, height: int, rows: int, unit: str) -> None:
    axes = figure.add_axes(((width - BAR + 8) / width, 1 - (TOP + rows) / height, 14 / width, rows / height))
    bar = figure.colorbar(ScalarMappable(Normalize(*part.limits), SIGNED), cax=axes, extend="both")
    bar.ax.tick_params(color=INK, labelcolor=INK, labelsize=9)
    bar.outline.set_edgecolor(INK)  # type: ignore[operator]
    figure.text(
        (width - BAR + 15) / width,
        1 - TOP / 2 / height,
        unit or "units",
        color=INK,
        size=10,
        ha="center",
        va="center",
    )


def _caption(columns: Sequence[Column], grid: Volume, at: tuple[int, int, int], unit: str) -> str:
    x, y, z = (grid.affine @ [*at, 1.0])[:3]
    place = f"sagittal {_side(x, 'R', 'L')}, coronal {_side(y, 'A', 'P')}, axial {_side(z, 'S', 'I')}"
    low, high = next(part.limits for part in columns if part.title == "output")
    window = f"W {high - low:g} L {(high + low) / 2:g} HU" if unit else f"{low:.4g} to {high:.4g}"
    limit = f"{columns[-1].limits[1]:.4g} {unit}".strip()
    return f"Slices at {place}. Window {window}. Difference shown from −{limit} (blue) to +{limit} (orange)."


def _side(mm: float, positive: str, negative: str) -> str:
    return f"{positive if mm >= 0 else negative} {abs(mm):.0f} mm"

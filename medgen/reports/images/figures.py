"""One case as a picture: rows axial, coronal, sagittal; columns input, output, truth, signed difference.

Radiological convention: patient right on the left of the image, anterior (axial) or superior (coronal,
sagittal) on top, marked at the edges; all planes to one scale in mm. What is shown and in which window says
`medgen.reports.images.case_images`.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from medgen.reports.images.case_images import Column, Scene, case_scene, conversion_scene
from medgen.reports.images.slices import PLANES, Plane, bar_mm

WIDTH, COLUMN, GAP, TOP, BAR = (
    1400,
    320,
    6,
    34,
    76,
)  # pixels: page, widest column, gaps, title line, colour bar
LEAST = 4  # pixels of a side of a panel: a volume one voxel thin is drawn, too
TALLEST = 1500  # pixels of all rows together; a whole-body scan is drawn smaller
LETTER = 8  # pixels of a letter of a title
INK = "#e8e8e8"
MARK = "#f2c14e"
FOUND = "#39ff88"  # findings: neither grey nor a colour of the difference
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


def case_picture(files: Mapping[str, Path]) -> Picture:
    """The picture of one evaluated case: `medgen.reports.images.case_images.case_scene` on paper; raises as that
    does."""
    return draw(case_scene(files))


def conversion_picture(input_: Path, output: Path) -> Picture:
    """Input, output and output − input of a conversion without truth, where they differ most."""
    return draw(conversion_scene(input_, output))


def draw(scene: Scene) -> Picture:
    """The three planes at ``scene.at`` in one JPEG."""
    columns, grid, view = scene.columns, scene.grid, scene.view
    extents = [plane.size(view, grid.spacing) for plane in PLANES]  # mm (width, height)
    column = min(COLUMN, (WIDTH - BAR - 2 * GAP) // len(columns) - GAP) if len(columns) > 3 else COLUMN + 60
    scale = min(column / max(w for w, _ in extents), TALLEST / sum(h for _, h in extents))  # pixels a mm
    width = GAP + len(columns) * (column + GAP) + BAR
    sizes = [(max(LEAST, round(w * scale)), max(LEAST, round(h * scale))) for w, h in extents]  # pixels
    height = TOP + sum(h + GAP for _, h in sizes)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    top = TOP
    for plane, (w, h) in zip(PLANES, sizes, strict=True):
        for index, part in enumerate(columns):
            left = GAP + index * (column + GAP) + (column - w) // 2
            axes = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
            _panel(axes, part, plane, part.cut(plane, scene.at, view))
            _boxes(axes, plane, scene)
            if top == TOP:
                middle = GAP + index * (column + GAP) + column / 2
                figure.text(
                    middle / width,
                    1 - TOP / 2 / height,
                    _short(part.title, column // LETTER),
                    parse_math=False,
                    color=INK,
                    size=12,
                    ha="center",
                    va="center",
                )
            elif plane is PLANES[-1] and index == 0:
                _scale_bar(axes, w, scale)
        top += h + GAP
    if columns[-1].signed:
        _colour_bar(figure, columns[-1], width, height, sizes[0][1], scene.unit)
    buffer = io.BytesIO()
    canvas.print_jpg(buffer, pil_kwargs={"quality": 88})
    return Picture(buffer.getvalue(), _caption(scene))


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


def _boxes(axes, plane: Plane, scene: Scene) -> None:
    """The findings that the slice cuts, each a box with its number."""
    for mark in scene.marks:
        if not mark.low[plane.axis] <= scene.at[plane.axis] <= mark.high[plane.axis]:
            continue
        left, top, width, height = plane.box(mark.low, mark.high, scene.view)
        grown = max(width, 0.05), max(height, 0.05)  # a box of one voxel could not be seen
        left, top = left - (grown[0] - width) / 2, top - (grown[1] - height) / 2
        axes.add_patch(
            Rectangle(
                (left, 1 - top - grown[1]), *grown, transform=axes.transAxes, fill=False, color=FOUND, linewidth=1.3
            )
        )
        text = axes.text(left, 1 - top, f" {mark.number}", color=FOUND, size=10, va="bottom", transform=axes.transAxes)
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _scale_bar(axes, width: int, scale: float) -> None:
    """A length in mm in the lower left corner of the last row."""
    length = bar_mm(width / scale)
    x = 0.04, 0.04 + length * scale / width
    axes.plot(x, (0.05, 0.05), color=INK, linewidth=2, transform=axes.transAxes, scalex=False, scaley=False)
    axes.text(x[0], 0.065, f"{length:g} mm", color=INK, size=8, ha="left", va="bottom", transform=axes.transAxes)


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


def _caption(scene: Scene) -> str:
    sagittal, coronal, axial = (scene.place(plane, scene.at[plane.axis]) for plane in reversed(PLANES))
    return f"Slices at sagittal {sagittal}, coronal {coronal}, axial {axial}. {scene.window}"


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"

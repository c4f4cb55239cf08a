"""Draw one case as a picture: rows axial, coronal, sagittal; columns input, output, truth, signed difference.

Radiological convention: patient right on the left of the image, anterior (axial) or superior (coronal, sagittal) on
top, marked at the edges. All planes have the same scale in mm. `medgen.reports.images.case_images` chooses volumes,
slices and windows.
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
)  # pixels: page width, maximum column width, gaps, title line, colour bar
LEAST = 4  # minimum panel side in pixels, so that a volume of one voxel thickness is visible
TALLEST = 1500  # maximum height of all rows in pixels; a whole-body scan is drawn smaller
LETTER = 8  # width of a title letter in pixels
INK = "#e8e8e8"
MARK = "#f2c14e"
FOUND = "#39ff88"  # findings; differs from grey and from the colours of a difference
# Black where there is no difference, so that faults are visible on the dark page. Blue and orange can be distinguished
# by colour-blind readers, also at the pale ends of the scale.
SIGNED = LinearSegmentedColormap.from_list(
    "signed", [(0, "#9adcff"), (0.2, "#1673d1"), (0.5, "#000000"), (0.8, "#cf4a12"), (1, "#ffc37a")]
)


@dataclass(frozen=True)
class Picture:
    """A JPEG and its caption."""

    jpeg: bytes
    caption: str


def case_picture(files: Mapping[str, Path]) -> Picture:
    """Return the static picture of an evaluated case, see `medgen.reports.images.case_images.case_scene`."""
    return draw(case_scene(files))


def conversion_picture(input_: Path, output: Path) -> Picture:
    """Return the picture of a conversion without truth, where input and output differ most."""
    return draw(conversion_scene(input_, output))


def draw(scene: Scene) -> Picture:
    """Draw the three planes at ``scene.at`` into one JPEG."""
    columns, grid, view = scene.columns, scene.grid, scene.view
    extents = [plane.size(view, grid.spacing) for plane in PLANES]  # mm (width, height)
    column = min(COLUMN, (WIDTH - BAR - 2 * GAP) // len(columns) - GAP) if len(columns) > 3 else COLUMN + 60
    scale = min(column / max(w for w, _ in extents), TALLEST / sum(h for _, h in extents))  # pixels per mm
    width = GAP + len(columns) * (column + GAP) + BAR
    sizes = [(max(LEAST, round(w * scale)), max(LEAST, round(h * scale))) for w, h in extents]  # pixels
    height = TOP + sum(h + GAP for _, h in sizes)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="black")
    canvas = FigureCanvasAgg(figure)
    top = TOP
    for plane, (w, h) in zip(PLANES, sizes, strict=True):
        for index, panel in enumerate(columns):
            left = GAP + index * (column + GAP) + (column - w) // 2
            axes = figure.add_axes((left / width, 1 - (top + h) / height, w / width, h / height))
            _panel(axes, panel, plane, panel.cut(plane, scene.at, view))
            _boxes(axes, plane, scene)
            if top == TOP:
                middle = GAP + index * (column + GAP) + column / 2
                figure.text(
                    middle / width,
                    1 - TOP / 2 / height,
                    _short(panel.title, column // LETTER),
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


def _panel(axes, panel: Column, plane: Plane, image: np.ndarray) -> None:
    axes.set_axis_off()
    axes.imshow(
        image,
        cmap=SIGNED if panel.signed else "gray",
        vmin=panel.limits[0],
        vmax=panel.limits[1],
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
    """Draw the findings that the slice intersects, each as a box with its number."""
    for mark in scene.marks:
        if not mark.low[plane.axis] <= scene.at[plane.axis] <= mark.high[plane.axis]:
            continue
        left, top, width, height = plane.box(mark.low, mark.high, scene.view)
        drawn_size = max(width, 0.05), max(height, 0.05)  # a box of one voxel would not be visible
        left, top = left - (drawn_size[0] - width) / 2, top - (drawn_size[1] - height) / 2
        axes.add_patch(
            Rectangle(
                (left, 1 - top - drawn_size[1]),
                *drawn_size,
                transform=axes.transAxes,
                fill=False,
                color=FOUND,
                linewidth=1.3,
            )
        )
        text = axes.text(left, 1 - top, f" {mark.number}", color=FOUND, size=10, va="bottom", transform=axes.transAxes)
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _scale_bar(axes, width: int, scale: float) -> None:
    """Draw a scale bar with its length in mm in the lower left corner of the panel."""
    length = bar_mm(width / scale)
    x = 0.04, 0.04 + length * scale / width
    axes.plot(x, (0.05, 0.05), color=INK, linewidth=2, transform=axes.transAxes, scalex=False, scaley=False)
    axes.text(x[0], 0.065, f"{length:g} mm", color=INK, size=8, ha="left", va="bottom", transform=axes.transAxes)


def _colour_bar(figure: Figure, panel: Column, width: int, height: int, rows: int, unit: str) -> None:
    axes = figure.add_axes(((width - BAR + 8) / width, 1 - (TOP + rows) / height, 14 / width, rows / height))
    bar = figure.colorbar(ScalarMappable(Normalize(*panel.limits), SIGNED), cax=axes, extend="both")
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

"""The slices of a case for the page's sliders: one small JPEG per plane, column and slice, all at the same scale.

The page shows them until its linked planes (`medgen.reports.images.volumes`) are open, or where these cannot open.
The size is limited: every n-th slice is used, so that all columns together have at most `MOST` frames per plane, and
the widest plane is `WIDTH` pixels wide; where the frames of a case take more than `MOST_BYTES`, there are fewer.
Patient sides are drawn into the image, so that a copied image keeps them; findings are drawn by the page. Frames of CT
store levels (`medgen.reports.images.windows`), which the page maps to the grey values of a window.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medgen.reports.images.case_images import Column, Mark, Scene
from medgen.reports.images.figures import MARK, SIGNED
from medgen.reports.images.slices import PLANES, Plane, View, bar_mm
from medgen.reports.images.windows import levels

MOST = {"axial": 96, "coronal": 64, "sagittal": 64}  # maximum frames per plane, over all columns
MOST_BYTES = 1_200_000  # of all frames of a case, before base64
WIDTH = 256  # width of the widest plane in pixels
TALLEST = 512  # maximum height of a plane in pixels; a whole-body scan is drawn smaller
THINNEST = 8  # minimum side of a frame in pixels
SMALLEST = 5.0  # minimum side of a finding's box, in percent of the image
QUALITY = 68  # of JPEG
FONT = ImageFont.load_default(13)


@dataclass(frozen=True)
class Stack:
    """One plane of a scene.

    Attributes:
        plane: name of the plane.
        titles: title of each column.
        frames: one list of JPEGs per column, one JPEG per slice.
        voxels: index of each slice in the view.
        places: position of each slice ("S 123 mm"), from inferior to superior, posterior to anterior or left to right.
        start: index of the slice shown first.
        share: width as a fraction of the widest plane.
        step_mm: distance between the slices.
        hu: for each column, whether it is CT.
        sides: patient sides at the image's left, right, top and bottom.
        marks: boxes of findings in percent of the image, each with the first and the last slice that shows it, and its
            lowest and highest voxel of the view.
    """

    plane: str
    titles: Sequence[str]
    frames: Sequence[Sequence[bytes]]
    voxels: range
    places: Sequence[str]
    start: int
    share: float
    step_mm: float
    hu: Sequence[bool]
    sides: Sequence[str]
    marks: Sequence[dict[str, float]]

    @property
    def sliding(self) -> dict[str, Any]:
        """The data for the page's script: slice positions, and frames in base64."""
        frames = [[base64.b64encode(frame).decode("ascii") for frame in column] for column in self.frames]
        return {"places": list(self.places), "frames": frames}

    @property
    def size(self) -> int:
        """Total size of all frames in bytes."""
        return sum(len(frame) for column in self.frames for frame in column)


def stacks(scene: Scene) -> list[Stack]:
    """Return the three planes of a scene; the slices include those at ``scene.at``."""
    sizes = [plane.size(scene.view, scene.grid.spacing) for plane in PLANES]  # mm
    widest = max(width for width, _ in sizes)
    scale = min(WIDTH / widest, TALLEST / max(height for _, height in sizes))  # pixels per mm
    shares = [max(width / widest, THINNEST / WIDTH) for width, _ in sizes]
    most = {name: max(1, frames // len(scene.columns)) for name, frames in MOST.items()}  # per column
    while True:
        made = [
            _stack(scene, plane, scale, share, most[plane.name]) for plane, share in zip(PLANES, shares, strict=True)
        ]
        size = sum(stack.size for stack in made)
        if size <= MOST_BYTES or max(most.values()) == 1:
            return made
        most = {name: max(1, int(frames * min(0.9, MOST_BYTES / size))) for name, frames in most.items()}


def _stack(scene: Scene, plane: Plane, scale: float, share: float, most: int) -> Stack:
    part, start = scene.view[plane.axis], scene.at[plane.axis]
    indices = slice_indices(part.start, part.stop, start, most)
    frames = [
        [frame(column, plane, _at(scene, plane, index), scene, scale) for index in indices] for column in scene.columns
    ]
    return Stack(
        plane.name,
        [column.title for column in scene.columns],
        frames,
        range(indices.start - part.start, indices.stop - part.start, indices.step),
        [scene.place(plane, index) for index in indices],
        indices.index(start) if start in indices else len(indices) // 2,
        share,
        indices.step * scene.grid.spacing[plane.axis],
        [column.hu for column in scene.columns],
        plane.marks,
        [_mark_of(mark, plane, scene.view, indices) for mark in scene.marks],
    )


def _mark_of(mark: Mark, plane: Plane, view: View, indices: range) -> dict[str, float]:
    """Return the box of a finding on a plane; it has a minimum size and is shown on at least the nearest slice."""
    left, top, width, height = (100 * part for part in plane.box(mark.low, mark.high, view))
    low, high = mark.low[plane.axis], mark.high[plane.axis]
    shown = [n for n, index in enumerate(indices) if low <= index <= high]
    nearest = min(range(len(indices)), key=lambda n: abs(indices[n] - (low + high) / 2))
    box_width, box_height = max(width, SMALLEST), max(height, SMALLEST)
    box = {
        "left": left - (box_width - width) / 2,
        "top": top - (box_height - height) / 2,
        "width": box_width,
        "height": box_height,
    }
    box = {side: round(value, 2) for side, value in box.items()}
    numbers = {"number": mark.number, "first": min(shown, default=nearest), "last": max(shown, default=nearest)}
    start = view[plane.axis].start
    return numbers | {"low": round(low - start, 2), "high": round(high - start, 2)} | box


def slice_indices(first: int, stop: int, start: int, most: int) -> range:
    """Return every n-th of the slices first ... stop - 1, at most ``most``, including ``start`` if it is in range."""
    step = max(1, -(-(stop - first) // most))
    return range(first + (start - first) % step, stop, step)


def frame(column: Column, plane: Plane, at: tuple[int, int, int], scene: Scene, scale: float) -> bytes:
    """Return one slice of a column as JPEG with the patient's sides marked; ``scale`` in pixels per mm."""
    width, height = (max(THINNEST, round(mm * scale)) for mm in plane.size(scene.view, scene.grid.spacing))
    (low, high), cut = column.limits, column.cut(plane, at, scene.view)
    shown = levels(cut) if column.hu else 255 * np.clip((cut.astype(np.float64) - low) / (high - low), 0, 1)
    grey = Image.fromarray(np.rint(shown).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    image = Image.fromarray(COLOURS[np.asarray(grey)]) if column.signed else grey
    marked = _marked(image, plane, scale, MARK if column.signed else 255 if column.hu else 230)
    buffer = io.BytesIO()
    marked.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


COLOURS = np.rint(255 * SIGNED(np.arange(256))[:, :3]).astype(np.uint8)


def _marked(image: Image.Image, plane: Plane, scale: float, ink: str | int) -> Image.Image:
    """Return the image with R, L, A, P, S or I at its edges, and a scale bar in the lower left corner."""
    mask, marks = _marks(image.mode, image.size, plane, scale, ink)
    return Image.composite(marks, image, mask)


@lru_cache(64)
def _marks(
    mode: str, size: tuple[int, int], plane: Plane, scale: float, ink: str | int
) -> tuple[Image.Image, Image.Image]:
    """Return the opacity and the picture of the marks: all frames of a column have the same, drawn once.

    They are drawn on black and on white, which shows how much of the background each pixel lets through.
    """
    on_black, on_white = Image.new(mode, size, 0), Image.new(mode, size, 255 if mode == "L" else (255, 255, 255))
    for image in (on_black, on_white):
        _draw_marks(image, plane, scale, ink)
    black, white = (np.asarray(image, np.float32).reshape(size[1], size[0], -1) for image in (on_black, on_white))
    through = (white - black).mean(-1, keepdims=True) / 255
    colour = np.where(through < 1, black / np.maximum(1 - through, 1e-3), 0)
    picture = np.rint(np.clip(colour, 0, 255)).astype(np.uint8)
    opacity = np.rint(255 * (1 - through[..., 0])).astype(np.uint8)
    return Image.fromarray(opacity), Image.fromarray(picture if mode == "RGB" else picture[..., 0])


def _draw_marks(image: Image.Image, plane: Plane, scale: float, ink: str | int) -> None:
    """Draw R, L, A, P, S or I at the edges, and a scale bar in the lower left corner."""
    draw, (width, height) = ImageDraw.Draw(image), image.size
    left, right, top, bottom = plane.marks
    places: dict[str, tuple[str, float, float]]
    places = {"lm": (left, 3, height / 2), "rm": (right, width - 3, height / 2)}
    places |= {"ma": (top, width / 2, 3), "ms": (bottom, width / 2, height - 4)}
    dark = (0, 0, 0) if image.mode == "RGB" else 0
    for anchor, (text, x, y) in places.items():
        draw.text((x, y), text, ink, FONT, anchor, stroke_width=2, stroke_fill=dark)
    length = bar_mm(width / scale)
    draw.line((6, height - 7, 6 + length * scale, height - 7), ink, 2)
    draw.text((6, height - 10), f"{length:g} mm", ink, FONT, "ls", stroke_width=2, stroke_fill=dark)


def _at(scene: Scene, plane: Plane, index: int) -> tuple[int, int, int]:
    at = list(scene.at)
    at[plane.axis] = index
    return at[0], at[1], at[2]

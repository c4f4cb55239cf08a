"""The slices of a case for the page's sliders: for each plane and column a small JPEG a slice, all to one scale.

Bounded bytes: every n-th slice, so many that all columns together have at most the frames of `MOST`, the widest
plane `WIDTH` pixels. A case takes about 2 MB whatever the size and number of its volumes.
Patient sides are drawn into the image, so that they stay with it when it is copied; findings lie over it. Frames of CT
hold levels (`medgen.reports.images.windows`), which the page turns into the greys of a window.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medgen.reports.images.case_images import Column, Mark, Scene
from medgen.reports.images.figures import MARK, SIGNED
from medgen.reports.images.slices import PLANES, Plane, View, bar_mm
from medgen.reports.images.windows import levels

MOST = {"axial": 144, "coronal": 96, "sagittal": 96}  # frames a plane, over all columns
WIDTH = 256  # pixels of the widest plane
TALLEST = 512  # pixels of the highest one; a whole-body scan is drawn smaller
THINNEST = 8  # pixels of a side of a frame
SMALLEST = 5.0  # percent of the image, of the box of a finding
QUALITY = 68
FONT = ImageFont.load_default(13)


@dataclass(frozen=True)
class Stack:
    """One plane of a scene.

    ``frames``: for each column a JPEG for each slice; ``places``: where each slice lies ("S 123 mm"), from feet
    to head, back to front or left to right; ``start``: the slice shown first; ``share``: the width as a part of
    that of the widest plane; ``step_mm``: from one slice shown to the next; ``hu``: which columns are CT; ``marks``:
    the boxes of findings, in percent of the image, with the first and the last slice that shows each.
    """

    plane: str
    titles: Sequence[str]
    frames: Sequence[Sequence[bytes]]
    places: Sequence[str]
    start: int
    share: float
    step_mm: float
    hu: Sequence[bool]
    marks: Sequence[dict[str, float]]

    @property
    def sliding(self) -> dict[str, Any]:
        """What the page's script needs: the places, and the frames in base64."""
        frames = [[base64.b64encode(frame).decode("ascii") for frame in column] for column in self.frames]
        return {"places": list(self.places), "frames": frames}

    @property
    def size(self) -> int:
        """Bytes of all frames."""
        return sum(len(frame) for column in self.frames for frame in column)


def stacks(scene: Scene) -> list[Stack]:
    """The three planes of a scene; the slice that shows most is among those chosen."""
    sizes = [plane.size(scene.view, scene.grid.spacing) for plane in PLANES]  # mm
    widest = max(width for width, _ in sizes)
    scale = min(WIDTH / widest, TALLEST / max(height for _, height in sizes))  # pixels a mm
    shares = [max(width / widest, THINNEST / WIDTH) for width, _ in sizes]
    return [_stack(scene, plane, scale, share) for plane, share in zip(PLANES, shares, strict=True)]


def _stack(scene: Scene, plane: Plane, scale: float, share: float) -> Stack:
    part, start = scene.view[plane.axis], scene.at[plane.axis]
    indices = chosen(part.start, part.stop, start, max(1, MOST[plane.name] // len(scene.columns)))
    frames = [
        [frame(column, plane, _at(scene, plane, index), scene, scale) for index in indices] for column in scene.columns
    ]
    return Stack(
        plane.name,
        [column.title for column in scene.columns],
        frames,
        [scene.place(plane, index) for index in indices],
        indices.index(start) if start in indices else len(indices) // 2,
        share,
        indices.step * scene.grid.spacing[plane.axis],
        [column.hu for column in scene.columns],
        [_mark_of(mark, plane, scene.view, indices) for mark in scene.marks],
    )


def _mark_of(mark: Mark, plane: Plane, view: View, indices: range) -> dict[str, float]:
    """The box of a finding on a plane's images, wide enough to be seen, at least on the slice nearest to it."""
    left, top, width, height = (100 * part for part in plane.box(mark.low, mark.high, view))
    low, high = mark.low[plane.axis], mark.high[plane.axis]
    shown = [n for n, index in enumerate(indices) if low <= index <= high]
    nearest = min(range(len(indices)), key=lambda n: abs(indices[n] - (low + high) / 2))
    wide, tall = max(width, SMALLEST), max(height, SMALLEST)
    box = {"left": left - (wide - width) / 2, "top": top - (tall - height) / 2, "width": wide, "height": tall}
    box = {side: round(value, 2) for side, value in box.items()}
    return {"number": mark.number, "first": min(shown, default=nearest), "last": max(shown, default=nearest)} | box


def chosen(first: int, stop: int, start: int, most: int) -> range:
    """Every n-th of the slices first ... stop - 1, at most ``most``, with ``start`` among them if it is there."""
    step = max(1, -(-(stop - first) // most))
    return range(first + (start - first) % step, stop, step)


def frame(column: Column, plane: Plane, at: tuple[int, int, int], scene: Scene, scale: float) -> bytes:
    """One slice of a column as JPEG with the patient's sides marked; ``scale`` in pixels a mm."""
    width, height = (max(THINNEST, round(mm * scale)) for mm in plane.size(scene.view, scene.grid.spacing))
    (low, high), cut = column.limits, column.cut(plane, at, scene.view)
    shown = levels(cut) if column.hu else 255 * np.clip((cut.astype(np.float64) - low) / (high - low), 0, 1)
    grey = Image.fromarray(np.rint(shown).astype(np.uint8)).resize((width, height), Image.Resampling.BILINEAR)
    image = Image.fromarray(COLOURS[np.asarray(grey)]) if column.signed else grey
    _mark(image, plane, scale, MARK if column.signed else 255 if column.hu else 230)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()


COLOURS = np.rint(255 * SIGNED(np.arange(256))[:, :3]).astype(np.uint8)


def _mark(image: Image.Image, plane: Plane, scale: float, ink: str | int) -> None:
    """R, L, A, P, S, I at the edges, and a scale bar in the lower left corner."""
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

"""HTML report on synthetic training cases for segmentation, and a gallery of the synthetic images."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medgen.data.body_mask import looks_like_hu
from medgen.evaluation.metrics.catalogue import metric
from medgen.evaluation.summary import Failure
from medgen.io.read import read_volume
from medgen.io.volume import Volume, to_canonical
from medgen.reports.gaps import Gaps
from medgen.reports.images.case_images import SOFT_TISSUE, apart
from medgen.reports.images.figures import INK, MARK
from medgen.reports.images.slices import PLANES
from medgen.reports.pages import write_page
from medgen.reports.tables import Cell, Head, Table, number, number_cell, signed, text_cell, value_cell
from medgen.segmentation.train import Example

SIDE = 2.2  # inches per panel side


def augmentation_report(
    arms: Sequence[Mapping[str, Any]],
    sets: Sequence[Mapping[str, Any]],
    failures: Sequence[Failure],
    settings: Mapping[str, Any],
    out_html: Path,
) -> Path:
    """Write the report as one self-contained HTML page.

    Args:
        arms: rows of ``summarise_arms``.
        sets: one entry per draw and generator with ``draw``, ``generator``, the counts of ``synthetic``, ``training``
            and ``tested`` images, ``memorisation``, ``picture`` (the JPEG of `gallery`, or None) and optionally
            ``distribution`` (``medgen.evaluation.distribution.sections``) and ``lacking`` (lines about failed parts).
        failures: cases that failed, listed at the top.
        settings: settings of the run, listed at the end.
        out_html: the file to write.

    Returns ``out_html``. Raises `InputError` if it cannot be written.
    """
    gaps = Gaps()
    gaps.lines += [line for found in sets for line in found.get("lacking") or []]
    return write_page(
        "augmentation.html.j2",
        out_html,
        title="Synthetic training cases for segmentation",
        now=datetime.now(UTC),
        arms=gaps.attempt("Dice", lambda: _arms(arms), None),
        sets=gaps.attempt("Synthetic images", lambda: _sets(sets), None),
        pictures=[(found.get("generator", ""), found["picture"]) for found in sets if found.get("picture")],
        failures=[asdict(failure) for failure in failures],
        settings=sorted((key, str(value)) for key, value in settings.items()),
        gaps=gaps.lines,
    )


TRAINED_ON = {
    "real": "real",
    "classical": "real, classical augmentation",
    "synthetic": "real and synthetic",
    "both": "real and synthetic, classical augmentation",
    "alone": "synthetic only, classical augmentation",
}


def _arms(arms: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of Dice and gain for each arm; gains are in Dice points (hundredths)."""
    rows, dice = [], metric("dice")
    for row in arms:
        gain, interval = row.get("gain"), row.get("gain_interval")
        against = signed(100 * gain, 1) if gain is not None else "–"
        runs = f"{row.get('draws')} × {row.get('seeds')}"
        cells = [
            text_cell(TRAINED_ON.get(row["arm"], row["arm"])),
            text_cell(row.get("generator")),
            text_cell(row.get("label")),
        ]
        cells += [
            Cell(runs),
            number_cell(row.get("cases"), 0),
            number_cell(row.get("dice"), 3),
            Cell(_interval_text(row.get("interval"), 3)),
        ]
        cells += [text_cell(row.get("against")), Cell(against, gain), Cell(_interval_text(interval, 1, 100, signed))]
        rows.append(cells)
    heads = [Head("trained on", words=True), Head("generator", words=True), Head("label", words=True)]
    heads += [Head("draws × seeds"), Head("cases"), Head("Dice", about=dice.about), Head("95 % interval")]
    heads += [Head("compared with", words=True), Head("gain (Dice points)"), Head("95 % interval")]
    note = (
        "Intervals: Student's t over the draws of training cases if there are at least three, otherwise bootstrap over "
        "the test patients."
    )
    about = [
        ("Dice", dice.about),
        ("gain", "difference in Dice from the arm it is compared with, in hundredths"),
    ]
    return Table(heads, rows, note, about)


def _interval_text(
    interval: Sequence[float] | None, digits: int, times: float = 1, form: Callable[..., str] = number
) -> str:
    return f"{form(times * interval[0], digits)} to {form(times * interval[1], digits)}" if interval else "–"


def _sets(sets: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table of image counts, distance to real images and copies for each draw and generator."""
    rows = []
    for row in sets:
        first = next(iter(row.get("distribution") or []), None)
        distance = None
        if first is not None:
            training = value_cell(first.get("source_value")).text
            distance = f"{first.get('metric')} {value_cell(first.get('value')).text}; training images: {training}"
        copies = row.get("memorisation") or {}
        finding = {True: "likely", False: "none found", None: "not tested"}[copies.get("flagged")]
        copies_cell = text_cell(f"{finding} ({copies.get('note', '')})", "bad" if copies.get("flagged") else "")
        counts = [number_cell(row.get(key), 0) for key in ("synthetic", "training")]
        rows.append(
            [text_cell(row.get("draw")), text_cell(row.get("generator")), *counts, text_cell(distance), copies_cell]
        )
    heads = [Head("draw"), Head("generator", words=True), Head("synthetic"), Head("training")]
    heads += [Head("distance from real test images", words=True), Head("copies of training images", words=True)]
    return Table(heads, rows)


def gallery(rows: Sequence[tuple[Example, Sequence[Example]]]) -> bytes:
    """Return a JPEG with one row per real image: the real image, then synthetic images made from it.

    Each image is shown without and with its labels.

    Args:
        rows: (real image, its synthetic images). A row shows the axial slice with the most added labels if synthetic
            images only add labels to the real label map, else the slice with the most real labels.
    """
    most = max((len(made) for _, made in rows), default=0)
    columns = 2 * (1 + most)
    figure = Figure(figsize=(SIDE * columns, SIDE * len(rows) + 0.3), dpi=80, facecolor="black")
    for r, (real, made) in enumerate(rows):
        pairs = [_read_example(example) for example in (real, *made)]
        position = _best_slice(pairs)
        for c, (image, labels) in enumerate(pairs):
            name = "real" if c == 0 else "synthetic"
            for k, overlay in enumerate((None, labels)):
                axes = figure.add_subplot(len(rows), columns, r * columns + 2 * c + k + 1)
                _panel(axes, image, overlay, position)
                if r == 0:
                    axes.set_title(name if overlay is None else f"{name}, labels", color=INK, size=9)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.3 / figure.get_figheight(), 0.02, 0.02)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_jpg(buffer, pil_kwargs={"quality": 88})
    return buffer.getvalue()


def _read_example(example: Example) -> tuple[Volume, np.ndarray]:
    return to_canonical(read_volume(example.image)), to_canonical(read_volume(example.labels)).data


def _best_slice(pairs: Sequence[tuple[Volume, np.ndarray]]) -> tuple[int, int, int]:
    """Return the index of the axial slice to show, see `gallery`."""
    first = pairs[0][1]
    added_mask = np.zeros(first.shape, bool)
    for _, labels in pairs[1:]:
        if labels.shape == first.shape:
            added_mask |= (labels > 0) & (first == 0)
    only_added = added_mask.sum() > 0 and all(
        np.array_equal(p[1][first > 0] > 0, first[first > 0] > 0) for p in pairs[1:]
    )
    weight = added_mask if only_added else first > 0
    return 0, 0, int(weight.sum((0, 1)).argmax())


def _panel(axes: Any, image: Volume, labels: np.ndarray | None, position: tuple[int, int, int]) -> None:
    plane = PLANES[0]
    view = (slice(None), slice(None), slice(None))
    limits = SOFT_TISSUE if looks_like_hu(image.data) else apart(*np.percentile(image.data, [0.5, 99.5]).tolist())
    mm = plane.size((slice(0, image.data.shape[0]), slice(0, image.data.shape[1]), slice(0, 1)), image.spacing)
    axes.imshow(
        plane.cut(image.data, position, view), cmap="gray", vmin=limits[0], vmax=limits[1], extent=(0, mm[0], mm[1], 0)
    )
    axes.set_aspect("equal" if 0.1 < mm[0] / mm[1] < 10 else "auto")
    if labels is not None:
        cut = plane.cut(labels, position, view)
        x, y = ((np.arange(n) + 0.5) * size / n for n, size in zip(cut.shape[::-1], mm, strict=True))
        for i, value in enumerate(v for v in np.unique(cut) if v):
            axes.contour(
                x, y, cut == value, [0.5], colors=[(MARK, "#e8564a", "#4ac0e8", "#7fd14a")[i % 4]], linewidths=1
            )
    axes.set_axis_off()

"""What synthetic cases gave a segmenter, as one self-contained HTML page, and the gallery of what was made."""

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
from medgen.reports.tables import Cell, Head, Table, figure, general, number, signed, words
from medgen.segmentation.train import Example

SIDE = 2.2  # inches of a panel


def augmentation_report(
    arms: Sequence[Mapping[str, Any]],
    sets: Sequence[Mapping[str, Any]],
    failures: Sequence[Failure],
    settings: Mapping[str, Any],
    out_html: Path,
) -> Path:
    """Write the page.

    Args:
        arms: rows of ``summarise_arms``.
        sets: for each draw and generator: ``draw``, ``generator``, counts of ``synthetic``, ``training`` and
            ``tested`` images, ``memorisation`` and maybe ``distribution``
            (``medgen.evaluation.distribution.sections``), ``picture``, the JPEG of `gallery` or None, and maybe
            ``lacking``: lines about what could not be made.
        settings: of the run, shown at the end.

    Returns ``out_html``. Raises `InputError` if it cannot be written.
    """
    gaps = Gaps()
    gaps.lines += [line for found in sets for line in found.get("lacking") or []]
    return write_page(
        "augmentation.html.j2",
        out_html,
        title="Synthetic cases for a segmenter",
        now=datetime.now(UTC),
        arms=gaps.attempt("Dice", lambda: _arms(arms), None),
        sets=gaps.attempt("The synthetic images", lambda: _sets(sets), None),
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
    "alone": "synthetic alone, classical augmentation",
}


def _arms(arms: Sequence[Mapping[str, Any]]) -> Table:
    """Dice of each arm and what it gains, in points of Dice (hundredths)."""
    rows, dice = [], metric("dice")
    for of in arms:
        gain, ends = of.get("gain"), of.get("gain_interval")
        against = signed(100 * gain, 1) if gain is not None else "–"
        runs = f"{of.get('draws')} × {of.get('seeds')}"
        cells = [words(TRAINED_ON.get(of["arm"], of["arm"])), words(of.get("generator")), words(of.get("label"))]
        cells += [
            Cell(runs),
            figure(of.get("cases"), 0),
            figure(of.get("dice"), 3),
            Cell(_range(of.get("interval"), 3)),
        ]
        cells += [words(of.get("against")), Cell(against, gain), Cell(_range(ends, 1, 100, signed))]
        rows.append(cells)
    heads = [Head("trained on", words=True), Head("generator", words=True), Head("label", words=True)]
    heads += [Head("draws × seeds"), Head("cases"), Head("Dice", about=dice.about), Head("95 % interval")]
    heads += [Head("against", words=True), Head("gain (points)"), Head("95 % interval")]
    note = (
        "From three draws of training cases on, intervals are Student's over the draws; below that bootstrapped over "
        "the test patients."
    )
    about = [
        ("Dice", dice.about),
        ("gain", "difference of Dice to the arm it is held against, in hundredths"),
    ]
    return Table(heads, rows, note, about)


def _range(ends: Sequence[float] | None, digits: int, times: float = 1, form: Callable[..., str] = number) -> str:
    return f"{form(times * ends[0], digits)} to {form(times * ends[1], digits)}" if ends else "–"


def _sets(sets: Sequence[Mapping[str, Any]]) -> Table:
    """Counts of each draw and generator, the distance to real images, and whether there are copies."""
    rows = []
    for of in sets:
        first = next(iter(of.get("distribution") or []), None)
        distance = None
        if first is not None:
            training = general(first.get("source_value")).text
            distance = f"{first.get('metric')} {general(first.get('value')).text}; of the training images {training}"
        copies = of.get("memorisation") or {}
        sign = {True: "likely", False: "no sign", None: "not tested"}[copies.get("flagged")]
        told = words(f"{sign} ({copies.get('note', '')})", "bad" if copies.get("flagged") else "")
        counts = [figure(of.get(key), 0) for key in ("synthetic", "training")]
        rows.append([words(of.get("draw")), words(of.get("generator")), *counts, words(distance), told])
    heads = [Head("draw"), Head("generator", words=True), Head("synthetic"), Head("training")]
    heads += [Head("distance from real test images", words=True), Head("copies of training images", words=True)]
    return Table(heads, rows)


def gallery(rows: Sequence[tuple[Example, Sequence[Example]]]) -> bytes:
    """A JPEG: in each row a real image, its labels, then synthetic images made of it, each without and with its labels.

    Args:
        rows: (real, synthetic ones), each drawn in the axial slice that holds most of the first label map's labels, or
            of what a synthetic one has more than it.
    """
    most = max((len(made) for _, made in rows), default=0)
    columns = 2 * (1 + most)
    figure = Figure(figsize=(SIDE * columns, SIDE * len(rows) + 0.3), dpi=80, facecolor="black")
    for r, (real, made) in enumerate(rows):
        pairs = [_read(example) for example in (real, *made)]
        at = _most(pairs)
        for c, (image, labels) in enumerate(pairs):
            name = "real" if c == 0 else "synthetic"
            for k, drawn in enumerate((None, labels)):
                axes = figure.add_subplot(len(rows), columns, r * columns + 2 * c + k + 1)
                _panel(axes, image, drawn, at)
                if r == 0:
                    axes.set_title(name if drawn is None else f"{name}, labels", color=INK, size=9)
    figure.subplots_adjust(0.005, 0.005, 0.995, 1 - 0.3 / figure.get_figheight(), 0.02, 0.02)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_jpg(buffer, pil_kwargs={"quality": 88})
    return buffer.getvalue()


def _read(example: Example) -> tuple[Volume, np.ndarray]:
    return to_canonical(read_volume(example.image)), to_canonical(read_volume(example.labels)).data


def _most(pairs: Sequence[tuple[Volume, np.ndarray]]) -> tuple[int, int, int]:
    """The slice that shows most of what is new, or of the labels where nothing is."""
    first = pairs[0][1]
    new = np.zeros(first.shape, bool)
    for _, labels in pairs[1:]:
        if labels.shape == first.shape:
            new |= (labels > 0) & (first == 0)
    added = new.sum() > 0 and all(np.array_equal(p[1][first > 0] > 0, first[first > 0] > 0) for p in pairs[1:])
    weight = new if added else first > 0
    return 0, 0, int(weight.sum((0, 1)).argmax())


def _panel(axes: Any, image: Volume, labels: np.ndarray | None, at: tuple[int, int, int]) -> None:
    plane = PLANES[0]
    view = (slice(None), slice(None), slice(None))
    limits = SOFT_TISSUE if looks_like_hu(image.data) else apart(*np.percentile(image.data, [0.5, 99.5]).tolist())
    mm = plane.size((slice(0, image.data.shape[0]), slice(0, image.data.shape[1]), slice(0, 1)), image.spacing)
    axes.imshow(
        plane.cut(image.data, at, view), cmap="gray", vmin=limits[0], vmax=limits[1], extent=(0, mm[0], mm[1], 0)
    )
    axes.set_aspect("equal" if 0.1 < mm[0] / mm[1] < 10 else "auto")
    if labels is not None:
        cut = plane.cut(labels, at, view)
        x, y = ((np.arange(n) + 0.5) * size / n for n, size in zip(cut.shape[::-1], mm, strict=True))
        for i, value in enumerate(v for v in np.unique(cut) if v):
            axes.contour(
                x, y, cut == value, [0.5], colors=[(MARK, "#e8564a", "#4ac0e8", "#7fd14a")[i % 4]], linewidths=1
            )
    axes.set_axis_off()

"""What is shown of a case: the volumes side by side on one grid, their windows, where to look, and what is marked.

CT is shown in the soft tissue window (W 400, L 40), other images from the truth's 1st percentile to the 99th of
its foreground.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from medgen.data.body_mask import foreground_threshold, looks_like_hu
from medgen.errors import InputError
from medgen.io.read import read_volume
from medgen.io.volume import GRID_TOLERANCE, Volume, same_geometry, to_canonical
from medgen.reports.images.slices import Plane, View, choose_slices, field_of_view, interest

SOFT_TISSUE = (-160.0, 240.0)  # W 400, L 40


@dataclass(frozen=True)
class Column:
    """One column of a picture: ``data`` (X, Y, Z), ``minus`` another if it is a signed difference.

    ``limits``: the values drawn black and white, or as the two colours of a difference. ``hu``: CT, in any window.
    """

    title: str
    data: np.ndarray
    limits: tuple[float, float]
    minus: np.ndarray | None = None
    hu: bool = False

    @property
    def signed(self) -> bool:
        """Whether this is a difference."""
        return self.minus is not None

    def cut(self, plane: Plane, at: tuple[int, int, int], view: View) -> np.ndarray:
        """The slice as an image (rows, columns) float32, first row on top."""
        image = plane.cut(self.data, at, view).astype(np.float32)
        with np.errstate(over="ignore"):  # of values near the ends of float32: infinite, shown as the end of the scale
            return image if self.minus is None else image - plane.cut(self.minus, at, view)


@dataclass(frozen=True)
class Mark:
    """A box to draw: its ``number`` among the findings, ``low`` and ``high`` in voxels, whose middles are whole."""

    number: int
    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """Columns on one grid in RAS order; ``at``: the slices (x, y, z) that show most; ``unit``: HU or empty."""

    columns: Sequence[Column]
    grid: Volume
    at: tuple[int, int, int]
    unit: str
    view: View
    marks: Sequence[Mark] = ()

    @property
    def window(self) -> str:
        """The window of the grey columns and the range of the coloured one, in words."""
        low, high = next(part.limits for part in self.columns if part.title != OWN_WINDOW and not part.signed)
        text = f"W {high - low:g} L {(high + low) / 2:g} HU" if self.unit else f"{low:.4g} to {high:.4g}"
        if self.limit is None:
            return f"Window {text}."
        return f"Window {text}. Difference shown from −{self.limit} (blue) to +{self.limit} (orange)."

    @property
    def limit(self) -> str | None:
        """The difference that has the strongest colour, with its unit; None if no difference is shown."""
        if not self.columns[-1].signed:
            return None
        return f"{self.columns[-1].limits[1]:.4g} {self.unit}".strip()

    def place(self, plane: Plane, index: int) -> str:
        """Where slice ``index`` of a plane lies in the patient, such as "S 123 mm"."""
        voxel = [*self.at, 1.0]
        voxel[plane.axis] = index
        positive, negative = (("R", "L"), ("A", "P"), ("S", "I"))[plane.axis]
        mm = float((self.grid.affine @ voxel)[plane.axis])
        return f"{positive if mm >= 0 else negative} {abs(mm):.0f} mm"


OWN_WINDOW = "input (own window)"


def case_scene(
    files: Mapping[str, Path],
    predictions: Mapping[str, Path] | None = None,
    places: Mapping[int, Mapping[str, Sequence[float]]] | None = None,
    series: str | None = None,
) -> Scene:
    """Input (if there is a ``source``), output, truth and output − truth of one evaluated case.

    Args:
        files: paths by role: prediction, and maybe reference, source and labels; read here, so that one case at a
            time is in memory. Without a reference the difference is from the source; without either there is none.
        predictions: outputs of several systems by name, shown side by side in place of ``prediction``.
        places: of findings by their number, {"low", "high"} in mm in the scanner (RAS); they are marked, and the
            slices are those that show most of the first.
        series: which one of a source that is a folder of several DICOM series, as in ``read_volume``.

    Raises `InputError` if a file cannot be read or the grids differ by more than an evaluation allows.
    """
    outputs = {"output": files["prediction"]} if predictions is None else predictions
    known = _known(files, series)
    truth, source = known.get("reference"), known.get("source")
    base = truth or source
    made = dict(zip(outputs, _read(list(outputs.values()), base), strict=True))
    output = next(iter(made.values()))
    window, unit = _window((truth or output).data)
    limit = (window[1] - window[0]) / (4 if truth else 2)
    columns = [_input_column(source, window, unit)] if source else []
    columns += [Column(name, volume.data, window, hu=bool(unit)) for name, volume in made.items()]
    columns += [Column("truth", truth.data, window, hu=bool(unit))] if truth else []
    if base:
        against = f"− {'truth' if truth else 'input'}"
        columns += [Column(f"{name} {against}", v.data, (-limit, limit), base.data) for name, v in made.items()]
    grid, labels = base or output, known["labels"].data if "labels" in known else None
    other = source if truth and source else output
    marks = _marks(places or {}, grid)
    if marks:
        at = _within(marks[0], np.abs(interest(grid.data, other.data, None)))
    else:
        at = choose_slices(interest(grid.data, other.data, labels))
    return Scene(columns, grid, at, unit, _around(field_of_view(grid.data, grid.spacing), at), marks)


def _marks(places: Mapping[int, Mapping[str, Sequence[float]]], grid: Volume) -> list[Mark]:
    """The places in voxels of the grid, without what lies outside of it."""
    marks, last = [], np.array(grid.data.shape) - 0.5
    for number, place in places.items():
        corners = np.array([*product(*zip(place["low"], place["high"], strict=True))], float)
        voxels = np.linalg.solve(grid.affine[:3, :3], (corners - grid.affine[:3, 3]).T)
        low, high = np.maximum(voxels.min(1), -0.5), np.minimum(voxels.max(1), last)
        if (low < high).all():
            marks.append(Mark(number, tuple(low.tolist()), tuple(high.tolist())))
    return marks


def _within(mark: Mark, weight: np.ndarray) -> tuple[int, int, int]:
    """The slices through the mark that hold most of ``weight``; through its middle where that is 0."""
    first = [int(np.ceil(end)) for end in mark.low]
    box = tuple(slice(a, max(a, int(np.floor(b))) + 1) for a, b in zip(first, mark.high, strict=True))
    x, y, z = (min(a + at, n - 1) for a, at, n in zip(first, choose_slices(weight[box]), weight.shape, strict=True))
    return x, y, z


def _around(view: View, at: tuple[int, int, int]) -> View:
    """The view, made larger where the slices shown lie beyond it."""
    x, y, z = (slice(min(part.start, i), max(part.stop, i + 1)) for part, i in zip(view, at, strict=True))
    return x, y, z


def _known(files: Mapping[str, Path], series: str | None) -> dict[str, Volume]:
    """Reference, source and labels, those that there are."""
    roles = [role for role in ("reference", "source", "labels") if role in files]
    chosen = [series if role == "source" else None for role in roles]
    return dict(zip(roles, _read([files[role] for role in roles], chosen=chosen), strict=True))


def conversion_scene(
    input_: Path,
    output: Path,
    places: Mapping[int, Mapping[str, Sequence[float]]] | None = None,
    series: str | None = None,
) -> Scene:
    """Input, output and output − input without truth, at the first finding or where they differ most."""
    return case_scene({"source": input_, "prediction": output}, places=places, series=series)


def volume_scene(path: Path) -> Scene:
    """One volume by itself, its middle slices."""
    (volume,) = _read([path])
    window, unit = _window(volume.data)
    view = field_of_view(volume.data, volume.spacing)
    x, y, z = ((part.start + part.stop) // 2 for part in view)
    return Scene([Column(Path(path).name, volume.data, window)], volume, (x, y, z), unit, view)


def _read(
    paths: Sequence[Path], like: Volume | None = None, chosen: Sequence[str | None] | None = None
) -> list[Volume]:
    """Volumes in closest RAS order, refused unless on one grid, within the tolerance of an evaluation."""
    series = chosen or [None] * len(paths)
    volumes = [to_canonical(read_volume(path, series=one)) for path, one in zip(paths, series, strict=True)]
    if not volumes:
        return []
    first = like or volumes[0]
    tolerance = GRID_TOLERANCE * min(first.spacing)
    for path, volume in zip(paths, volumes, strict=True):
        if not same_geometry(first.geometry, volume.geometry, tolerance):
            raise InputError(
                "report-grid-differs",
                f"{path} and {'the case it belongs to' if like else paths[0]} are not on one grid",
            )
    return volumes


def _window(data: np.ndarray) -> tuple[tuple[float, float], str]:
    """Values shown black and white, and their unit: HU, or none."""
    if looks_like_hu(data):
        return SOFT_TISSUE, "HU"
    foreground = data[data > foreground_threshold(data)]
    low = float(np.percentile(data, 1))
    return apart(low, float(np.percentile(foreground, 99)) if foreground.size else low), ""


def apart(low: float, high: float) -> tuple[float, float]:
    """The values drawn black and white, apart also where an image is all one value, or nearly so."""
    least = 1e-6 * max(abs(low), abs(high))
    return (low, high) if high - low > least else (low, low + max(1.0, least))


def _input_column(source: Volume, window: tuple[float, float], unit: str) -> Column:
    """The input in the truth's window; in its own, and said so, where that would be all black or white."""
    own, own_unit = _window(source.data)
    alike = own_unit == unit and 0.5 < (own[1] - own[0]) / (window[1] - window[0]) < 2
    if alike:
        return Column("input", source.data, window, hu=bool(unit))
    return Column(OWN_WINDOW, source.data, own, hu=bool(own_unit))

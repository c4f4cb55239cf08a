"""Choose what is shown of a case: volumes on one grid, their intensity windows, slices and marked findings.

CT is shown in the soft tissue window (W 400, L 40), other images from the 1st percentile of the truth to the 99th
percentile of its foreground.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from medgen.data.body_mask import foreground_threshold, looks_like_hu
from medgen.data.grid import resample_like
from medgen.errors import InputError
from medgen.io.grids import on_whole_grid
from medgen.io.read import read_volume
from medgen.io.volume import GRID_TOLERANCE, Volume, same_geometry, to_canonical
from medgen.reports.images.slices import Plane, View, choose_slices, field_of_view, interest

SOFT_TISSUE = (-160.0, 240.0)  # W 400, L 40


@dataclass(frozen=True)
class Column:
    """One column of a picture.

    Attributes:
        title: shown above the column.
        data: volume (X, Y, Z).
        limits: the values drawn black and white or, for a difference, in the two end colours.
        minus: volume to subtract; None: the column is not a difference.
        hu: whether it is CT, so that its window can be switched.
    """

    title: str
    data: np.ndarray
    limits: tuple[float, float]
    minus: np.ndarray | None = None
    hu: bool = False

    @property
    def signed(self) -> bool:
        """Whether this is a signed difference."""
        return self.minus is not None

    def cut(self, plane: Plane, at: tuple[int, int, int], view: View) -> np.ndarray:
        """Return the slice as an image (rows, columns) float32, first row on top."""
        image = plane.cut(self.data, at, view).astype(np.float32)
        with np.errstate(over="ignore"):  # an overflow becomes infinite and is shown in the end colour
            return image if self.minus is None else image - plane.cut(self.minus, at, view)


@dataclass(frozen=True)
class Mark:
    """A box to draw: ``number`` of its finding, ``low`` and ``high`` corner in voxels (integers are voxel centres)."""

    number: int
    low: tuple[float, float, float]
    high: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """Columns on one grid in RAS order.

    ``at``: indices (x, y, z) of the slices shown first. ``unit``: HU or empty. ``view``: the region shown.
    """

    columns: Sequence[Column]
    grid: Volume
    at: tuple[int, int, int]
    unit: str
    view: View
    marks: Sequence[Mark] = ()

    @property
    def window(self) -> str:
        """Text about the window of the grey columns and the range of the difference."""
        low, high = next(part.limits for part in self.columns if part.title != OWN_WINDOW and not part.signed)
        text = f"W {high - low:g} L {(high + low) / 2:g} HU" if self.unit else f"{low:.4g} to {high:.4g}"
        if self.limit is None:
            return f"Window {text}."
        return f"Window {text}. Difference shown from −{self.limit} (blue) to +{self.limit} (orange)."

    @property
    def limit(self) -> str | None:
        """The difference drawn in the end colours, with its unit; None if no difference is shown."""
        if not self.columns[-1].signed:
            return None
        return f"{self.columns[-1].limits[1]:.4g} {self.unit}".strip()

    def place(self, plane: Plane, index: int) -> str:
        """Return the position of slice ``index`` of a plane in the patient, such as "S 123 mm"."""
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
    """Return the scene of an evaluated case: input (if there is a ``source``), output, truth and output − truth.

    Args:
        files: paths by role: prediction, and optionally reference, source and labels. They are read here, so that only
            one case is in memory. Without a reference, the difference is output − source; without either, there is
            no difference.
        predictions: outputs of several systems by name, shown side by side instead of ``prediction``.
        places: {finding number: {"low", "high"} corners in scanner mm (RAS)}; they are marked, and the slices shown
            first are those with the largest difference in the first mark.
        series: the DICOM series to read if the source is a folder with several series, as in ``read_volume``.

    Raises `InputError` if a file cannot be read or the grids differ by more than an evaluation allows.
    """
    outputs = {"output": files["prediction"]} if predictions is None else predictions
    known = _read_inputs(files, series)
    if predictions is None and set(known) == {"source"}:
        known["source"] = _interpolated(known["source"], files["prediction"])
    truth, source = known.get("reference"), known.get("source")
    base = truth or source
    outputs_read = dict(zip(outputs, _read(list(outputs.values()), base), strict=True))
    output = next(iter(outputs_read.values()))
    window, unit = _window((truth or output).data)
    limit = (window[1] - window[0]) / (4 if truth else 2)
    columns = [_input_column(source, window, unit)] if source else []
    columns += [Column(name, volume.data, window, hu=bool(unit)) for name, volume in outputs_read.items()]
    columns += [Column("truth", truth.data, window, hu=bool(unit))] if truth else []
    if base:
        difference_title = f"− {'truth' if truth else 'input'}"
        columns += [
            Column(f"{name} {difference_title}", v.data, (-limit, limit), base.data) for name, v in outputs_read.items()
        ]
    grid, labels = base or output, known["labels"].data if "labels" in known else None
    other = source if truth and source else output
    marks = _marks(places or {}, grid)
    if marks:
        at = _within(marks[0], np.abs(interest(grid.data, other.data, None)))
    else:
        at = choose_slices(interest(grid.data, other.data, labels))
    return Scene(columns, grid, at, unit, _including(field_of_view(grid.data, grid.spacing), at), marks)


def _interpolated(source: Volume, output: Path) -> Volume:
    """The source on the output's grid, if that has the same field of view with other voxels; else as it is."""
    volume = to_canonical(read_volume(output))
    tolerance = 1.01 * max(*source.spacing, *volume.spacing) / 2
    if same_geometry(source.geometry, volume.geometry) or source.data.shape == volume.data.shape:
        return source
    ends = [v.affine @ _outer_corners(v.data.shape) for v in (source, volume)]
    if np.linalg.norm(ends[0] - ends[1], axis=0).max() > tolerance:
        return source
    return volume.replaced(resample_like(source, volume))


def _outer_corners(shape: Sequence[int]) -> np.ndarray:
    """Homogeneous voxel coordinates (4, 8) of the outer corners of a grid."""
    return np.array([(*corner, 1) for corner in product(*((-0.5, n - 0.5) for n in shape))]).T


def _marks(places: Mapping[int, Mapping[str, Sequence[float]]], grid: Volume) -> list[Mark]:
    """Convert the places to voxels of the grid, clipped to it; places outside the grid are left out."""
    marks, last = [], np.array(grid.data.shape) - 0.5
    for number, place in places.items():
        corners = np.array([*product(*zip(place["low"], place["high"], strict=True))], float)
        voxels = np.linalg.solve(grid.affine[:3, :3], (corners - grid.affine[:3, 3]).T)
        low, high = np.maximum(voxels.min(1), -0.5), np.minimum(voxels.max(1), last)
        if (low < high).all():
            marks.append(Mark(number, tuple(low.tolist()), tuple(high.tolist())))
    return marks


def _within(mark: Mark, weight: np.ndarray) -> tuple[int, int, int]:
    """Return the slices through the mark with the most ``weight``, or through its centre if that is 0."""
    first = [int(np.ceil(end)) for end in mark.low]
    box = tuple(slice(a, max(a, int(np.floor(b))) + 1) for a, b in zip(first, mark.high, strict=True))
    x, y, z = (min(a + at, n - 1) for a, at, n in zip(first, choose_slices(weight[box]), weight.shape, strict=True))
    return x, y, z


def _including(view: View, at: tuple[int, int, int]) -> View:
    """Return the view, extended to include the slices ``at``."""
    x, y, z = (slice(min(part.start, i), max(part.stop, i + 1)) for part, i in zip(view, at, strict=True))
    return x, y, z


def _read_inputs(files: Mapping[str, Path], series: str | None) -> dict[str, Volume]:
    """Read those of reference, source and labels that are given."""
    roles = [role for role in ("reference", "source", "labels") if role in files]
    chosen = [series if role == "source" else None for role in roles]
    return dict(zip(roles, _read([files[role] for role in roles], chosen=chosen), strict=True))


def conversion_scene(
    input_: Path,
    output: Path,
    places: Mapping[int, Mapping[str, Sequence[float]]] | None = None,
    series: str | None = None,
) -> Scene:
    """Return the scene of a conversion without truth: input, output, output − input.

    It starts at the first finding, or where input and output differ most. An output of the input's field of view with
    other voxels (inference.grid) is shown beside the input interpolated to its grid.
    """
    return case_scene({"source": input_, "prediction": output}, places=places, series=series)


def volume_scene(path: Path) -> Scene:
    """Return the scene of a single volume at its middle slices."""
    (volume,) = _read([path])
    window, unit = _window(volume.data)
    view = field_of_view(volume.data, volume.spacing)
    x, y, z = ((part.start + part.stop) // 2 for part in view)
    return Scene([Column(Path(path).name, volume.data, window)], volume, (x, y, z), unit, view)


def _read(
    paths: Sequence[Path], like: Volume | None = None, chosen: Sequence[str | None] | None = None
) -> list[Volume]:
    """Read volumes in closest RAS order; raise InputError if their grids differ by more than an evaluation allows."""
    series = chosen or [None] * len(paths)
    stored = [read_volume(path, series=selected) for path, selected in zip(paths, series, strict=True)]
    if not stored:
        return []
    first = like or to_canonical(stored[0])
    volumes = [to_canonical(on_whole_grid(volume, first)) for volume in stored]
    tolerance = GRID_TOLERANCE * min(first.spacing)
    for path, volume in zip(paths, volumes, strict=True):
        if not same_geometry(first.geometry, volume.geometry, tolerance):
            raise InputError(
                "report-grid-differs",
                f"{path} and {'the other images of its case' if like else paths[0]} are on different grids; "
                "resample them onto one",
            )
    return volumes


def _window(data: np.ndarray) -> tuple[tuple[float, float], str]:
    """Return the values drawn black and white, and their unit: HU or empty."""
    if looks_like_hu(data):
        return SOFT_TISSUE, "HU"
    foreground = data[data > foreground_threshold(data)]
    low = float(np.percentile(data, 1))
    return apart(low, float(np.percentile(foreground, 99)) if foreground.size else low), ""


def apart(low: float, high: float) -> tuple[float, float]:
    """Return limits that differ from each other, also for an image with a (nearly) constant value."""
    least = 1e-6 * max(abs(low), abs(high))
    return (low, high) if high - low > least else (low, low + max(1.0, least))


def _input_column(source: Volume, window: tuple[float, float], unit: str) -> Column:
    """Return the input column in the truth's window, or in its own window (see its title) if the scales differ."""
    own_window, own_unit = _window(source.data)
    same_scale = own_unit == unit and 0.5 < (own_window[1] - own_window[0]) / (window[1] - window[0]) < 2
    if same_scale:
        return Column("input", source.data, window, hu=bool(unit))
    return Column(OWN_WINDOW, source.data, own_window, hu=bool(own_unit))

"""Read RT structure sets (PS3.3 A.19): contours in the planes of an image → masks on its grid."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from medgen.errors import InputError
from medgen.io.dicom.structures.grid import ImageGrid, Structure, check_numbers, skipped, text_of
from medgen.io.names import one_line

OFF_PLANE = 0.1  # largest distance of a contour from the plane of a slice, as a fraction of the distance of slices
BEYOND = 1.0  # voxels that a contour, such as that of the body, may reach beyond the border of the image
Drawn = tuple[np.ndarray, np.ndarray]  # a contour's points (N, 2) in voxels, and the voxels (X, Y) inside
XOR = "CLOSEDPLANAR_XOR"  # what lies inside an odd number of contours
CLOSED = ("CLOSED_PLANAR", XOR)


def roi_names(ds: Dataset, path: Path) -> list[str]:
    """Names of the structures, in the order of the file. Raises InputError: two have one name or one number."""
    items = ds.get("StructureSetROISequence") or ()
    names = [text_of(item, "ROIName") for item in items]
    check_numbers([int(item.ROINumber) for item in items], path)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError("structures-name-twice", f"{path} has two structures named {one_line(twice) or '(no name)'}")
    return names


def roi_frames(ds: Dataset, names: Sequence[str]) -> list[str]:
    """The frames of reference of the named structures; that of the whole set, where a structure states none."""
    whole = {str(item.get("FrameOfReferenceUID") or "") for item in ds.get("ReferencedFrameOfReferenceSequence") or ()}
    usual = next(iter(whole)) if len(whole) == 1 else ""
    return [
        str(item.get("ReferencedFrameOfReferenceUID") or usual)
        for item in ds.get("StructureSetROISequence") or ()
        if text_of(item, "ROIName") in names
    ]


def roi_masks(
    ds: Dataset, grid: ImageGrid, names: Sequence[str], path: Path, warnings: list[str]
) -> Iterator[Structure]:
    """The masks of the named structures that have closed contours.

    A voxel belongs to a structure if its centre lies inside a contour. A contour inside another one of the same slice
    is a hole; contours that overlap in part are joined, or if their type says so (``XOR``) exclude each other.

    Args:
        warnings: gets a sentence for each structure without closed contours, each hole, and gaps between slices.

    Raises:
        InputError: a contour lies between two slices, outside the image, or not in one plane, or names an image in
            another place, or a structure is drawn in every second slice only.
    """
    numbers = {int(item.ROINumber): text_of(item, "ROIName") for item in ds.get("StructureSetROISequence") or ()}
    drawn: dict[str, list[Any]] = {}
    strange = 0
    for item in ds.get("ROIContourSequence") or ():  # some programs write an item for each contour
        name = numbers.get(int(item.ReferencedROINumber))
        strange += name is None
        drawn.setdefault(name or "", []).extend(item.get("ContourSequence") or ())
    if strange:
        warnings.append(f"{path.name} has contours of {strange} structures that it does not list; they are left out")
    for name in names:
        closed = [c for c in drawn.get(name, ()) if str(c.get("ContourGeometricType")) in CLOSED]
        if len(closed) < len(drawn.get(name, ())):
            warnings.append(f"{one_line(name)}: points and open lines have no volume and are left out")
        if not closed:
            warnings.append(f"{one_line(name)} has no closed contour, so no voxel of the label map")
            continue
        named = [r.get("ReferencedSOPInstanceUID") for c in closed for r in c.get("ContourImageSequence") or ()]
        if named and not set(map(str, named)) & {uid for uid, _ in grid.images}:
            warnings.append(
                f"{one_line(name)} was drawn on images of another series; where its slices lie closer, those between "
                "the drawn ones stay empty, so give the series on which it was drawn"
            )
        mask = _mask(closed, grid, name, path, warnings)
        if not mask.any():
            warnings.append(f"{one_line(name)} has no voxel: its contours are smaller than the voxels of the image")
        yield name, mask


def _mask(contours: Sequence[Any], grid: ImageGrid, name: str, path: Path, warnings: list[str]) -> np.ndarray:
    by_slice: dict[int, list[Drawn]] = {}
    for number, contour in enumerate(contours, 1):
        what = f"contour {number} of {one_line(name)}"
        k, points = _in_slice(contour, grid, path, what)
        points = _traced_once(points)
        by_slice.setdefault(k, []).append((points, polygon_mask(points, grid.geometry.shape[:2])))
    mask = np.zeros(grid.geometry.shape, bool)
    exclusive = any(str(contour.ContourGeometricType) == XOR for contour in contours)
    if twice := sum(winds_twice(points, grid.geometry.shape[:2]) for drawn in by_slice.values() for points, _ in drawn):
        warnings.append(
            f"{one_line(name)}: {twice} contours go round a part of the structure twice; it is taken as a hole"
        )
    holes = between = 0
    for k, contours_of_slice in by_slice.items():
        if exclusive:
            mask[:, :, k] = np.logical_xor.reduce([plane for _, plane in contours_of_slice])
            continue
        mask[:, :, k], found, among = _joined(contours_of_slice)
        holes, between = holes + found, between + among
    if between:
        warnings.append(
            f"{one_line(name)}: {between} contours lie inside several others together and are taken as part of the "
            "structure; check that they are no holes"
        )
    if holes:
        warnings.append(f"{one_line(name)}: {holes} contours lie inside others and are taken as holes")
    if every := skipped(by_slice):
        raise InputError(
            "structures-slices-skipped",
            f"{path}: {one_line(name)} is drawn in every {every}. slice only, so most slices would lack it; "
            "interpolate the contours in the program that drew them",
        )
    if gaps := int(np.sum(np.diff(sorted(by_slice)) > 1)):
        warnings.append(f"{one_line(name)}: {gaps} gaps between the slices in which it is drawn stay empty")
    return mask


def _in_slice(contour: Any, grid: ImageGrid, path: Path, what: str) -> tuple[int, np.ndarray]:
    """Slice of a contour, and its points (N, 2) in voxels along the first two axes. Raises InputError."""
    values = np.array([float(v) for v in contour.get("ContourData") or ()])
    if values.size < 9 or values.size % 3 or not np.isfinite(values).all():
        raise InputError(
            "structures-contour-damaged",
            f"{path}: {what} has no three points in 3D; draw it again, or choose the other structures with --names",
        )
    # Points on voxel centres, as from masks, must not fall on either side of them by rounding.
    indices = np.round(grid.indices(values.reshape(-1, 3)), 2)
    depth = indices[:, 2]
    k = round(float(depth.mean()))
    off = float(np.abs(depth - k).max())
    if off > OFF_PLANE:
        mm = off * grid.geometry.spacing[2]
        raise InputError(
            "structures-off-plane",
            f"{path}: {what} lies {mm:.3g} mm beside the slices of {grid.folder}; it was drawn on another series or "
            "orientation, so give that one",
        )
    x, y, z = grid.geometry.shape
    low, high = indices[:, :2].min(axis=0), indices[:, :2].max(axis=0)
    if not 0 <= k < z or (low < -0.5 - BEYOND).any() or (high > np.array([x, y]) - 0.5 + BEYOND).any():
        raise InputError(
            "structures-outside", f"{path}: {what} reaches beyond {grid.folder}; give the series on which it was drawn"
        )
    references = contour.get("ContourImageSequence") or ()
    grid.check_slice(k, references, path, what)
    return k, indices[:, :2]


def polygon_mask(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Voxels (X, Y) whose centre is inside a closed polygon, by the even-odd rule.

    Two edges on one line cancel exactly, so that a hole that is joined to the border by a cut there and back (keyhole)
    leaves no trace.

    Args:
        points: (N, 2) in voxels along the first two axes; voxel centres are whole numbers.
    """
    return (_crossings(points, shape, signed=False) % 2).astype(bool)


def winds_twice(points: np.ndarray, shape: tuple[int, ...]) -> bool:
    """Whether a polygon encloses voxels that are outside by the even-odd rule, but inside by the winding number."""
    even = _crossings(points, shape, signed=False) % 2 == 0
    return bool((even & (_crossings(points, shape, signed=True) != 0)).any())


def _crossings(points: np.ndarray, shape: tuple[int, ...], *, signed: bool) -> np.ndarray:
    """Edges of a polygon on one side of each voxel centre (X, Y); ``signed``: those that go down less those up."""
    starts, ends = points, np.roll(points, -1, axis=0)
    crossed = np.zeros((shape[0] + 1, shape[1]), np.int32)
    for start, end in zip(starts, ends, strict=True):
        (x0, y0), (x1, y1) = sorted((tuple(start), tuple(end)), key=lambda point: (point[1], point[0]))
        rows = np.arange(max(math.ceil(y0), 0), min(math.ceil(y1), shape[1]))  # y0 <= row < y1
        if rows.size:
            at = np.ceil(x0 + (rows - y0) * ((x1 - x0) / (y1 - y0))).astype(int)
            np.add.at(crossed, (np.clip(at, 0, shape[0]), rows), -1 if signed and end[1] < start[1] else 1)
    return np.cumsum(crossed[:-1], axis=0)


def _traced_once(points: np.ndarray) -> np.ndarray:
    """A contour without repeated neighbours; of one that was traced several times, the first time."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    count = len(points)
    for length in range(3, count // 2 + 1):
        if count % length == 0 and (points == np.tile(points[:length], (count // length, 1))).all():
            return points[:length]
    return points


def _joined(drawn: Sequence[Drawn]) -> tuple[np.ndarray, int, int]:
    """Join the contours of one slice, from large to small.

    Returns:
        The mask, the number of holes, and how many contours lie inside several others together, but in none of them.
    """
    result, holes, between = np.zeros_like(drawn[0][1]), 0, 0
    kept: list[Drawn] = []
    for points, plane in sorted(drawn, key=lambda one: _area(one[0]), reverse=True):
        if any(_same(points, other) for other, _ in kept):
            continue  # the same contour twice
        around = sum(_contains(other, points) for other, _ in kept)
        if around % 2:  # inside one: a hole; inside two: an island in the hole
            result &= ~plane
            holes += 1
        else:
            between += bool(not around and plane.any() and not (plane & ~result).any())
            result |= plane
        kept.append((points, plane))
    return result, holes, between


def _area(points: np.ndarray) -> float:
    (x, y), (u, v) = points.T, np.roll(points, -1, axis=0).T
    return abs(float(np.sum(x * v - u * y))) / 2


def _same(points: np.ndarray, others: np.ndarray) -> bool:
    """Whether two contours have the same points, in any order."""
    if points.shape != others.shape:
        return False
    first, second = (each[np.lexsort(each.T)] for each in (points, others))
    return bool(np.array_equal(first, second))


def _contains(polygon: np.ndarray, points: np.ndarray) -> bool:
    """Whether all points lie inside a polygon, by the even-odd rule; points on its border may count as inside."""
    starts, ends = polygon, np.roll(polygon, -1, axis=0)
    x, y = points[:, :1], points[:, 1:]
    crosses = (starts[:, 1] > y) != (ends[:, 1] > y)
    rise = np.where(ends[:, 1] == starts[:, 1], 1, ends[:, 1] - starts[:, 1])
    left = x < starts[:, 0] + (y - starts[:, 1]) / rise * (ends[:, 0] - starts[:, 0])
    inside = (crosses & left).sum(axis=1) % 2 == 1
    return bool(inside.all())

"""Read DICOM segmentations (PS3.3 A.51): frames of binary segments → masks on the grid of an image."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset

from medgen.errors import InputError
from medgen.io.dicom.structures.grid import ImageGrid, Structure, check_numbers, skipped, text_of
from medgen.io.names import one_line

OFF_GRID = 0.05  # largest distance of a pixel from a voxel centre of the image, as a fraction of a voxel


def segment_names(ds: Dataset, path: Path) -> list[str]:
    """Names of the segments, in the order of the file. Raises InputError: two have one name."""
    names = [text_of(item, "SegmentLabel") for item in ds.get("SegmentSequence") or ()]
    check_numbers([int(item.SegmentNumber) for item in ds.get("SegmentSequence") or ()], path)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError("structures-name-twice", f"{path} has two segments named {one_line(twice) or '(no name)'}")
    return names


def segment_masks(
    ds: Dataset, grid: ImageGrid, names: Sequence[str], path: Path, warnings: list[str]
) -> Iterator[Structure]:
    """The masks of the named segments.

    Args:
        warnings: gets a sentence for each segment without voxels, and for frames of unknown segments.

    Raises:
        InputError: not binary; pixels that are not voxels of the image (another spacing, orientation or position);
            frames farther apart than the slices; or frames that name an image in another place.
    """
    if str(ds.get("SegmentationType")) != "BINARY":
        raise InputError(
            "structures-not-binary",
            f"{path} is a segmentation of the type {ds.get('SegmentationType')}, and only BINARY ones have one meaning "
            "for each voxel; export it as BINARY",
        )
    try:
        pixels = np.asarray(ds.pixel_array)
    except Exception as error:  # pydicom raises arbitrary exceptions on damaged files
        raise InputError("dicom-unreadable", f"{path}: its pixels cannot be read ({error}); copy it again") from error
    frames = pixels.reshape(-1, int(ds.Rows), int(ds.Columns)).astype(bool)
    groups = list(ds.get("PerFrameFunctionalGroupsSequence") or ())
    if len(groups) != len(frames):
        raise InputError("structures-frames-differ", f"{path} describes {len(groups)} of its {len(frames)} frames")
    shared = (ds.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    numbers = {int(s.SegmentNumber): text_of(s, "SegmentLabel") for s in ds.SegmentSequence}
    of_name: dict[str | None, list[int]] = {}
    for n, group in enumerate(groups):
        item = _group(group, shared, "SegmentIdentificationSequence", path, n)
        of_name.setdefault(numbers.get(int(item.ReferencedSegmentNumber)), []).append(n)
    if strange := len(of_name.pop(None, ())):
        warnings.append(f"{path.name} has {strange} frames of segments that it does not list; they are left out")
    _check_slice_distance(groups, shared, grid, path)
    for name in names:
        mask = np.zeros(grid.geometry.shape, bool)
        for n in of_name.get(name, ()):
            if frames[n].any():
                _insert(mask, frames[n], groups[n], shared, grid, path, n)
        if mask.any():
            yield name, mask
        else:
            warnings.append(f"{one_line(name)} has no voxel")


def _check_slice_distance(groups: Sequence[Any], shared: Any, grid: ImageGrid, path: Path) -> None:
    """Refuse frames that were drawn on thicker slices: every other slice of the image would stay empty.

    Empty frames may be left out of the object, so single gaps say nothing. `skipped` tells, or, without frames in
    neighbouring slices, the distance that the object states.
    """
    places: list[int] = []
    stated = 0.0
    for n, group in enumerate(groups):
        plane = _group(group, shared, "PlaneOrientationSequence", path, n)
        position = _group(group, shared, "PlanePositionSequence", path, n)
        measures = _group(group, shared, "PixelMeasuresSequence", path, n)
        try:
            cosines = np.array([float(v) for v in plane.ImageOrientationPatient]).reshape(2, 3)
            start = np.array([[float(v) for v in position.ImagePositionPatient]])
            stated = float(measures.get("SpacingBetweenSlices") or 0)
        except (AttributeError, TypeError, ValueError):
            return  # `_insert` tells what is wrong with the frame
        normal = np.cross(*cosines)
        steps = np.abs(np.diff(grid.indices(np.array([0 * normal, normal])), axis=0)[0] * grid.geometry.spacing)
        axis = int(np.argmax(steps))
        places.append(round(float(grid.indices(start)[0, axis])))
    ratio = stated / grid.geometry.spacing[axis] if places else 0.0
    skips, neighbours = skipped(places), (np.diff(sorted(set(places))) == 1).any()
    if skips or (ratio > 1.5 and not neighbours):
        raise InputError(
            "structures-slices-skipped",
            f"{path}: its frames lie in every {skips or round(ratio)}. slice of {grid.folder} only, so the "
            "slices between them would stay empty; give the series on which it was drawn",
        )


def _insert(mask: np.ndarray, frame: np.ndarray, group: Any, shared: Any, grid: ImageGrid, path: Path, n: int) -> None:
    """Set the voxels of one frame, after its place was checked. Raises InputError."""
    what = f"frame {n + 1}"
    measures = _group(group, shared, "PixelMeasuresSequence", path, n)
    plane = _group(group, shared, "PlaneOrientationSequence", path, n)
    position = _group(group, shared, "PlanePositionSequence", path, n)
    try:
        down, right = (float(v) for v in measures.PixelSpacing)
        cosines = np.array([float(v) for v in plane.ImageOrientationPatient]).reshape(2, 3)
        start = np.array([float(v) for v in position.ImagePositionPatient])
    except (AttributeError, TypeError, ValueError):
        raise InputError("structures-frame-unplaced", f"{path}: {what} states no place; export it again") from None
    corners = np.array([[0, 0], [frame.shape[0] - 1, 0], [0, frame.shape[1] - 1]])
    exact = grid.indices(start + corners[:, :1] * down * cosines[1] + corners[:, 1:] * right * cosines[0])
    rounded = np.rint(exact)
    spans = np.maximum(np.array(frame.shape) - 1, 1)
    steps = (rounded[1:] - rounded[0]) / spans[:, None]  # voxels for each row and column
    many = np.array(frame.shape) > 1
    one_axis = (np.abs(steps).sum(axis=1)[many] == 1).all() and np.isin(np.abs(steps), (0, 1)).all()
    if not one_axis or np.abs(exact - rounded).max() > OFF_GRID:
        raise InputError(
            "structures-off-grid",
            f"{path}: the pixels of {what} are not voxels of {grid.folder} (another spacing, orientation or position); "
            "give the series on which it was drawn, or resample the segmentation in the program that made it",
        )
    places = (rounded[0] + np.argwhere(frame) @ steps).astype(int)
    if (places < 0).any() or (places >= np.array(mask.shape)).any():
        raise InputError("structures-outside", f"{path}: {what} has voxels outside {grid.folder}")
    references = [
        source
        for derived in group.get("DerivationImageSequence") or ()
        for source in derived.get("SourceImageSequence") or ()
    ]
    if not (steps[:, 2]).any():  # a frame across the slices, such as a coronal one, is of many images
        grid.check_slice(int(rounded[0, 2]), references, path, what)
    mask[tuple(places.T)] = True


def _group(group: Any, shared: Any, keyword: str, path: Path, n: int) -> Any:
    """A functional group of a frame, its own or the one of all frames. Raises InputError."""
    found = group.get(keyword) or shared.get(keyword)
    if not found:
        raise InputError("structures-frame-unplaced", f"{path}: frame {n + 1} has no {keyword}; export it again")
    return found[0]

"""Slices of a series -> one grid: order and geometry from the patient coordinates."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medgen.errors import InputError
from medgen.io.dicom.header import Header, Slice, numbers
from medgen.io.formats.itk import LPS_RAS
from medgen.io.volume import Geometry, checked_affine, checked_shape

OFF_GRID_MM = 0.1  # scanners round ImagePositionPatient to 0.1 mm at worst
OFF_GRID_VOXELS = 0.1  # and jitter by some of a voxel
TURNED_VOXELS = 0.25  # what a differing orientation may move the corners of a slice by
NOTICED_MM = 0.01
SAME_PLACE_MM = 1e-3
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
TILES = ("MOSAIC", "VFRAME")  # in ImageType: one image holds all slices as tiles (Siemens, United Imaging)


def stack(slices: Sequence[Slice], folder: Path) -> tuple[list[Slice], Geometry]:
    """Slices in the order of their position, and the grid. Voxel (i, j, k) is column i, row j of slice k.

    A tilted gantry gives a sheared affine.

    Raises:
        InputError: uneven, missing or duplicate slices, colour, mixed grids, orientations or frames of reference, no
            patient coordinates, one SOPInstanceUID on several images.
    """
    rows_cols, spacing, axes = _common(slices, folder)
    shape = checked_shape((rows_cols[1], rows_cols[0], len(slices)), folder)
    normal = np.cross(axes[0], axes[1])
    positions = np.array([numbers(s.header, "ImagePositionPatient", 3) for s in slices])
    order = np.argsort(positions @ normal, kind="stable")
    ordered, positions = [slices[k] for k in order], positions[order]
    allowed = max(OFF_GRID_MM, OFF_GRID_VOXELS * spacing.min())
    step = _single_step(ordered[0], normal) if len(ordered) == 1 else _even_step(positions, normal, ordered, allowed)
    lps = np.eye(4)
    lps[:3] = np.column_stack([axes[0] * spacing[1], axes[1] * spacing[0], step, positions[0]])
    return ordered, Geometry(shape, checked_affine(LPS_RAS @ lps, folder))


def _common(slices: Sequence[Slice], folder: Path) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """(rows, columns), PixelSpacing (between rows, between columns; mm) and the unit vectors (2, 3) in LPS of
    increasing column and row index, which all slices must share."""
    for item in slices:
        _check_placed(item)
    _check_uids(slices)
    first = slices[0].header
    spacing = np.array([numbers(s.header, "PixelSpacing", 2) for s in slices], np.float64)
    frames = np.array([str(s.header.get("FrameOfReferenceUID")) for s in slices])
    own = len(np.unique(frames)) == len(frames)  # anonymisers that renew it for each file (LIDC-IDRI): it says nothing
    resized = [(s.header["Rows"], s.header["Columns"]) != (first["Rows"], first["Columns"]) for s in slices]
    axes, turned = _axes(slices)
    for problem, odd in (
        ("frame of reference", (frames != frames[0]) & (not own)),  # PS3.3 C.7.4.1: positions in two do not compare
        ("size", np.array(resized)),
        ("pixel spacing", np.abs(spacing / spacing[0] - 1).max(axis=1) > 1e-4),
        ("orientation", turned > max(OFF_GRID_MM, TURNED_VOXELS * spacing[0].min())),
    ):
        if odd.any():
            other = slices[int(odd.argmax())]
            by = f", by {turned[odd.argmax()]:.3g} mm at its corner," if problem == "orientation" else ""
            reference = name(slices[0]) if other is not slices[0] else "the other slices"
            raise InputError(
                "dicom-slices-differ",
                f"{other.file.parent / name(other)} differs in {problem}{by} from {reference} of its series; "
                "separate the two",
            )
    if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-3:
        raise InputError(
            "dicom-orientation-invalid",
            f"{folder} has an ImageOrientationPatient that is not two right-angled unit vectors",
        )
    unit = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    return (int(first["Rows"]), int(first["Columns"])), spacing[0], unit


def _axes(slices: Sequence[Slice]) -> tuple[np.ndarray, np.ndarray]:
    """Mean directions (2, 3) of increasing column and row index, and how far each slice's own move its corners off
    them, (slices,) mm. The median is close to the mean of jitter and is not moved by a few slices of another kind."""
    cosines = np.array([numbers(s.header, "ImageOrientationPatient", 6) for s in slices], np.float64)
    if (cosines == cosines[0]).all():
        return cosines[0].reshape(2, 3), np.zeros(len(slices))
    usual = np.median(cosines, axis=0)
    near = np.abs(cosines - usual).max(axis=1) <= 0.01
    axes = cosines[near].mean(axis=0) if near.any() else usual
    header = slices[0].header
    rows, columns = (header["Rows"], header["Columns"]) * np.asarray(numbers(header, "PixelSpacing", 2))
    off = (cosines - axes).reshape(-1, 2, 3) * np.array([columns, rows])[:, None]
    return axes.reshape(2, 3), np.linalg.norm(np.stack([off[:, 0], off[:, 1], off.sum(1)]), axis=2).max(axis=0)


def _check_uids(slices: Sequence[Slice]) -> None:
    """Images of one SOPInstanceUID, which archives take for one: what is derived from them would be lost there."""
    files: dict[str, Path] = {}
    for item in slices:
        uid = item.header.get("SOPInstanceUID")
        if uid is not None and (other := files.setdefault(uid, item.file)) != item.file:
            raise InputError(
                "dicom-duplicate-uid",
                f"{other} and {item.file} are different images with one SOPInstanceUID ({uid}), which a broken "
                "anonymiser leaves; anonymise them again or take one away",
            )


def _check_placed(item: Slice) -> None:
    frames = numbers(item.header, "NumberOfFrames", 1)
    if frames is not None and frames[0] > 1:
        raise InputError(
            "dicom-frames-not-placed",
            f"{item.file} is a multi-frame DICOM image that does not say where its frames lie; "
            "convert it to single frames or NIfTI first",
        )
    if is_tiled(item.header):
        raise InputError(
            "dicom-mosaic",
            f"{item.file} is a mosaic: all slices of a volume as tiles of one image, which is not taken apart; convert "
            "it to NIfTI (dcm2niix) or export it as single slices first",
        )
    if is_colour(item.header):
        kind = item.header.get("PhotometricInterpretation", "several samples a pixel")
        raise InputError(
            "dicom-colour", f"{item.file} is a colour image ({kind}), not one number per voxel; choose another series"
        )
    for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        values = numbers(item.header, keyword, count)
        if values is None or (keyword == "PixelSpacing" and values.min() <= 0):
            raise InputError(
                "dicom-geometry-missing",
                f"{item.file} has no usable {keyword}: its place is unknown; choose another series",
            )


def off_line(positions: np.ndarray) -> float:
    """How far (slices, 3) positions lie at most off equal steps from the first to the last, mm."""
    even = np.linspace(positions[0], positions[-1], len(positions))
    return float(np.linalg.norm(positions - even, axis=1).max())


def why_no_volume(slices: Sequence[Slice]) -> str:
    """Why slices are no one volume, as ``stack`` says it; empty where they are."""
    try:
        stack(slices, slices[0].file.parent)
    except InputError as error:
        return str(error)
    return ""


def remarks(slices: Sequence[Slice]) -> list[str]:
    """What ``stack`` accepted of slices that are one volume, and a reader should know: a sentence each."""
    found = []
    _, turned = _axes(slices)
    if turned.max() > NOTICED_MM:
        found.append(
            f"ImageOrientationPatient differs between its slices, by up to {turned.max():.2g} mm at the corner of the "
            "image; the mean is used"
        )
    positions = np.array([numbers(s.header, "ImagePositionPatient", 3) for s in slices])
    if len(slices) > 2 and (off := off_line(positions)) > OFF_GRID_MM:
        found.append(f"its slices lie up to {off:.2g} mm off equal steps; equal steps are used")
    return found


def _even_step(positions: np.ndarray, normal: np.ndarray, slices: list[Slice], allowed: float) -> np.ndarray:
    """Vector (3,) in mm from slice to slice; refused unless it leads to every position within ``allowed`` mm."""
    folder = slices[0].file.parent
    gaps = np.diff(positions @ normal)
    k = int(np.argmin(gaps))
    if gaps[k] < SAME_PLACE_MM:
        at = f"{positions[k] @ normal:.3f} mm along the slice normal"
        raise InputError(
            "dicom-same-position",
            f"{folder} holds two slices of one series at the same place ({at}: {name(slices[k])} and "
            f"{name(slices[k + 1])}), duplicates or several phases; keep one of each",
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    if off_line(positions) > min(allowed, 0.2 * float(np.linalg.norm(step))):
        usual = float(np.median(gaps))
        k = int(np.argmax(np.abs(gaps - usual)))
        sideways = np.diff(positions - np.outer(positions @ normal, normal), axis=0)
        jumps = np.linalg.norm(sideways - np.median(sideways, axis=0), axis=1)
        if jumps.max() > max(np.abs(gaps - usual).max(), OFF_GRID_MM):
            k = int(np.argmax(jumps))
            raise InputError(
                "dicom-slices-shifted",
                f"{folder} has slices that do not lie above each other: {name(slices[k + 1])} is shifted by "
                f"{jumps[k]:.3f} mm in its plane against {name(slices[k])}; separate the two or resample it",
            )
        raise InputError(
            "dicom-spacing-uneven",
            f"{folder} has unevenly spaced slices: {gaps[k]:.3f} mm between {name(slices[k])} and "
            f"{name(slices[k + 1])} where {usual:.3f} mm is usual; add missing slices or resample it",
        )
    along = (step @ normal) * normal
    drift = np.linalg.norm(step - along) * (len(positions) - 1)
    return along if drift <= OFF_GRID_MM else step  # rounding of the positions, or a tilted gantry


def _single_step(item: Slice, normal: np.ndarray) -> np.ndarray:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        length = numbers(item.header, keyword, 1)
        if length is not None and length[0] > 0:
            return normal * length[0]
    raise InputError("dicom-single-slice", f"{item.file} is a single slice without SliceThickness, so it is no volume")


def name(item: Slice) -> str:
    """A slice's file, and its number (from 1) in it where it has several."""
    return f"{item.file.name} frame {item.frame + 1}" if "multiframe" in item.header else item.file.name


def is_colour(header: Header) -> bool:
    """Whether a stored value is no number by itself: several samples a pixel, or a place in a colour table."""
    return (
        header.get("SamplesPerPixel", 1) != 1
        or header.get("PhotometricInterpretation", MONOCHROME[1]) not in MONOCHROME
    )


def is_tiled(header: Header) -> bool:
    """Whether an image holds several slices side by side, by its ImageType."""
    return any(str(value).upper().startswith(TILES) for value in image_type(header))


def image_type(header: Header) -> list[str]:
    """The values of ImageType (a frame's FrameType); none where it has none."""
    given = header.get("ImageType", [])
    return [str(value) for value in given] if isinstance(given, list) else [str(given)]

"""Order the slices of a series and compute their common grid from the patient coordinates."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medgen.errors import InputError
from medgen.io.dicom.elements import Header, numbers
from medgen.io.dicom.header import Slice
from medgen.io.formats.itk import LPS_RAS
from medgen.io.volume import Geometry, checked_affine, checked_shape

OFF_GRID_MM = 0.1  # scanners round ImagePositionPatient to 0.1 mm at worst
OFF_GRID_VOXELS = 0.1  # and positions jitter by a fraction of a voxel
TURNED_VOXELS = 0.25  # allowed shift of a slice's corners caused by a differing orientation
NOTICED_MM = 0.01  # a larger shift is reported in the notes
SAME_PLACE_MM = 1e-3  # slices closer than this have the same position
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
TILES = ("MOSAIC", "VFRAME")  # in ImageType: one image holds all slices as tiles (Siemens, United Imaging)


def stack(slices: Sequence[Slice], folder: Path) -> tuple[list[Slice], Geometry]:
    """Sort slices by position and return them with their grid. Voxel (i, j, k) is column i, row j of slice k.

    A tilted gantry gives a sheared affine.

    Raises:
        InputError: uneven, missing or duplicate slices; colour images; mixed grids, orientations or frames of
            reference; no patient coordinates; or one SOPInstanceUID shared by several images.
    """
    rows_cols, spacing, axes = _common(slices, folder)
    shape = checked_shape((rows_cols[1], rows_cols[0], len(slices)), folder)
    normal = np.cross(axes[0], axes[1])
    positions = np.array([numbers(s.header, "ImagePositionPatient", 3) for s in slices])
    order = np.argsort(positions @ normal, kind="stable")
    ordered, positions = [slices[k] for k in order], positions[order]
    tolerance = max(OFF_GRID_MM, OFF_GRID_VOXELS * spacing.min())
    step = _single_step(ordered[0], normal) if len(ordered) == 1 else _even_step(positions, normal, ordered, tolerance)
    lps = np.eye(4)
    lps[:3] = np.column_stack([axes[0] * spacing[1], axes[1] * spacing[0], step, positions[0]])
    return ordered, Geometry(shape, checked_affine(LPS_RAS @ lps, folder))


def _common(slices: Sequence[Slice], folder: Path) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
    """Return the geometry that all slices must share.

    Returns:
        (rows, columns); PixelSpacing (between rows, between columns; mm); and the unit vectors (2, 3) in LPS along
        increasing column and row index.

    Raises:
        InputError: a slice differs, or the orientation is not two perpendicular unit vectors.
    """
    for item in slices:
        _check_placed(item)
    _check_uids(slices)
    first = slices[0].header
    spacing = np.array([numbers(s.header, "PixelSpacing", 2) for s in slices], np.float64)
    frames = np.array([str(s.header.get("FrameOfReferenceUID")) for s in slices])
    renewed = len(np.unique(frames)) == len(frames)  # renewed per file by an anonymiser (LIDC-IDRI): ignore
    resized = [(s.header["Rows"], s.header["Columns"]) != (first["Rows"], first["Columns"]) for s in slices]
    axes, corner_shifts = _axes(slices)
    for problem, differs in (
        ("frame of reference", (frames != frames[0]) & (not renewed)),  # PS3.3 C.7.4.1: positions are not comparable
        ("size", np.array(resized)),
        ("pixel spacing", np.abs(spacing / spacing[0] - 1).max(axis=1) > 1e-4),
        ("orientation", corner_shifts > max(OFF_GRID_MM, TURNED_VOXELS * spacing[0].min())),
    ):
        if differs.any():
            other = slices[int(differs.argmax())]
            amount = f" (by {corner_shifts[differs.argmax()]:.3g} mm at the corner)" if problem == "orientation" else ""
            reference = name(slices[0]) if other is not slices[0] else "the other slices"
            raise InputError(
                "dicom-slices-differ",
                f"{other.file.parent / name(other)} differs in {problem}{amount} from {reference} of its series; "
                "separate them into two series",
            )
    if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-3:
        raise InputError(
            "dicom-orientation-invalid",
            f"{folder}: ImageOrientationPatient is not a pair of perpendicular unit vectors; export the series again",
        )
    unit = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    return (int(first["Rows"]), int(first["Columns"])), spacing[0], unit


def _axes(slices: Sequence[Slice]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean directions (2, 3) of increasing column and row index, and each slice's deviation from them.

    The deviation, (slices,) in mm, is how far the slice's own directions shift its corners. The mean is taken over the
    slices close to the median, because a few slices with another orientation do not affect the median.
    """
    cosines = np.array([numbers(s.header, "ImageOrientationPatient", 6) for s in slices], np.float64)
    if (cosines == cosines[0]).all():
        return cosines[0].reshape(2, 3), np.zeros(len(slices))
    typical = np.median(cosines, axis=0)
    close = np.abs(cosines - typical).max(axis=1) <= 0.01
    axes = cosines[close].mean(axis=0) if close.any() else typical
    header = slices[0].header
    rows, columns = (header["Rows"], header["Columns"]) * np.asarray(numbers(header, "PixelSpacing", 2))
    offset = (cosines - axes).reshape(-1, 2, 3) * np.array([columns, rows])[:, None]
    return axes.reshape(2, 3), np.linalg.norm(np.stack([offset[:, 0], offset[:, 1], offset.sum(1)]), axis=2).max(axis=0)


def _check_uids(slices: Sequence[Slice]) -> None:
    """Raise InputError if several images share one SOPInstanceUID.

    Archives treat such images as one image and would lose images derived from them.
    """
    files: dict[str, Path] = {}
    for item in slices:
        uid = item.header.get("SOPInstanceUID")
        if uid is not None and (other := files.setdefault(uid, item.file)) != item.file:
            raise InputError(
                "dicom-duplicate-uid",
                f"{other} and {item.file} are different images with the same SOPInstanceUID ({uid}), probably caused "
                "by a faulty anonymiser; anonymise them again or remove one of them",
            )


def _check_placed(item: Slice) -> None:
    frames = numbers(item.header, "NumberOfFrames", 1)
    if frames is not None and frames[0] > 1:
        raise InputError(
            "dicom-frames-not-placed",
            f"{item.file} is a multi-frame DICOM image without frame positions; "
            "convert it to single frames or NIfTI first",
        )
    if is_tiled(item.header):
        raise InputError(
            "dicom-mosaic",
            f"{item.file} is a mosaic (all slices of a volume as tiles of one image), which is not supported; convert "
            "it to NIfTI (dcm2niix) or export it as single slices first",
        )
    if is_colour(item.header):
        kind = item.header.get("PhotometricInterpretation", "several samples per pixel")
        raise InputError(
            "dicom-colour", f"{item.file} is a colour image ({kind}) without one value per voxel; choose another series"
        )
    for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        values = numbers(item.header, keyword, count)
        if values is None or (keyword == "PixelSpacing" and values.min() <= 0):
            raise InputError(
                "dicom-geometry-missing",
                f"{item.file} has no valid {keyword}, so its position in space is unknown; choose another series",
            )


def off_line(positions: np.ndarray) -> float:
    """Return the largest distance (mm) of (slices, 3) positions from equal steps between the first and the last."""
    even = np.linspace(positions[0], positions[-1], len(positions))
    return float(np.linalg.norm(positions - even, axis=1).max())


def why_no_volume(slices: Sequence[Slice]) -> str:
    """Return why slices do not form one volume (the message of ``stack``); empty if they do."""
    try:
        stack(slices, slices[0].file.parent)
    except InputError as error:
        return str(error)
    return ""


def remarks(slices: Sequence[Slice]) -> list[str]:
    """Return one note for each deviation that ``stack`` tolerated in slices that form one volume."""
    notes = []
    _, corner_shifts = _axes(slices)
    if corner_shifts.max() > NOTICED_MM:
        notes.append(
            f"ImageOrientationPatient differs between the slices, by up to {corner_shifts.max():.2g} mm at the corner "
            "of the image; the mean is used"
        )
    positions = np.array([numbers(s.header, "ImagePositionPatient", 3) for s in slices])
    if len(slices) > 2 and (offset := off_line(positions)) > OFF_GRID_MM:
        notes.append(f"slice positions deviate by up to {offset:.2g} mm from equal spacing; equal spacing is used")
    return notes


def _even_step(positions: np.ndarray, normal: np.ndarray, slices: list[Slice], tolerance: float) -> np.ndarray:
    """Return the step (3,) in mm between slices; raise InputError if a position deviates by more than ``tolerance`` mm.

    The tolerance is at most 0.2 steps.
    """
    folder = slices[0].file.parent
    gaps = np.diff(positions @ normal)
    k = int(np.argmin(gaps))
    if gaps[k] < SAME_PLACE_MM:
        location = f"{positions[k] @ normal:.3f} mm along the slice normal"
        raise InputError(
            "dicom-same-position",
            f"{folder} contains two slices of one series at the same position ({location}: {name(slices[k])} and "
            f"{name(slices[k + 1])}): duplicates, or several phases; keep one slice per position",
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    if off_line(positions) > min(tolerance, 0.2 * float(np.linalg.norm(step))):
        typical = float(np.median(gaps))
        k = int(np.argmax(np.abs(gaps - typical)))
        sideways = np.diff(positions - np.outer(positions @ normal, normal), axis=0)
        jumps = np.linalg.norm(sideways - np.median(sideways, axis=0), axis=1)
        if jumps.max() > max(np.abs(gaps - typical).max(), OFF_GRID_MM):
            k = int(np.argmax(jumps))
            raise InputError(
                "dicom-slices-shifted",
                f"{folder} has slices that are not aligned: {name(slices[k + 1])} is shifted by "
                f"{jumps[k]:.3f} mm in its plane relative to {name(slices[k])}; separate or resample the series",
            )
        raise InputError(
            "dicom-spacing-uneven",
            f"{folder} has unevenly spaced slices: {gaps[k]:.3f} mm between {name(slices[k])} and "
            f"{name(slices[k + 1])}, but the median is {typical:.3f} mm; add the missing slices or resample the series",
        )
    along_normal = (step @ normal) * normal
    drift = np.linalg.norm(step - along_normal) * (len(positions) - 1)
    # A small drift is rounding of the positions; a larger one is a tilted gantry.
    return along_normal if drift <= OFF_GRID_MM else step


def _single_step(item: Slice, normal: np.ndarray) -> np.ndarray:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        length = numbers(item.header, keyword, 1)
        if length is not None and length[0] > 0:
            return normal * length[0]
    raise InputError(
        "dicom-single-slice",
        f"{item.file} is a single slice without SliceThickness, not a volume; choose a series with several slices",
    )


def name(item: Slice) -> str:
    """Return the file name of a slice, with the frame number (from 1) if the file is multi-frame."""
    return f"{item.file.name} frame {item.frame + 1}" if "multiframe" in item.header else item.file.name


def is_colour(header: Header) -> bool:
    """Whether pixels are colours: several samples per pixel, or indices into a colour table."""
    return (
        header.get("SamplesPerPixel", 1) != 1
        or header.get("PhotometricInterpretation", MONOCHROME[1]) not in MONOCHROME
    )


def is_tiled(header: Header) -> bool:
    """Whether ImageType says that an image contains several slices as tiles."""
    return any(str(value).upper().startswith(TILES) for value in image_type(header))


def image_type(header: Header) -> list[str]:
    """Return the values of ImageType (FrameType of a frame); empty if absent."""
    stored = header.get("ImageType", [])
    return [str(value) for value in stored] if isinstance(stored, list) else [str(stored)]

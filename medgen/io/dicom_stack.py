"""Slices of a series -> one grid: order and geometry from the patient coordinates, parts where several overlap."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from medgen.io.dicom_header import Slice, numbers
from medgen.io.itk import LPS_RAS
from medgen.io.volume import Geometry, checked_affine, checked_shape
from medgen.types import InputError

OFF_GRID_MM = 0.1  # scanners round ImagePositionPatient to 0.1 mm at worst
SAME_PLACE_MM = 1e-3
# What tells apart the volumes that some scanners put into one series, the surest first.
PARTS = (
    "StackID TemporalPositionIndex TemporalPositionIdentifier EchoNumbers EffectiveEchoTime EchoTime DiffusionBValue "
    "NominalPercentageOfCardiacPhase NominalCardiacTriggerDelayTime TriggerTime AcquisitionNumber ImageType "
    "ContrastBolusAgentPhase AcquisitionTime"
).split()
# What differs between the passes of one volume too, where every other slice is acquired first. In MR nearly all may
# (GE: https://github.com/rordenlab/dcm2niix/pull/48), but for what numbers the volumes themselves.
PASSES = {"TriggerTime", "NominalCardiacTriggerDelayTime", "AcquisitionTime"}
VOLUMES = {"StackID", "TemporalPositionIndex", "TemporalPositionIdentifier", "EchoNumbers", "DiffusionBValue"}
MR_PASSES = set(PARTS) - VOLUMES


def parts(slices: Sequence[Slice], folder: Path) -> list[tuple[str, list[Slice]]]:
    """The volumes of one series, each with what sets it apart: acquisitions, echoes, phases.

    A series that is one volume stays one, unless its slices lie between each other's and are themselves volumes: two
    phases, half a step apart. So does one that no element divides into volumes: what is wrong with it is said when it
    is read.
    """
    whole = _stacks(slices, folder)
    passes = MR_PASSES if slices[0].header.get("Modality") == "MR" else PASSES
    for keyword in PARTS:
        groups: dict[str, list[Slice]] = {}
        for item in slices:
            value = item.header.get(keyword)
            groups.setdefault("\\".join(map(str, value)) if isinstance(value, list) else str(value), []).append(item)
        if whole and (keyword in passes or not _interleaved(groups.values())):
            continue
        if len(groups) > 1 and all(len(group) > 1 and _stacks(group, folder) for group in groups.values()):
            return [(f"{keyword} {value}", group) for value, group in groups.items()]
    return [("", list(slices))]


def _interleaved(groups: Iterable[Sequence[Slice]]) -> bool:
    """Whether the groups take turns along the stack, all the way: what is acquired block after block does not, nor do
    a few slices that differ from the rest."""
    owner = [(n, item.header["ImagePositionPatient"]) for n, group in enumerate(groups) for item in group]
    places = np.array([place for _, place in owner], np.float64)
    along = places @ (places[np.argmax(np.linalg.norm(places - places[0], axis=1))] - places[0])
    turns = [owner[i][0] for i in np.argsort(along)]
    count = len(set(turns))
    return len(set(turns[:count])) == count and all(a == b for a, b in zip(turns, turns[count:], strict=False))


def _stacks(slices: Sequence[Slice], folder: Path) -> bool:
    try:
        stack(slices, folder)
    except InputError:
        return False
    return True


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
    step = _single_step(ordered[0], normal) if len(ordered) == 1 else _even_step(positions, normal, ordered)
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
    cosines = np.array([numbers(s.header, "ImageOrientationPatient", 6) for s in slices], np.float64)
    frames = np.array([str(s.header.get("FrameOfReferenceUID")) for s in slices])
    own = len(np.unique(frames)) == len(frames)  # anonymisers that renew it for each file (LIDC-IDRI): it says nothing
    resized = [(s.header["Rows"], s.header["Columns"]) != (first["Rows"], first["Columns"]) for s in slices]
    for problem, odd in (
        ("frame of reference", (frames != frames[0]) & (not own)),  # PS3.3 C.7.4.1: positions in two do not compare
        ("size", np.array(resized)),
        ("pixel spacing", np.abs(spacing / spacing[0] - 1).max(axis=1) > 1e-4),
        ("orientation", np.abs(cosines - cosines[0]).max(axis=1) > 1e-4),
    ):
        if odd.any():
            other = slices[int(odd.argmax())]
            raise InputError(
                f"{other.file.parent / name(other)} differs in {problem} from {name(slices[0])} of its series; "
                "separate the two"
            )
    axes = cosines[0].reshape(2, 3)
    if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-3:
        raise InputError(f"{folder} has an ImageOrientationPatient that is not two right-angled unit vectors")
    unit = axes / np.linalg.norm(axes, axis=1, keepdims=True)
    return (int(first["Rows"]), int(first["Columns"])), spacing[0], unit


def _check_uids(slices: Sequence[Slice]) -> None:
    """Images of one SOPInstanceUID, which archives take for one: what is derived from them would be lost there."""
    files: dict[str, Path] = {}
    for item in slices:
        uid = item.header.get("SOPInstanceUID")
        if uid is not None and (other := files.setdefault(uid, item.file)) != item.file:
            raise InputError(
                f"{other} and {item.file} are different images with one SOPInstanceUID ({uid}), which a broken "
                "anonymiser leaves; anonymise them again or take one away"
            )


def _check_placed(item: Slice) -> None:
    frames = numbers(item.header, "NumberOfFrames", 1)
    if frames is not None and frames[0] > 1:
        raise InputError(
            f"{item.file} is a multi-frame DICOM image that does not say where its frames lie; "
            "convert it to single frames or NIfTI first"
        )
    if item.header.get("SamplesPerPixel", 1) != 1:
        raise InputError(f"{item.file} is a colour image, not one number per voxel; choose another series")
    for keyword, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        values = numbers(item.header, keyword, count)
        if values is None or (keyword == "PixelSpacing" and values.min() <= 0):
            raise InputError(f"{item.file} has no usable {keyword}: its place is unknown; choose another series")


def _even_step(positions: np.ndarray, normal: np.ndarray, slices: list[Slice]) -> np.ndarray:
    """Vector (3,) in mm from slice to slice; refused unless it leads to every position."""
    folder = slices[0].file.parent
    gaps = np.diff(positions @ normal)
    k = int(np.argmin(gaps))
    if gaps[k] < SAME_PLACE_MM:
        at = f"{positions[k] @ normal:.3f} mm along the slice normal"
        raise InputError(
            f"{folder} holds two slices of one series at the same place ({at}: {name(slices[k])} and "
            f"{name(slices[k + 1])}), duplicates or several phases; keep one of each"
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    off = np.linalg.norm(positions - positions[0] - np.arange(len(positions))[:, None] * step, axis=1)
    if off.max() > min(OFF_GRID_MM, 0.2 * np.linalg.norm(step)):
        usual = float(np.median(gaps))
        k = int(np.argmax(np.abs(gaps - usual)))
        sideways = np.diff(positions - np.outer(positions @ normal, normal), axis=0)
        jumps = np.linalg.norm(sideways - np.median(sideways, axis=0), axis=1)
        if jumps.max() > max(np.abs(gaps - usual).max(), OFF_GRID_MM):
            k = int(np.argmax(jumps))
            raise InputError(
                f"{folder} has slices that do not lie above each other: {name(slices[k + 1])} is shifted by "
                f"{jumps[k]:.3f} mm in its plane against {name(slices[k])}; separate the two or resample it"
            )
        raise InputError(
            f"{folder} has unevenly spaced slices: {gaps[k]:.3f} mm between {name(slices[k])} and "
            f"{name(slices[k + 1])} where {usual:.3f} mm is usual; add missing slices or resample it"
        )
    along = (step @ normal) * normal
    drift = np.linalg.norm(step - along) * (len(positions) - 1)
    return along if drift <= OFF_GRID_MM else step  # rounding of the positions, or a tilted gantry


def _single_step(item: Slice, normal: np.ndarray) -> np.ndarray:
    for keyword in ("SpacingBetweenSlices", "SliceThickness"):
        length = numbers(item.header, keyword, 1)
        if length is not None and length[0] > 0:
            return normal * length[0]
    raise InputError(f"{item.file} is a single slice without SliceThickness, so it is no volume")


def name(item: Slice) -> str:
    """A slice's file, and its number (from 1) in it where it has several."""
    return f"{item.file.name} frame {item.frame + 1}" if "multiframe" in item.header else item.file.name

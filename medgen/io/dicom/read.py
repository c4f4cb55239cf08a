"""Read a DICOM series as a Volume, or only its geometry."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medgen.errors import InputError
from medgen.io.dicom.elements import numbers
from medgen.io.dicom.header import Slice, read_header, slices_of
from medgen.io.dicom.parts import differing, instance_step, numbered_apart
from medgen.io.dicom.series import _chosen
from medgen.io.dicom.stack import name, remarks, stack
from medgen.io.dicom.torn import torn_slices
from medgen.io.dicom.units import HU
from medgen.io.dicom.voxels import values_of
from medgen.io.volume import Geometry, Volume, checked_finite

LARGEST_HU = 2**15
PROJECTION = re.compile(
    r"(?<![a-z])(thin|thick|ax|cor|sag)?(mip|min[\s_-]?ip|max[\s_-]?ip)s?(?![a-z])|^(maximum|minimum)$", re.IGNORECASE
)  # in ImageType, FrameType or SeriesDescription
TORN = (
    "{} slices, such as slice {}, end in rows of one value although the body goes on in the next slice: they may be "
    "incomplete; copy the series again"
)
EMPTY = "{} slices at the ends, such as slice {}, hold one value only"
SAME_RATIO = 0.05  # tolerance of distances that headers state


def read_series(folder: str | Path, *, series: str | None = None) -> Volume:
    """Read one series of ``folder`` as a volume.

    The stored type is int16, or int32 if needed, when all values are integers that fit; otherwise float32. A tilted
    gantry gives a sheared affine, which is exact but which the qform of a NIfTI file cannot represent.

    Args:
        series: UID, number in ``list_series`` (from 1), or part of the description; None selects the only scan.

    Raises:
        InputError: uneven, missing or duplicate slices; colour images; frames without a position; mixed grids,
            orientations or frames of reference; no patient coordinates; an incomplete rescale; stored bits that are not
            the low bits of a pixel (HighBit); or voxels that cannot be decoded.
    """
    folder = Path(folder)
    chosen = _chosen(folder, series)
    volume = read_slices(chosen.slices, folder)
    if chosen.remark:
        volume = replace(
            volume, warnings=(*volume.warnings, f"{folder} is read although it is no scan: {chosen.remark}")
        )
    beside = (f"skipped because it is not part of the scan: {chosen.beside}",) if chosen.beside else ()
    return replace(volume, notes=(*volume.notes, *beside))


def read_slices(slices: Sequence[Slice], folder: Path) -> Volume:
    """Read slices, given in any order, as a volume; see ``read_series``. ``folder`` is used in messages."""
    slices, geometry = stack(slices, folder)
    data = np.empty(geometry.shape, np.float32, order="F")
    integral = True
    units: dict[str, Slice] = {}
    paddings = np.full((2, 1, 1, geometry.shape[2]), np.nan, np.float32)
    unit_warnings: dict[str, None] = {}
    for k, values, unit, unit_warning, padding in values_of(slices):
        if values.shape != geometry.shape[1::-1]:
            raise InputError(
                "dicom-shape-against-header",
                f"{slices[k].file}: the pixel data has shape {values.shape}, which contradicts the header; "
                "copy the file again",
            )
        integral = integral and (values.dtype.kind in "iu" or bool(np.all(values == np.rint(values))))
        data[:, :, k] = values.T
        units.setdefault(unit, slices[k])
        paddings[:, 0, 0, k] = (np.nan, np.nan) if padding is None else padding
        unit_warnings |= {unit_warning: None} if unit_warning else {}
    checked_finite(data, folder)
    torn, empty = torn_slices(data) if HU in units else ([], [])
    return Volume(
        data,
        geometry.affine,
        _stored_type(data, integral),
        path=folder,
        frames=tuple((s.file, s.frame) for s in slices),
        headers_sha256=_header_hash(slices),
        warnings=(
            *_mixed(slices),
            *_projected(slices),
            *unit_warnings,
            *_beyond_ct(data, paddings, units),
            *([TORN.format(len(torn), torn[0])] if torn else []),
        ),
        notes=(*remarks(slices), *([EMPTY.format(len(empty), empty[0])] if empty else [])),
        unit=_one_unit(units),
        padding=None if np.isnan(paddings).all() else (paddings[0], paddings[1]),
    )


def _one_unit(units: dict[str, Slice]) -> str:
    if len(units) > 1:
        details = " and ".join(
            f"{item.file.parent / name(item)} is in {unit or 'an unnamed unit'}" for unit, item in units.items()
        )
        raise InputError(
            "dicom-units-differ", f"{details}, although they belong to one series; separate them into two series"
        )
    return next(iter(units))


def _mixed(slices: Sequence[Slice]) -> list[str]:
    remarks = [
        f"{keyword} differs between slices of one volume: the volume may combine two reconstructions"
        for keyword in differing(slices)
    ]
    return [*remarks, *filter(None, [numbered_apart(slices), _sparse(slices)])]


def _beyond_ct(data: np.ndarray, paddings: np.ndarray, units: Iterable[str]) -> list[str]:
    """A warning about HU that no scanner stores, padding apart: of a slice with a wrong PixelRepresentation."""
    if HU not in units or not data.size or (data.max() < LARGEST_HU and data.min() >= -LARGEST_HU - 1024):
        return []
    padded = (data >= paddings[0]) & (data <= paddings[1])
    odd = ((data >= LARGEST_HU) | (data < -LARGEST_HU - 1024)) & ~padded
    if not odd.any():
        return []
    k = int(np.argmax(odd.sum((0, 1))))
    return [
        f"slice {k + 1} has values as {float(data[:, :, k][odd[:, :, k]][0]):.6g} HU, which no scanner stores; its "
        "PixelRepresentation may be wrong"
    ]


def _projected(slices: Sequence[Slice]) -> list[str]:
    """A warning if the slices are projections of the extreme values of slabs (MIP, MinIP), by type or description."""
    for item in slices:
        terms = item.header.get("ImageType") or []
        words = [str(term) for term in ([terms] if isinstance(terms, str) else list(terms)[2:])]
        words.append(str(item.header.get("SeriesDescription") or ""))
        if found := next(filter(None, map(PROJECTION.search, words)), None):
            return [
                f"{found.group(0)} in the type or description names a projection: its values are the extremes of a "
                "slab, not those of the tissue at each place; use the original slices"
            ]
    return []


def _sparse(slices: Sequence[Slice]) -> str:
    """A warning if slices lie a multiple of their stated distance apart, so that every other one is missing.

    Without SpacingBetweenSlices, the thickness counts as the distance if every other number is missing too.
    MR scanners sometimes state the gap, which is smaller than the thickness, in place of the distance.
    """
    stated, thick = (numbers(slices[0].header, key, 1) for key in ("SpacingBetweenSlices", "SliceThickness"))
    places = [numbers(item.header, "ImagePositionPatient", 3) for item in slices[:2]]
    if thick is None or len(places) < 2 or any(place is None for place in places):
        return ""
    apart = float(np.linalg.norm(np.subtract(*places)))  # type: ignore[arg-type]
    if stated is None:
        step = instance_step(slices)
        if step < 2 or thick[0] <= 0 or abs(apart / thick[0] - step) > SAME_RATIO:
            return ""
        return (
            f"slices of {thick[0]:g} mm lie {apart:.4g} mm apart, and InstanceNumber increases in steps of {step}: "
            f"only every {step}. slice may be here; check that the series is complete"
        )
    times = round(apart / stated[0]) if stated[0] > 0 else 0
    if times < 2 or abs(apart / stated[0] - times) > SAME_RATIO or thick[0] > stated[0] * (1 + SAME_RATIO):
        return ""
    return (
        f"slices lie {apart:.4g} mm apart, but SpacingBetweenSlices is {stated[0]:g} mm: only every {times}. slice "
        "may be here; check that the series is complete"
    )


def check_unchanged(volume: Volume) -> None:
    """Raise InputError if the headers of the files of ``volume`` have changed since the volume was read."""
    if volume.headers_sha256 is None:
        return
    current = {}
    for file, _ in volume.frames or ():
        if file not in current and (header := read_header(file)) is not None:
            current[file] = slices_of(file, header)
    try:
        same = _header_hash([current[file][frame] for file, frame in volume.frames or ()]) == volume.headers_sha256
    except LookupError:
        same = False
    if not same:
        raise InputError(
            "dicom-files-changed", f"{volume.path} has DICOM files that changed after they were read; start again"
        )


def _stored_type(data: np.ndarray, integral: bool) -> np.dtype:
    low, high = float(data.min()), float(data.max())
    candidates = (t for t in (np.dtype("i2"), np.dtype("i4")) if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return next(candidates, np.dtype(np.float32)) if integral else np.dtype(np.float32)


def _header_hash(slices: Sequence[Slice]) -> str:
    return hashlib.sha256(repr([item.header for item in slices]).encode()).hexdigest()


def read_series_geometry(folder: str | Path, *, series: str | None = None) -> Geometry:
    """Read the geometry of one series from its headers; arguments and errors as in ``read_series``."""
    folder = Path(folder)
    return stack(_chosen(folder, series).slices, folder)[1]

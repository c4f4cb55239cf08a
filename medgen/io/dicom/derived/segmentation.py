"""Write a label map as a DICOM segmentation (PS3.3 A.51) in the study of its source images."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread

from medgen.errors import InputError
from medgen.io.atomic import atomic_write
from medgen.io.dicom.charset import repair_text
from medgen.io.dicom.derived.references import NOTICE, UIDS
from medgen.io.dicom.derived.report import EXTRA, TYPE_2, short
from medgen.io.dicom.header import is_scan, read_header, settle_charset
from medgen.io.dicom.quiet import quiet_pydicom
from medgen.io.dicom.read import check_unchanged
from medgen.io.dicom.series import Series, choose, grouped, list_series
from medgen.io.dicom.stack import stack
from medgen.io.volume import Volume, same_geometry
from medgen.terminology import snomed


def write_seg(
    labels: Volume,
    names: Mapping[int, str],
    source: Path | Sequence[Path],
    out: Path,
    *,
    algorithm: str,
    version: str = "unknown",
) -> None:
    """Write a label map as a binary DICOM segmentation to the file ``out``, with one segment per structure.

    Patient and study are copied from the source images. The same labels, images and algorithm give the same UIDs and
    identical bytes.

    Args:
        labels: integer labels on the grid of the source, 0 for the background. If ``labels.frames`` is set, it defines
            the source images.
        names: {label: structure}; a label without a name is named by its number. Structures that do not occur in the
            map get no segment.
        source: folder or files of the source series; used if ``labels.frames`` is None.
        algorithm, version: name and version of the segmentation algorithm.

    Raises:
        InputError: highdicom is missing; the labels are all background, invalid, or not on the grid of the source; the
            source consists of several enhanced images; or a file cannot be read or written.
    """
    highdicom = _highdicom()
    seg = highdicom.seg
    images, values = _align(labels, source)
    found = [int(value) for value in np.unique(values) if value]
    if not found:
        raise InputError(
            "labels-all-background",
            f"{out} is not written: all voxels are background, but a DICOM segmentation needs at least one segment; "
            "use --format nifti",
        )
    numbers = np.searchsorted([0, *found], values).astype(np.uint16 if len(found) > 255 else np.uint8)
    first = images[0]
    content = (
        f"{algorithm} {version} {[(v, names.get(v)) for v in found]} {hashlib.sha256(numbers.tobytes()).hexdigest()}"
    )
    synthetic = str(first.get("SeriesDescription", "")).startswith(NOTICE)
    notice = NOTICE if synthetic else "AUTOMATIC, not for primary diagnosis"
    algorithm_family = highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    algorithm_id = highdicom.AlgorithmIdentificationSequence(short(algorithm, 64), algorithm_family, short(version, 64))
    try:
        quiet_pydicom()
        ds = seg.Segmentation(
            images,
            numbers,
            seg.SegmentationTypeValues.BINARY,
            [_description(seg, n, v, names, algorithm_id) for n, v in enumerate(found, 1)],
            series_instance_uid=_uid(first.SeriesInstanceUID, algorithm, version),
            series_number=int(first.get("SeriesNumber") or 0) % 10**8 + 3,
            sop_instance_uid=_uid(first.SeriesInstanceUID, content),
            instance_number=1,
            manufacturer="medgen",
            manufacturer_model_name=short(algorithm, 64),
            software_versions=short(version, 64),
            device_serial_number="1",
            content_label="SEGMENTS",
            series_description=short(f"{notice}: segments by {algorithm}", 64),
        )
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise InputError(
            "dicom-header-not-referable",
            f"{out} is not written: no segmentation can be created from the headers of the source ({error})",
        ) from error
    _make_deterministic(ds, first)
    with atomic_write(out) as temporary:
        ds.save_as(temporary, enforce_file_format=True)


def _align(labels: Volume, source: Path | Sequence[Path]) -> tuple[list[Dataset], np.ndarray]:
    """Return the headers of the source images, and the labels (frames, rows, columns) in the same order."""
    if labels.frames is None:
        frames = _frames(labels, source)
    else:
        frames = list(labels.frames)
    files = list(dict.fromkeys(file for file, _ in frames))
    try:
        images: list[Dataset] = [dcmread(file, stop_before_pixels=True, force=True) for file in files]
    except Exception as error:  # pydicom raises arbitrary exceptions on damaged files
        raise InputError(
            "dicom-unreadable", f"{files[0].parent} has an image that cannot be read ({error}); copy it again"
        ) from error
    check_unchanged(labels)
    for image in images:
        repair_text(image)
        settle_charset(image)
    for keyword in TYPE_2:
        for image in images:
            if keyword not in image:
                setattr(image, keyword, "")
    planes = np.rint(labels.data).astype(np.int64).transpose(2, 1, 0)
    if (planes != labels.data.transpose(2, 1, 0)).any() or planes.min() < 0:
        raise InputError(
            "labels-values-invalid",
            f"{labels.path or 'the label map'} contains values that are not labels (integers >= 0); "
            "correct the label map",
        )
    if "PerFrameFunctionalGroupsSequence" not in images[0]:
        return images, planes
    if len(images) > 1:
        raise InputError(
            "dicom-several-enhanced-images",
            f"{files[0].parent}: segmentations of several enhanced (multi-frame) images are not supported; "
            "use --format nifti",
        )
    values = np.zeros((int(images[0].NumberOfFrames), *planes.shape[1:]), np.int64)
    values[[frame for _, frame in frames]] = planes
    return images, values


def _frames(labels: Volume, source: Path | Sequence[Path]) -> list[tuple[Path, int]]:
    if isinstance(source, Path):
        location, found = source, list_series(source)
    else:
        location, found = source[0].parent, _of_files(source)
    if not found:
        raise InputError(
            "dicom-no-series", f"{location} contains no DICOM image series; give the series that was segmented"
        )
    slices, geometry = stack(choose(found, None, location).slices, location)
    if not same_geometry(labels.geometry, geometry):
        raise InputError(
            "labels-grid-differs",
            f"{labels.path or 'the label map'} ({labels.geometry.describe()}) is not on the grid of {location} "
            f"({geometry.describe()}); segment that series directly",
        )
    return [(s.file, s.frame) for s in slices]


def _of_files(files: Sequence[Path]) -> list[Series]:
    headers = [(file, header) for file in files if (header := read_header(file)) is not None]
    return grouped((file, header) for file, header in headers if is_scan(header, file))


def _description(seg: Any, number: int, value: int, names: Mapping[int, str], algorithm_id: Any) -> Any:
    name = names.get(value, f"label {value}")
    category, kind = coded(name)
    item = seg.SegmentDescription(
        number,
        short(name, 64),
        category,
        kind,
        seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm_id,
    )
    item.SegmentDescription = short(f"{name}, value {value} of the label map", 1024)
    return item


def coded(name: str) -> tuple[Any, Any]:
    """Return the category and type of a structure (such as CID 7150 and 7151) as SNOMED CT codes."""
    from pydicom.sr.codedict import codes

    category, kind = snomed(name)
    return getattr(codes.SCT, category), getattr(codes.SCT, kind)


def _make_deterministic(ds: Dataset, first: Dataset) -> None:
    """Replace the current time and random UIDs set by highdicom with source dates and derived UIDs, in place."""
    ds.ContentDate = first.get("ContentDate") or first.get("AcquisitionDate") or first.get("StudyDate") or "19000101"
    ds.ContentTime = first.get("ContentTime") or first.get("AcquisitionTime") or first.get("StudyTime") or "000000"
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime"):
        ds.pop(keyword, None)
    for equipment in ds.get("ContributingEquipmentSequence") or ():
        equipment.pop("ContributionDateTime", None)
    dimensions = _uid(ds.SOPInstanceUID, "dimensions")
    for item in (*ds.DimensionOrganizationSequence, *ds.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    ds.file_meta.ImplementationVersionName = "MEDGEN"


def _uid(*content: str) -> str:
    """Return a UID derived from ``content``; it is deterministic (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(UIDS, chr(10).join(('SEG', *content))).int}"


def _highdicom() -> Any:
    try:
        import highdicom
        import highdicom.seg
        import highdicom.sr
    except ImportError as error:
        raise InputError(
            "dependency-missing", f"DICOM segmentations need highdicom: {EXTRA}; or use --format nifti"
        ) from error
    return highdicom

"""A label map as a DICOM segmentation (PS3.3 A.51) in the study, series and place of the images it was made of."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, dcmread

from medgen.errors import InputError
from medgen.io.atomic import atomic_write
from medgen.io.dicom.header import is_scan, read_header, settle_charset
from medgen.io.dicom.quiet import quiet_pydicom
from medgen.io.dicom.references import NOTICE, UIDS
from medgen.io.dicom.report import EXTRA, TYPE_2, short
from medgen.io.dicom.series import Series, check_unchanged, choose, grouped, list_series
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
    """Write a label map as a binary segmentation into the file ``out``: one segment for each structure.

    Patient and study are the source images'. Same labels, images and algorithm: same UIDs and same bytes.

    Args:
        labels: whole numbers on the source's grid, 0 for the background. With ``frames`` it tells its images itself.
        names: {label: structure}; a label without a name is called by its number. A structure that is not in the map
            is left out.
        source: the series' folder or its files.
        algorithm, version: what found the structures.

    Raises:
        InputError: highdicom is missing, labels off the source's grid or none at all, several enhanced images, or what
            cannot be read or written.
    """
    highdicom = _highdicom()
    seg = highdicom.seg
    images, values = _aligned(labels, source)
    found = [int(value) for value in np.unique(values) if value]
    if not found:
        raise InputError(
            "labels-all-background",
            f"{out} is not written: no voxel carries a label, and a segmentation needs a segment",
        )
    numbers = np.searchsorted([0, *found], values).astype(np.uint16 if len(found) > 255 else np.uint8)
    first = images[0]
    told = f"{algorithm} {version} {[(v, names.get(v)) for v in found]} {hashlib.sha256(numbers.tobytes()).hexdigest()}"
    synthetic = str(first.get("SeriesDescription", "")).startswith(NOTICE)
    notice = NOTICE if synthetic else "AUTOMATIC, not for primary diagnosis"
    family = highdicom.sr.CodedConcept("123110", "DCM", "Artificial Intelligence")
    maker = highdicom.AlgorithmIdentificationSequence(short(algorithm, 64), family, short(version, 64))
    try:
        quiet_pydicom()
        ds = seg.Segmentation(
            images,
            numbers,
            seg.SegmentationTypeValues.BINARY,
            [_described(seg, n, v, names, maker) for n, v in enumerate(found, 1)],
            series_instance_uid=_uid(first.SeriesInstanceUID, algorithm, version),
            series_number=int(first.get("SeriesNumber") or 0) % 10**8 + 3,
            sop_instance_uid=_uid(first.SeriesInstanceUID, told),
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
            "dicom-header-not-referable", f"{out} is not written: the source's headers allow no segmentation ({error})"
        ) from error
    _settle(ds, first)
    with atomic_write(out) as aside:
        ds.save_as(aside, enforce_file_format=True)


def _aligned(labels: Volume, source: Path | Sequence[Path]) -> tuple[list[Dataset], np.ndarray]:
    """The images' headers, and the labels (frames, rows, columns) in their order."""
    if labels.frames is None:
        frames = _frames(labels, source)
    else:
        frames = list(labels.frames)
    files = list(dict.fromkeys(file for file, _ in frames))
    try:
        images: list[Dataset] = [dcmread(file, stop_before_pixels=True, force=True) for file in files]
    except Exception as error:  # pydicom raises nearly anything on damaged files
        raise InputError(
            "dicom-unreadable", f"{files[0].parent} has an image that cannot be read ({error}); copy it again"
        ) from error
    check_unchanged(labels)
    for image in images:
        settle_charset(image)
    for keyword in TYPE_2:
        for image in images:
            if keyword not in image:
                setattr(image, keyword, "")
    planes = np.rint(labels.data).astype(np.int64).transpose(2, 1, 0)
    if (planes != labels.data.transpose(2, 1, 0)).any() or planes.min() < 0:
        raise InputError(
            "labels-values-invalid",
            f"{labels.path or 'the label map'} holds values that are no labels (whole numbers from 0)",
        )
    if "PerFrameFunctionalGroupsSequence" not in images[0]:
        return images, planes
    if len(images) > 1:
        raise InputError(
            "dicom-several-enhanced-images",
            f"{files[0].parent}: segmentations of several enhanced images are not written; use --format nifti",
        )
    values = np.zeros((int(images[0].NumberOfFrames), *planes.shape[1:]), np.int64)
    values[[frame for _, frame in frames]] = planes
    return images, values


def _frames(labels: Volume, source: Path | Sequence[Path]) -> list[tuple[Path, int]]:
    if isinstance(source, Path):
        place, found = source, list_series(source)
    else:
        place, found = source[0].parent, _of_files(source)
    if not found:
        raise InputError("dicom-no-series", f"{place} holds no DICOM image series; name the series that was segmented")
    slices, geometry = stack(choose(found, None, place).slices, place)
    if not same_geometry(labels.geometry, geometry):
        raise InputError(
            "labels-grid-differs",
            f"{labels.path or 'the label map'} ({labels.geometry.describe()}) is not on the grid of {place} "
            f"({geometry.describe()}); segment that series itself",
        )
    return [(s.file, s.frame) for s in slices]


def _of_files(files: Sequence[Path]) -> list[Series]:
    headers = [(file, header) for file in files if (header := read_header(file)) is not None]
    return grouped((file, header) for file, header in headers if is_scan(header, file))


def _described(seg: Any, number: int, value: int, names: Mapping[int, str], maker: Any) -> Any:
    name = names.get(value, f"label {value}")
    category, kind = coded(name)
    item = seg.SegmentDescription(
        number,
        short(name, 64),
        category,
        kind,
        seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=maker,
    )
    item.SegmentDescription = short(f"{name}, value {value} of the label map", 1024)
    return item


def coded(name: str) -> tuple[Any, Any]:
    """Category and type (CID 7150, 7151 and the like) of a structure, as SNOMED CT codes."""
    from pydicom.sr.codedict import codes

    category, kind = snomed(name)
    return getattr(codes.SCT, category), getattr(codes.SCT, kind)


def _settle(ds: Dataset, first: Dataset) -> None:
    """In place of what highdicom takes from the clock and at random: the source's date, UIDs derived from the rest."""
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


def _uid(*told: str) -> str:
    """The same UID each time (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(UIDS, chr(10).join(('SEG', *told))).int}"


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

"""References from a derived DICOM object to its source images."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset

from medgen.io.dicom.pixels import PER_FRAME, SHARED

NOTICE = "SYNTHETIC, not for primary diagnosis"
UIDS = uuid.UUID("6b6a5c7e-3a39-5d0e-9a3e-0d1c4f0b2a51")  # namespace for the UIDs derived by medgen


@dataclass(frozen=True)
class Derivation:
    """How a volume was made: model, hash of the model, target contrast or domain, and medgen version.

    ``removes_contrast``: whether the target is an image without contrast medium.
    """

    model: str
    sha256: str
    target: str
    version: str
    removes_contrast: bool = False

    def uid(self, source: str) -> str:
        """Return the UID of the object derived from ``source``; it is deterministic (PS3.5 B.2)."""
        return f"2.25.{uuid.uuid5(UIDS, chr(10).join((source, self.sha256, self.target))).int}"

    def describe(self) -> str:
        return f"{NOTICE}: {self.target} made by model {self.model} (SHA-256 {self.sha256}) with medgen {self.version}"


def add_source_references(ds: Dataset, source: Dataset, derivation: Derivation, frames: Sequence[int] | None) -> None:
    """Add references to the source image to ``ds``; for an enhanced image, also mark each frame as derived (FrameType).

    Args:
        frames: None: store the references in the General Image module. Otherwise the source frame index (from 0) of
            each frame: store them in the Derivation Image functional group of each frame (PS3.3 C.7.6.16.2.6).
    """
    purpose = [coded_concept("121322", "DCM", "Source image for image processing operation")]
    derivation_codes = [coded_concept("SYNTHETIC", "99MEDGEN", "Synthetic image made by a trained model")]
    if frames is None:
        source.PurposeOfReferenceCodeSequence = purpose
        ds.SourceImageSequence, ds.DerivationCodeSequence = [source], derivation_codes
        return
    for group, frame in zip(ds[PER_FRAME].value, frames, strict=True):
        origin, item = Dataset(), Dataset()
        origin.update(source)
        origin.ReferencedFrameNumber, origin.PurposeOfReferenceCodeSequence = frame + 1, purpose
        item.DerivationDescription, item.DerivationCodeSequence = ds.DerivationDescription, derivation_codes
        item.SourceImageSequence = [origin]
        group.DerivationImageSequence = [item]
    for group in (*(ds.get(SHARED) or ()), *ds[PER_FRAME].value):
        for element in list(group):
            for inner in element.value if element.VR == "SQ" else ():
                if "FrameType" in inner:
                    inner.FrameType = ["DERIVED", "PRIMARY", *[str(v) for v in inner.FrameType][2:4]]


def reference(dataset: Dataset) -> Dataset:
    """Return an item that refers to a DICOM object by SOP class and instance UID."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    return item


def series_reference(images: Sequence[Dataset]) -> Dataset:
    """Return an item that refers to the images of one series."""
    item = Dataset()
    item.SeriesInstanceUID = images[0].SeriesInstanceUID
    item.ReferencedInstanceSequence = [reference(image) for image in images]
    return item


def evidence(study: str, series_references: Sequence[Dataset]) -> Dataset:
    """Convert series references to the form for enhanced images (PS3.3 C.8.15.2, table 10-3 Hierarchical SOP Instance).

    Args:
        study: StudyInstanceUID of all the series.
        series_references: items of ``series_reference``.
    """
    item = Dataset()
    item.StudyInstanceUID, item.ReferencedSeriesSequence = study, []
    for series in series_references:
        series_item = Dataset()
        series_item.SeriesInstanceUID = series.SeriesInstanceUID
        series_item.ReferencedSOPSequence = series.ReferencedInstanceSequence
        item.ReferencedSeriesSequence.append(series_item)
    return item


def coded_concept(value: str, scheme: str, meaning: str) -> Dataset:
    """Return an item with a code: code value, coding scheme designator and code meaning."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item

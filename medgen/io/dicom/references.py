"""References of a derived DICOM object to its sources."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset

from medgen.io.dicom.pixels import PER_FRAME, SHARED

NOTICE = "SYNTHETIC, not for primary diagnosis"
UIDS = uuid.UUID("6b6a5c7e-3a39-5d0e-9a3e-0d1c4f0b2a51")  # namespace of the UIDs that medgen derives


@dataclass(frozen=True)
class Derivation:
    """What made a volume: model, its hash, and the contrast or domain it makes; the program and its version."""

    model: str
    sha256: str
    target: str
    version: str
    removes_contrast: bool = False

    def uid(self, source: str) -> str:
        """The UID of what this makes of ``source``: the same each time (PS3.5 B.2)."""
        return f"2.25.{uuid.uuid5(UIDS, chr(10).join((source, self.sha256, self.target))).int}"

    def describe(self) -> str:
        return f"{NOTICE}: {self.target} made by model {self.model} (SHA-256 {self.sha256}) with medgen {self.version}"


def refer(ds: Dataset, source: Dataset, derivation: Derivation, frames: Sequence[int] | None) -> None:
    """Name the source image: in General Image, or frame by frame in the Derivation Image group (C.7.6.16.2.6)."""
    purpose = [coded_concept("121322", "DCM", "Source image for image processing operation")]
    made = [coded_concept("SYNTHETIC", "99MEDGEN", "Synthetic image made by a trained model")]
    if frames is None:
        source.PurposeOfReferenceCodeSequence = purpose
        ds.SourceImageSequence, ds.DerivationCodeSequence = [source], made
        return
    for group, frame in zip(ds[PER_FRAME].value, frames, strict=True):
        origin, item = Dataset(), Dataset()
        origin.update(source)
        origin.ReferencedFrameNumber, origin.PurposeOfReferenceCodeSequence = frame + 1, purpose
        item.DerivationDescription, item.DerivationCodeSequence = ds.DerivationDescription, made
        item.SourceImageSequence = [origin]
        group.DerivationImageSequence = [item]
    for group in (*(ds.get(SHARED) or ()), *ds[PER_FRAME].value):
        for element in list(group):
            for held in element.value if element.VR == "SQ" else ():
                if "FrameType" in held:
                    held.FrameType = ["DERIVED", "PRIMARY", *[str(v) for v in held.FrameType][2:4]]


def reference(dataset: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    return item


def series_reference(images: Sequence[Dataset]) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID = images[0].SeriesInstanceUID
    item.ReferencedInstanceSequence = [reference(image) for image in images]
    return item


def evidence(study: str, everything: Sequence[Dataset]) -> Dataset:
    """The same references as enhanced images list them (PS3.3 C.8.15.2, table 10-3 Hierarchical SOP Instance)."""
    item = Dataset()
    item.StudyInstanceUID, item.ReferencedSeriesSequence = study, []
    for series in everything:
        listed = Dataset()
        listed.SeriesInstanceUID = series.SeriesInstanceUID
        listed.ReferencedSOPSequence = series.ReferencedInstanceSequence
        item.ReferencedSeriesSequence.append(listed)
    return item


def coded_concept(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item

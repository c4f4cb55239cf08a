"""Write the verdict on a derived DICOM series as a structured report, and a PDF as an encapsulated document.

Patient and study are copied from the written derived series, so a de-identified series gets de-identified reports. UIDs
are derived from those of the series and from the content, so the same content gives the same UIDs.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, EncapsulatedPDFStorage, ExplicitVRLittleEndian

from medgen.errors import InputError
from medgen.io.atomic import atomic_write
from medgen.io.dicom.derived.references import NOTICE, Derivation
from medgen.io.dicom.header import settle_charset
from medgen.io.dicom.quiet import quiet_pydicom
from medgen.io.paths import require_path

EXTRA = "pip install 'medgen[dicom]'"
SCHEME = "99MEDGEN"
STATUSES = ("pass", "review", "fail")
PATIENT_AND_STUDY = (
    "SpecificCharacterSet PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex PatientAge PatientSize "
    "PatientWeight PatientIdentityRemoved DeidentificationMethod DeidentificationMethodCodeSequence StudyInstanceUID "
    "StudyDate StudyTime StudyID AccessionNumber ReferringPhysicianName StudyDescription "
    "LongitudinalTemporalInformationModified"
).split()
TYPE_2 = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID AccessionNumber "
    "ReferringPhysicianName"
).split()


def write_qa_report_sr(
    verdict: Mapping[str, Any], derived_series: Path, out: Path, *, derivation: Derivation, images: bool = True
) -> None:
    """Write the verdict on a derived series as a Comprehensive SR (PS3.3 A.35.3) to the file ``out``.

    Content tree: notice, verdict (code), reasons, measured values, observer (TID 1004), model (TID 4019), and the
    images of the derived and source series. The report is marked as unverified, because no person has read it.

    Args:
        verdict: as returned by ``qa.run``: ``status`` (pass, review, fail), ``reasons`` and ``values``.
        derived_series: folder written by ``write_derived``.
        derivation: how the series was made.
        images: list every image in the content tree; otherwise only in the evidence sequence.

    Raises:
        InputError: highdicom is missing, the series cannot be read, or ``out`` cannot be written.
        ValueError: the status is unknown.
    """
    sr = _highdicom().sr
    if verdict["status"] not in STATUSES:
        raise ValueError(f"status {verdict['status']!r} is not one of {', '.join(STATUSES)}")
    derived, sources, created = _series(Path(derived_series))
    content_key = json.dumps([verdict["status"], verdict["reasons"], _lines(verdict), created.isoformat()])
    quiet_pydicom()
    try:
        report = sr.ComprehensiveSR(
            evidence=[*derived, *sources],
            content=_tree(sr, verdict, derived, sources, derivation, images),
            series_instance_uid=derivation.uid(f"{derived[0].SeriesInstanceUID} SR"),
            series_number=_number(derived[0], 1),
            sop_instance_uid=derivation.uid(f"{derived[0].SeriesInstanceUID} {content_key}"),
            instance_number=1,
            manufacturer="medgen",
            is_complete=True,
            is_final=True,
            series_description=short(f"{NOTICE}: check, {verdict['status']}", 64),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            "dicom-header-not-referable",
            f"{derived_series} has a header that a report cannot reference ({error}); convert the series again",
        ) from error
    _stamp(report, derivation, created)
    report.file_meta.ImplementationVersionName = "MEDGEN"
    with atomic_write(out) as temporary:
        report.save_as(temporary, enforce_file_format=True)


def write_encapsulated_pdf(
    pdf: Path, derived_series: Path, out: Path, *, derivation: Derivation, title: str, names_patient: bool = True
) -> None:
    """Write a PDF as an Encapsulated PDF (PS3.3 A.45.1) in the study of a derived series to the file ``out``.

    Args:
        names_patient: whether the pages may identify the patient.

    Raises:
        InputError: the file is not a PDF, it may identify the patient of a de-identified series, or a file cannot be
            read or written.
    """
    derived, sources, created = _series(Path(derived_series))
    content = require_path(pdf).read_bytes()
    if not content.startswith(b"%PDF-"):
        raise InputError("report-not-pdf", f"{pdf} is not a PDF file; give the report as PDF")
    if names_patient and derived[0].get("PatientIdentityRemoved") == "YES":
        raise InputError(
            "report-may-name-patient",
            f"{derived_series} is de-identified, but {pdf} may name the patient; "
            "pass names_patient=False if it does not",
        )
    ds = FileDataset(str(out), {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    for keyword in PATIENT_AND_STUDY:
        if keyword in derived[0]:
            ds[keyword] = derived[0][keyword]
    ds.SOPClassUID, ds.Modality, ds.ConversionType = EncapsulatedPDFStorage, "DOC", "WSD"
    ds.SeriesInstanceUID = derivation.uid(f"{derived[0].SeriesInstanceUID} PDF")
    ds.SOPInstanceUID = derivation.uid(f"{derived[0].SeriesInstanceUID} {created.isoformat()} {content.hex()}")
    ds.SeriesNumber, ds.InstanceNumber = _number(derived[0], 2), 1
    ds.SeriesDescription, ds.DocumentTitle = short(f"{NOTICE}: {title}", 64), short(f"{NOTICE}: {title}", 1024)
    ds.ConceptNameCodeSequence = [_code(*CONCEPTS["report"])]
    ds.BurnedInAnnotation = "YES" if names_patient else "NO"
    ds.AcquisitionDateTime = ""
    ds.SourceInstanceSequence = [_reference(image) for image in (*derived, *sources)]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocumentLength = len(content)
    ds.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    _stamp(ds, derivation, created)
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID, ds.file_meta.ImplementationVersionName = PYDICOM_IMPLEMENTATION_UID, "MEDGEN"
    with atomic_write(out) as temporary:
        ds.save_as(temporary, enforce_file_format=True)


# Content tree -------------------------------------------------------------------------------------------

CONCEPTS = {
    "report": ("REPORT", SCHEME, "Check of a synthetic image"),
    "notice": ("NOTICE", SCHEME, "Notice"),
    "verdict": ("VERDICT", SCHEME, "Verdict"),
    "reasons": ("REASONS", SCHEME, "Reasons"),
    "reason": ("REASON", SCHEME, "Reason"),
    "values": ("VALUES", SCHEME, "Measured values"),
    "value": ("VALUE", SCHEME, "Measured value"),
    "derived": ("DERIVED", SCHEME, "Images judged"),
    "sources": ("SOURCES", SCHEME, "Images they were made of"),
    "image": ("121112", "DCM", "Source of Measurement"),
    "model": ("MODEL", SCHEME, "Model"),
}


def _tree(
    sr: Any,
    verdict: Mapping[str, Any],
    derived: Sequence[Dataset],
    sources: Sequence[Dataset],
    derivation: Derivation,
    images: bool,
) -> Dataset:
    def name(concept: str) -> Any:
        return sr.CodedConcept(*CONCEPTS[concept])

    def text(concept: str, value: str) -> Any:
        return sr.TextContentItem(name(concept), value, sr.RelationshipTypeValues.CONTAINS)

    def container(concept: str, items: Sequence[Any]) -> Any:
        item = sr.ContainerContentItem(name(concept), relationship_type=sr.RelationshipTypeValues.CONTAINS)
        item.ContentSequence = sr.ContentSequence(items)
        return item

    def image(ds: Dataset) -> Any:
        return sr.ImageContentItem(
            name("image"), ds.SOPClassUID, ds.SOPInstanceUID, relationship_type=sr.RelationshipTypeValues.CONTAINS
        )

    status = str(verdict["status"])
    language = sr.CodedConcept("en", "RFC5646", "English")
    items = [
        *sr.LanguageOfContentItemAndDescendants(language),
        *sr.ObserverContext(
            sr.CodedConcept("121007", "DCM", "Device"),
            sr.DeviceObserverIdentifyingAttributes(
                derivation.uid("device"),
                name="medgen",
                manufacturer_name="medgen",
                model_name=short(derivation.version, 64),
            ),
        ),
        text("notice", NOTICE),
        sr.CodeContentItem(
            name("verdict"), sr.CodedConcept(status.upper(), SCHEME, status), sr.RelationshipTypeValues.CONTAINS
        ),
    ]
    if verdict["reasons"]:
        items.append(container("reasons", [text("reason", _one_line_ascii(reason)) for reason in verdict["reasons"]]))
    if lines := _lines(verdict):
        items.append(container("values", [text("value", line) for line in lines]))
    model = sr.AlgorithmIdentification(
        short(derivation.model, 1024),
        short(derivation.sha256, 1024),
        parameters=[_one_line_ascii(f"target: {derivation.target}"), _one_line_ascii(f"medgen: {derivation.version}")],
        manufacturer="medgen",
    )
    for item in model:
        item.RelationshipType = "CONTAINS"
    items.append(container("model", list(model)))
    for concept, series in (("derived", derived), ("sources", sources)) if images else ():
        items.append(container(concept, [image(ds) for ds in series]))
    root = sr.ContainerContentItem(name("report"), is_content_continuous=False)
    root.ContentSequence = sr.ContentSequence(items)
    return root


def _lines(verdict: Mapping[str, Any]) -> list[str]:
    values = verdict.get("values") or {}
    return [_one_line_ascii(f"{k}: {v:.6g}" if isinstance(v, int | float) else f"{k}: {v}") for k, v in values.items()]


# The reported series -----------------------------------------------------------------------------------


def _series(folder: Path) -> tuple[list[Dataset], list[Dataset], datetime]:
    """Read the headers of the derived images, references to their sources, and the time the first file was written."""
    derived: list[Dataset] = []
    files = sorted(path for path in require_path(folder).iterdir() if path.suffix == ".dcm")
    for file in files:
        try:
            ds = dcmread(file, stop_before_pixels=True)
            if "Rows" in ds:
                ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.SOPClassUID, ds.StudyInstanceUID  # noqa: B018
                settle_charset(ds)
                derived.append(ds)
        except Exception as error:  # pydicom raises arbitrary exceptions on damaged files
            raise InputError(
                "dicom-not-derived-image",
                f"{file} is not a DICOM image of a derived series ({error}); convert it again",
            ) from error
    if not derived:
        raise InputError(
            "dicom-no-derived-series", f"{folder} contains no derived DICOM series; give a folder written by translate"
        )
    for keyword in TYPE_2:
        if keyword not in derived[0]:
            setattr(derived[0], keyword, "")
    sources = []
    for series_item in derived[0].get("ReferencedSeriesSequence") or ():
        for image in series_item.ReferencedInstanceSequence:
            source = Dataset()
            source.StudyInstanceUID, source.SeriesInstanceUID = (
                derived[0].StudyInstanceUID,
                series_item.SeriesInstanceUID,
            )
            source.SOPClassUID, source.SOPInstanceUID = image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID
            sources.append(source)
    return derived, sources, datetime.fromtimestamp(int(files[0].stat().st_mtime))


def _stamp(ds: Dataset, derivation: Derivation, created: datetime) -> None:
    """Set the equipment (PS3.3 C.7.5.1) and a reproducible time, so that writing again gives identical bytes."""
    ds.Manufacturer, ds.ManufacturerModelName = "medgen", short(derivation.model, 64)
    ds.SoftwareVersions, ds.DeviceSerialNumber = short(f"medgen {derivation.version}", 64), derivation.sha256[:64]
    ds.ContentDate, ds.ContentTime = f"{created:%Y%m%d}", f"{created:%H%M%S}"
    for keyword in ("InstanceCreationDate", "InstanceCreationTime", "SeriesDate", "SeriesTime"):
        if keyword in ds:
            delattr(ds, keyword)
    for equipment in ds.get("ContributingEquipmentSequence") or ():  # added by highdicom
        equipment.pop("ContributionDateTime", None)


def _number(derived: Dataset, offset: int) -> int:
    """Return the series number of the derived series (which ends in 01) plus ``offset``."""
    number = int(derived.get("SeriesNumber") or 0)
    return number + offset if 0 < number < 2**31 - 10 else offset


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [_code("121112", "DCM", "Source of Measurement")]
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _one_line_ascii(text: object) -> str:
    """Convert text to one line of ASCII, valid in any character set."""
    plain = str(text).encode("ascii", "replace").decode().replace("\\", "/")
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split()) or "-"


def short(text: object, length: int) -> str:
    """Convert text to one line of at most ``length`` ASCII characters, valid in any character set and VR."""
    return _one_line_ascii(text)[:length].strip()


def _highdicom() -> Any:
    try:
        import highdicom.sr
    except ImportError as error:
        raise InputError("dependency-missing", f"structured reports need highdicom: {EXTRA}") from error
    return highdicom

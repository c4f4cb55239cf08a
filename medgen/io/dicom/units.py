"""Which unit the modality values of a DICOM image have, by what the standard says of its object, not by its values."""

import re
from collections.abc import Iterable

from pydicom import Dataset
from pydicom.uid import UID

from medgen.io.dicom.header import GROUPS
from medgen.io.dicom.pixels import has_lut, has_rescale

HU = "HU"
UNSPECIFIED = "an unspecified unit (RescaleType US; if they are HU, set it to HU)"
HU_NAMES = {"HU", "[HNSF'U]", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS"}
CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture and, with a further component, its multi-frame forms
PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
# Derived pixel contrast and multi-energy terms of ImageType (PS3.3 C.8.16.1.4, C.8.2.1.1.1) that are no CT numbers.
NOT_CT_NUMBERS = set(
    "DIVISION MULTIPLICATION STD_DEVIATION SUBTRACTION QUANTITY "
    "MAT_SPECIFIC MAT_FRACTIONAL MAT_VALUE_BASED EFF_ATOMIC_NUM ELECTRON_DENSITY".split()
)
# Words of the ImageType of maps that scanners and workstations compute from CT; they are no CT numbers either, whatever
# the RescaleType: many of them say HU because the CT object asks for one.
PARAMETERS = set("CBF CBV RCBF RCBV MTT TTP TMAX TTD TTS PBF PBV PERMEABILITY KTRANS RHO ZEFF UNCERTAINTY".split())
# Words of derived images that mostly are maps, but not always, as they name what was shown as well as what was removed.
MATERIALS = set(
    "IODINE CALCIUM WATER FAT GADOLINIUM URIC DENS DENSITY PERFUSION FLOW VENTILATION FRACTION EXTRACTION MAP".split()
)
TAKEN_AWAY = set("REMOVED REMOVAL SUPPRESSED FREE WITHOUT NO NON MINUS VNC VUE VNI".split())
MODIFIED = "MAT_MODIFIED"  # of which only a RescaleType says whether the values are HU or HU_MOD
# Words of the ImageType of derived CT that is in HU: reformats, means, monoenergetic and virtual unenhanced images.
ORDINARY = set(
    "AXIAL CORONAL SAGITTAL OBLIQUE VOLUME MPR CPR REFORMATTED REFORMAT RESAMPLED RESAMPLE RECON REC ROTATED THICK "
    "AVERAGE AVG MEAN MEDIAN MIP MINIP MAX MIN MAXIMUM MINIMUM MAXIP AIP FILTERED FILTER ADDITION NONE OTHER "
    "HELICAL SPIRAL SEQUENCE SEQ SINGLE DUAL DE DET MIX MIXED COMPOSED MONO MONOENERGETIC MONOCHROMATIC VMI VNC VUE "
    "MAT REMOVED GSI KEV CT SOM SPI SEQ CSA PARALLEL CSAPARALLEL RANGE RANGES NORM STANDARD ORIGINAL PRIMARY SECONDARY "
    "DERIVED CARDIAC CTA CONVERTED LEGACY COMPRESSED LOSSY ANONYMIZED PROCESSED EDITED SUBSET SLICE VIEW".split()
)
SHARED, PER_FRAME = GROUPS


def doubt_of(dataset: Dataset, frame: int) -> str:
    """Why the values of a CT frame that ``unit_of`` takes for HU may be none; empty where nothing says so."""
    if dataset.get("Modality") != "CT" or unit_of(dataset, frame) != HU:
        return ""
    mapped = _mapping_unit(dataset, frame, rescaled=True) == HU
    if not (mapped or has_lut(dataset) or has_rescale(dataset, frame)):
        return "it has no RescaleSlope and RescaleIntercept, which CT must have: the stored values are taken as HU"
    terms = _terms(dataset, frame)
    derived = _text((dataset.get("ImageType") or [""])[0]) == "DERIVED"
    if maps := [term for term in terms if _material(term, derived)]:
        return f"its ImageType {maps[0]} names a material or a quantity: it may be a map, whose values are no HU"
    odd = [term for term in terms if derived and not _ordinary(term)]
    if not odd or mapped or _named(dataset, frame):
        return ""
    return f"it is derived CT of ImageType {odd[0]} without RescaleType: the unit is not stated, HU is assumed"


def _material(term: str, derived: bool) -> bool:
    """Whether a term names a material or quantity; of MAT_..., only MAT_REMOVED and MAT_MODIFIED may be in HU."""
    words = set(re.findall("[A-Z]+", term))
    return not words & TAKEN_AWAY and term != MODIFIED and ("MAT" in words or (derived and bool(words & MATERIALS)))


def _named(dataset: Dataset, frame: int) -> str:
    """The unit that the rescale of a frame, or its modality LUT, names."""
    rescale = _group(dataset, frame, "PixelValueTransformationSequence")
    if has_lut(dataset) and (kind := _text(dataset.ModalityLUTSequence[0].get("ModalityLUTType"))):
        return kind
    return _text((rescale or dataset).get("RescaleType") or dataset.get("RescaleType"))


def _ordinary(term: str) -> bool:
    return all(word in ORDINARY for word in re.findall("[A-Z]{2,}", term))


def unit_of(dataset: Dataset, frame: int) -> str:
    """The unit of the modality values (stored values after the rescale) of a frame.

    Returns:
        ``HU``, another unit with the element that names it, as ``MGML (RescaleType)``, or an empty text where nothing
        names one, as in MR. CT without a RescaleType is in HU, as PS3.3 C.8.2.1 requires the element for any other
        unit; a Secondary Capture or a parametric map is so only where it says it.
    """
    rescale = _group(dataset, frame, "PixelValueTransformationSequence")
    named = _named(dataset, frame)
    if units := _text(dataset.get("Units")):
        return f"{units} (Units)"
    if dataset.get("Modality") != "CT":
        return HU if named in HU_NAMES else f"{named} (RescaleType)" if named not in ("", "US") else ""
    for term in _terms(dataset, frame):
        if term in NOT_CT_NUMBERS or PARAMETERS & set(re.findall("[A-Z]+", term)):
            return f"{term} (ImageType)"
        if term == MODIFIED and not named:
            return f"{term} (ImageType, without RescaleType)"
    if named == "US":
        return UNSPECIFIED
    if named and named not in HU_NAMES:
        return f"{named} ({'ModalityLUTType' if has_lut(dataset) else 'RescaleType'})"
    mapping = _mapping_unit(dataset, frame, rescaled=(rescale or dataset).get("RescaleSlope") is not None)
    if mapping not in ("", HU):
        return mapping
    kind = str(dataset.get("SOPClassUID", ""))
    if (kind.startswith(CAPTURES) or kind == PARAMETRIC_MAP) and not (named or mapping):
        return f"no unit ({UID(kind).name} without RescaleType)"
    return HU


def _mapping_unit(dataset: Dataset, frame: int, rescaled: bool) -> str:
    """HU where a real-world mapping leads to it from the modality values, another unit where all do, empty without."""
    mappings = _items(dataset.get("RealWorldValueMappingSequence"))
    mappings += _groups(dataset, frame, "RealWorldValueMappingSequence")
    units = {mapping_unit(item): item for item in mappings}
    hounsfield = next((item for unit, item in units.items() if unit.upper() in HU_NAMES), None)
    if hounsfield is None:
        return "".join(f"{unit or 'no unit'} (RealWorldValueMapping)" for unit in list(units)[:1])
    slope, intercept = hounsfield.get("RealWorldValueSlope"), hounsfield.get("RealWorldValueIntercept")
    if rescaled or (slope is not None and (float(slope), float(intercept or 0)) == (1, 0)):
        return HU
    return "stored values that only a RealWorldValueMapping turns into HU"


def mapping_unit(item: Dataset) -> str:
    """The unit of one item of a RealWorldValueMappingSequence (PS3.3 C.7.6.16.2.11), as its code has it."""
    codes = _items(item.get("MeasurementUnitsCodeSequence"))
    return str(codes[0].get("CodeValue") or codes[0].get("CodeMeaning") or "") if codes else ""


def _terms(dataset: Dataset, frame: int) -> list[str]:
    """ImageType, and FrameType of any functional group, from the third value on."""
    found = [dataset.get("ImageType")]
    for items in (dataset.get(SHARED), _items(dataset.get(PER_FRAME))[frame : frame + 1]):
        for group in _items(items):
            found += [held.get("FrameType") for e in group if e.VR == "SQ" for held in e.value if "FrameType" in held]
    return [_text(value) for values in found if values and not isinstance(values, str) for value in list(values)[2:]]


def _group(dataset: Dataset, frame: int, keyword: str) -> Dataset | None:
    """The first item of a functional group: the frame's own, else the shared one."""
    return next(iter(_groups(dataset, frame, keyword)), None)


def _groups(dataset: Dataset, frame: int, keyword: str) -> list[Dataset]:
    own = _items(dataset.get(PER_FRAME))[frame : frame + 1]
    return [item for group in (*own, *_items(dataset.get(SHARED))) for item in _items(group.get(keyword))]


def _items(value: Iterable[Dataset] | None) -> list[Dataset]:
    return list(value or ())


def _text(value: object) -> str:
    return str(value or "").strip(" \0").upper()

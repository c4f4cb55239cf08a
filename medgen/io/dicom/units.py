"""Determine the unit of the modality values of a DICOM image from its header, never from the values."""

import re
from collections.abc import Iterable

from pydicom import Dataset
from pydicom.uid import UID

from medgen.io.dicom.header import GROUPS
from medgen.io.dicom.pixels import has_lut, has_rescale, lacking_rescale

HU = "HU"
NO_UNIT = ("an unspecified unit", "no unit", "stored values")  # how descriptions of a missing unit begin
UNSPECIFIED = "an unspecified unit (RescaleType US; if the values are in HU, set RescaleType to HU)"
HU_NAMES = {"HU", "[HNSF'U]", "HOUNSFIELD", "HOUNSFIELD UNIT", "HOUNSFIELD UNITS"}
CAPTURES = "1.2.840.10008.5.1.4.1.1.7"  # Secondary Capture; its multi-frame SOP classes append a component
PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
# Derived pixel contrast and multi-energy terms of ImageType (PS3.3 C.8.16.1.4, C.8.2.1.1.1) for values that are not HU.
NOT_CT_NUMBERS = set(
    "DIVISION MULTIPLICATION STD_DEVIATION SUBTRACTION QUANTITY "
    "MAT_SPECIFIC MAT_FRACTIONAL MAT_VALUE_BASED EFF_ATOMIC_NUM ELECTRON_DENSITY".split()
)
# ImageType words of maps that scanners and workstations compute from CT. Their values are not HU even if RescaleType
# is HU: many maps state HU only because the CT object requires a RescaleType.
PARAMETERS = set("CBF CBV RCBF RCBV MTT TTP TMAX TTD TTS PBF PBV PERMEABILITY KTRANS RHO ZEFF UNCERTAINTY".split())
# ImageType words of derived images that are usually maps or differences; they may also name a removed material.
MATERIALS = set(
    "IODINE CALCIUM WATER FAT GADOLINIUM URIC DENS DENSITY PERFUSION FLOW VENTILATION FRACTION EXTRACTION MAP "
    "SUBTRACTED SUBTRACT SUBTR DIFFERENCE DIFF RATIO".split()
)
# Maps that only their description tells, with an ordinary ImageType.
MAP_DESCRIBED = re.compile(
    r"\bmd\W|material[\s_-]*(density|map)|(iodine|calcium|water|fat|uric\w*)[\s_-]*(map|density|image|overlay|\()|"
    r"\bz[\s_-]*eff|eff\w*[\s_-]*(z\b|atomic)|electron[\s_-]*density|perfusion[\s_-]*map|\b(r?cb[fv]|mtt|ttp|tmax|pbv)\b|"
    r"[\[(]\s*([muµ]|mc)?g\s*/\s*(ml|cc|cm)|%\s*edw|\bhu\s*\*|\b(de|dect|spectral)[\s_-]*iodine|"
    r"(\b|\bsure)subtract(ed|ion)|\bdifference|\becv\b|\bffr\b|\bffr[\s_-]*ct|\bspr\b|stopping[\s_-]*power|\brho\b|\brhoz\b|"
    r"(fat|water|iodine|volume)[\s_-]*fraction",
    re.IGNORECASE,
)
MATERIAL_ALONE = re.compile(r"(iodine|calcium|water|fat|uric[\s_-]*acid|gadolinium)[\W\d]*(mm)?", re.IGNORECASE)
_MATERIAL = "(contrast|iodine|calcium|water|fat|bone|uric[\\s_-]*acid)"
_AWAY = "(removed|removal|suppressed|suppression|free|subtracted)"
# What a name says is not there: "Iodine removed", "no Water". The rest of the name says what the image shows.
TAKEN_AWAY = re.compile(
    rf"\bv(nc|ue|ni)\b([\s_-]*{_MATERIAL})?|\b(no|non|without|minus|w/o)[\s_-]*{_MATERIAL}|{_MATERIAL}[\s_-]*{_AWAY}",
    re.IGNORECASE,
)
MODIFIED = "MAT_MODIFIED"  # only RescaleType tells whether the values are HU or HU_MOD
# ImageType words of derived CT in HU: reformats, means, monoenergetic and virtual unenhanced images.
ORDINARY = set(
    "AXIAL CORONAL SAGITTAL OBLIQUE VOLUME MPR CPR REFORMATTED REFORMAT RESAMPLED RESAMPLE RECON REC ROTATED THICK "
    "AVERAGE AVG MEAN MEDIAN MIP MINIP MAX MIN MAXIMUM MINIMUM MAXIP AIP FILTERED FILTER ADDITION NONE OTHER "
    "HELICAL SPIRAL SEQUENCE SEQ SINGLE DUAL DE DET MIX MIXED COMPOSED MONO MONOENERGETIC MONOCHROMATIC VMI VNC VUE "
    "MAT REMOVED GSI KEV CT SOM SPI SEQ CSA PARALLEL CSAPARALLEL RANGE RANGES NORM STANDARD ORIGINAL PRIMARY SECONDARY "
    "DERIVED CARDIAC CTA CONVERTED LEGACY COMPRESSED LOSSY ANONYMIZED PROCESSED EDITED SUBSET SLICE VIEW".split()
)
SHARED, PER_FRAME = GROUPS


def unit_warning(dataset: Dataset, frame: int) -> str:
    """Return why CT values may not be HU although ``unit_of`` returns HU; empty if there is no reason."""
    if dataset.get("Modality") != "CT" or unit_of(dataset, frame) != HU:
        return ""
    maps_to_hu = _mapping_unit(dataset, frame, rescaled=True) == HU
    if not (maps_to_hu or has_lut(dataset) or has_rescale(dataset, frame)):
        return (
            "the CT image lacks RescaleSlope and RescaleIntercept, which are required; HU is assumed for stored values"
        )
    if lacking := lacking_rescale(dataset, frame):
        return f"the CT image lacks {lacking}, which is required and may have been removed; its usual value is assumed"
    if contradiction := _other_hu(dataset, frame):
        return contradiction
    terms = _terms(dataset, frame)
    derived = _text((dataset.get("ImageType") or [""])[0]) == "DERIVED"
    if maps := [term for term in terms if _is_material(term, derived)]:
        return f"ImageType {maps[0]} names a material, a quantity or a difference; its values may not be in HU"
    described = str(dataset.get("SeriesDescription") or "")
    shown = TAKEN_AWAY.sub(" ", described.replace("_", " "))
    if MAP_DESCRIBED.search(shown) or (derived and MATERIAL_ALONE.fullmatch(shown.strip())):
        return f"SeriesDescription '{described}' names a map or a difference; its values may not be in HU"
    unknown = [term for term in terms if derived and not _is_hu_term(term)]
    if not unknown or maps_to_hu or _stated_unit(dataset, frame):
        return ""
    return f"the derived CT image of ImageType {unknown[0]} has no RescaleType and states no unit; HU is assumed"


def _is_material(term: str, derived: bool) -> bool:
    """Whether a term names a material or quantity; of MAT_..., only MAT_REMOVED and MAT_MODIFIED may be in HU."""
    words = set(re.findall("[A-Z]+", TAKEN_AWAY.sub(" ", term.replace("_", " "))))
    removes = "REMOVED" in words
    return not removes and term != MODIFIED and ("MAT" in words or (derived and bool(words & MATERIALS)))


def _stated_unit(dataset: Dataset, frame: int) -> str:
    """Return the unit named by the modality LUT or the rescale of a frame; empty if none."""
    rescale = _group(dataset, frame, "PixelValueTransformationSequence")
    if has_lut(dataset) and (kind := _text(dataset.ModalityLUTSequence[0].get("ModalityLUTType"))):
        return kind
    return _text((rescale or dataset).get("RescaleType") or dataset.get("RescaleType"))


def _is_hu_term(term: str) -> bool:
    return all(word in ORDINARY for word in re.findall("[A-Z]{2,}", term))


def unit_of(dataset: Dataset, frame: int) -> str:
    """Return the unit of the modality values (stored values after the rescale) of a frame.

    Returns:
        ``HU``; another unit with the element that names it, such as ``MGML (RescaleType)``; or an empty string if no
        element names a unit, as in MR. CT without a RescaleType is in HU, because PS3.3 C.8.2.1 requires the element
        for any other unit. A Secondary Capture or a parametric map is in HU only if an element says so.
    """
    rescale = _group(dataset, frame, "PixelValueTransformationSequence")
    stated_unit = _stated_unit(dataset, frame)
    if units := _text(dataset.get("Units")):
        return f"{units} (Units)"
    if dataset.get("Modality") != "CT":
        return (
            HU if stated_unit in HU_NAMES else f"{stated_unit} (RescaleType)" if stated_unit not in ("", "US") else ""
        )
    for term in _terms(dataset, frame):
        if term in NOT_CT_NUMBERS or PARAMETERS & set(re.findall("[A-Z]+", term)):
            return f"{term} (ImageType)"
        if term == MODIFIED and not stated_unit:
            return f"{term} (ImageType, without RescaleType)"
    if stated_unit == "US":
        return UNSPECIFIED
    if stated_unit and stated_unit not in HU_NAMES:
        return f"{stated_unit} ({'ModalityLUTType' if has_lut(dataset) else 'RescaleType'})"
    mapping = _mapping_unit(dataset, frame, rescaled=(rescale or dataset).get("RescaleSlope") is not None)
    if mapping not in ("", HU):
        return mapping
    kind = str(dataset.get("SOPClassUID", ""))
    if (kind.startswith(CAPTURES) or kind == PARAMETRIC_MAP) and not (stated_unit or mapping):
        return f"no unit ({UID(kind).name} without RescaleType)"
    return HU


def _mapping_unit(dataset: Dataset, frame: int, rescaled: bool) -> str:
    """Return the unit named by the real-world value mappings; empty if there are none.

    HU is returned only if a mapping to HU applies to modality values: the frame is rescaled, or the mapping is the
    identity.
    """
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


def _other_hu(dataset: Dataset, frame: int) -> str:
    """Say that a real-world value mapping turns stored values into other HU than the rescale does; empty if not.

    A mapping of slope 1 and intercept 0 is meant for the modality values.
    """
    rescale = _group(dataset, frame, "PixelValueTransformationSequence") or dataset
    defaults = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    own = tuple(float(value) if (value := rescale.get(key)) not in (None, "") else usual for key, usual in defaults)
    mappings = _items(dataset.get("RealWorldValueMappingSequence"))
    for item in mappings + _groups(dataset, frame, "RealWorldValueMappingSequence"):
        slope, intercept = item.get("RealWorldValueSlope"), item.get("RealWorldValueIntercept")
        if mapping_unit(item).upper() in HU_NAMES and slope is not None:
            other = (float(slope), float(intercept or 0))
            if has_rescale(dataset, frame) and other not in ((1.0, 0.0), own):
                return (
                    f"the rescale (slope {own[0]:g}, intercept {own[1]:g}) and the RealWorldValueMapping (slope "
                    f"{other[0]:g}, intercept {other[1]:g}) give different HU; the rescale is used"
                )
    return ""


def mapping_unit(item: Dataset) -> str:
    """Return the unit code of an item of a RealWorldValueMappingSequence (PS3.3 C.7.6.16.2.11); empty if absent."""
    codes = _items(item.get("MeasurementUnitsCodeSequence"))
    return str(codes[0].get("CodeValue") or codes[0].get("CodeMeaning") or "") if codes else ""


def _terms(dataset: Dataset, frame: int) -> list[str]:
    """Return the third and later values of ImageType, and of FrameType in the functional groups."""
    found = [dataset.get("ImageType")]
    for items in (dataset.get(SHARED), _items(dataset.get(PER_FRAME))[frame : frame + 1]):
        for group in _items(items):
            found += [
                inner.get("FrameType") for e in group if e.VR == "SQ" for inner in e.value if "FrameType" in inner
            ]
    return [_text(value) for values in found if values and not isinstance(values, str) for value in list(values)[2:]]


def _group(dataset: Dataset, frame: int, keyword: str) -> Dataset | None:
    """Return the first item of a functional group: that of the frame, else the shared one."""
    return next(iter(_groups(dataset, frame, keyword)), None)


def _groups(dataset: Dataset, frame: int, keyword: str) -> list[Dataset]:
    frame_groups = _items(dataset.get(PER_FRAME))[frame : frame + 1]
    return [item for group in (*frame_groups, *_items(dataset.get(SHARED))) for item in _items(group.get(keyword))]


def _items(value: Iterable[Dataset] | None) -> list[Dataset]:
    return list(value or ())


def _text(value: object) -> str:
    return str(value or "").strip(" \0").upper()

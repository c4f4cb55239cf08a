"""The unit of an image's values according to the standard."""

import numpy as np
import pydicom
import pytest
from dicom_series import item, stored, write_ct, write_enhanced_ct
from refusal import refused

from medgen.io.dicom.units import UNSPECIFIED, unit_of, unit_warning
from medgen.io.read import read_volume

OTHERS = ("MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT", "US", "OD", "10^-3 1/MM", "mgml ")
CAPTURE, CT = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.2"


def image(**elements):
    return item(**{"SOPClassUID": CT, "Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024, **elements})


def mapping(unit, slope=1.0, intercept=0.0):
    code = item(CodeValue=unit, CodingSchemeDesignator="UCUM", CodeMeaning=unit)
    return [item(MeasurementUnitsCodeSequence=[code], RealWorldValueSlope=slope, RealWorldValueIntercept=intercept)]


@pytest.mark.parametrize(
    "elements",
    [
        {},
        {"RescaleType": "HU"},
        {"RescaleType": " hu"},
        {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "VMI"], "RescaleType": "HU"},  # monoenergetic
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_REMOVED"]},  # virtual non-contrast
        {"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"]},
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        {"ImageType": ["ORIGINAL", "PRIMARY", "PERFUSION"]},  # source scans of perfusion maps
        {"RealWorldValueMappingSequence": mapping("[hnsf'U]"), "RescaleType": "HU"},
        {"SOPClassUID": CAPTURE, "RescaleType": "HU"},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.30", "RealWorldValueMappingSequence": mapping("[hnsf'U]")},
    ],
)
def test_ct_is_in_hu_unless_its_header_says_otherwise(elements):
    assert unit_of(image(**elements), 0) == "HU"


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("image_type", ["ORIGINAL", "DERIVED"])
def test_another_rescale_type_is_another_unit(kind, image_type):
    given = image(RescaleType=kind, ImageType=[image_type, "PRIMARY", "AXIAL"])
    expected = UNSPECIFIED if kind == "US" else f"{kind.strip().upper()} (RescaleType)"
    assert unit_of(given, 0) == expected


@pytest.mark.parametrize(
    "elements, unit",
    [
        *(({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", term]}, f"{term} (ImageType)") for term in
          ("MAT_SPECIFIC", "MAT_FRACTIONAL", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "SUBTRACTION", "STD_DEVIATION")),
        ({"ImageType": ["DERIVED", "PRIMARY", "PERFUSION", "QUANTITY"], "RescaleType": "HU"}, "QUANTITY (ImageType)"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_VALUE_BASED"]}, "MAT_VALUE_BASED (ImageType)"),
        *(({"ImageType": ["DERIVED", "SECONDARY", *terms], "RescaleType": "HU"}, f"{terms[-1].upper()} (ImageType)")
          for terms in (["PERFUSION", "CBF"], ["AXIAL", "Tmax"], ["OTHER", "CT_SOM7 PBV"], ["AXIAL", "PERF_MTT"],
                        ["AXIAL", "CT_SOM8 RHO"], ["AXIAL", "ZEFF"])),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_MODIFIED"]},
         "MAT_MODIFIED (ImageType, without RescaleType)"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "MAT_MODIFIED"], "RescaleType": "HU"}, "HU"),
        ({"RealWorldValueMappingSequence": mapping("mg/cm3")}, "mg/cm3 (RealWorldValueMapping)"),
        ({"RealWorldValueMappingSequence": mapping("mg/ml"), "RescaleType": "HU"}, "mg/ml (RealWorldValueMapping)"),
        ({"SOPClassUID": CAPTURE}, "no unit (Secondary Capture Image Storage without RescaleType)"),
        ({"SOPClassUID": f"{CAPTURE}.3"}, "no unit (Multi-frame Grayscale Word Secondary Capture Image Storage without "
          "RescaleType)"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.30"}, "no unit (Parametric Map Storage without RescaleType)"),
        ({"Modality": "PT", "Units": "BQML"}, "BQML (Units)"),
        ({"Modality": "PT", "Units": "GML", "RescaleType": "US"}, "GML (Units)"),
        ({"Modality": "MR", "RescaleType": "US"}, ""),
        ({"Modality": "MR"}, ""),
        ({"Modality": "US"}, ""),
        ({"Modality": "MR", "RescaleType": "HU"}, "HU"),
        ({"Modality": "MR", "RescaleType": "MM2/S"}, "MM2/S (RescaleType)"),
    ],
)  # fmt: skip
def test_unit_other_than_hu_is_named(elements, unit):
    assert unit_of(image(**elements), 0) == unit


def test_stored_values_that_only_a_mapping_converts_to_hu_are_not_hu():
    given = image(RealWorldValueMappingSequence=mapping("[hnsf'U]", 1.0, -1024.0))
    assert unit_of(given, 0) == "HU"
    del given.RescaleSlope, given.RescaleIntercept
    assert "only a RealWorldValueMapping" in unit_of(given, 0)


@pytest.mark.parametrize("place", ["shared", "frame", "beside"])
@pytest.mark.parametrize("what", ["rescale", "mapping", "frame type"])
def test_units_in_the_functional_groups_of_enhanced_images(tmp_path, place, what):
    write_enhanced_ct(tmp_path / "a.dcm", stored(3, 8, 9))
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    assert read_volume(tmp_path).unit == "HU"
    for group in ds.PerFrameFunctionalGroupsSequence:
        del group.PixelValueTransformationSequence
    groups = {
        "shared": [ds.SharedFunctionalGroupsSequence[0]],
        "frame": list(ds.PerFrameFunctionalGroupsSequence),
        "beside": [ds],
    }[place]
    for group in groups:
        if what == "rescale":
            group.PixelValueTransformationSequence = [item(RescaleSlope=1, RescaleIntercept=0, RescaleType="Z_EFF")]
            if place == "beside":
                del group.PixelValueTransformationSequence
                ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, "Z_EFF"
        elif what == "mapping":
            group.RealWorldValueMappingSequence = mapping("mg/ml")
        elif place == "beside":
            ds.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "MAT_SPECIFIC"]
        else:
            group.CTImageFrameTypeSequence = [item(FrameType=["DERIVED", "PRIMARY", "VOLUME", "MAT_SPECIFIC"])]
    ds.save_as(tmp_path / "a.dcm")
    named = {"rescale": "Z_EFF", "mapping": "mg/ml", "frame type": "MAT_SPECIFIC"}[what]
    assert read_volume(tmp_path).unit.startswith(named)


def test_slices_of_two_units_are_refused(tmp_path):
    write_ct(tmp_path, stored(4, 8, 9), RescaleType=lambda k: ["HU", "MGML"][k > 1])
    with refused("dicom-units-differ", names=("000.dcm", "HU", "002.dcm", "MGML")):
        read_volume(tmp_path)


def test_frames_of_two_units_are_named_by_their_numbers(tmp_path):
    write_enhanced_ct(tmp_path / "a.dcm", stored(4, 8, 9))
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    ds.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence[0].RescaleType = "MGML"
    ds.save_as(tmp_path / "a.dcm")
    with refused("dicom-units-differ", names=("a.dcm frame 1", "HU", "a.dcm frame 3", "MGML")):
        read_volume(tmp_path)


def with_lut(ds, values, kind="HU"):
    """Add a modality LUT that maps 12-bit stored values to ``values``."""
    table = item(LUTDescriptor=[len(values), 0, 16], ModalityLUTType=kind)
    table.add_new("LUTData", "OW", np.asarray(values, "<u2").tobytes())
    ds.ModalityLUTSequence = [table]
    return ds


@pytest.mark.parametrize("kind, unit", [("HU", "HU"), ("OD", "OD (ModalityLUTType)"), ("US", UNSPECIFIED)])
def test_a_modality_lut_names_its_unit(kind, unit):
    assert unit_of(with_lut(image(), range(4096), kind), 0) == unit


@pytest.mark.parametrize("intercept, fits", [("100", True), ("0", False), ("-1024", False)])
def test_a_modality_lut_beside_a_rescale_that_gives_other_values(tmp_path, intercept, fits):
    pixels = stored(3, 8, 9)
    write_ct(tmp_path, pixels, rescale=lambda k: (1, intercept))
    for path in tmp_path.iterdir():
        with_lut(pydicom.dcmread(path), np.arange(4096) + 100).save_as(path)
    if fits:
        np.testing.assert_array_equal(read_volume(tmp_path).data, pixels.transpose(2, 1, 0) + 100.0)
        return
    with refused("dicom-lut-and-rescale"):
        read_volume(tmp_path)


@pytest.mark.parametrize("place", ["frame", "shared"])
def test_enhanced_ct_without_rescale_causes_a_warning(tmp_path, place):
    write_enhanced_ct(tmp_path / "a.dcm", stored(3, 8, 9))
    ds = pydicom.dcmread(tmp_path / "a.dcm")
    for group in ds.PerFrameFunctionalGroupsSequence:
        del group.PixelValueTransformationSequence
    if place == "shared":
        ds.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [item(RescaleType="HU")]
    ds.save_as(tmp_path / "a.dcm")
    assert ["HU is assumed for stored values" in text for text in read_volume(tmp_path).warnings] == [True]


@pytest.mark.parametrize(
    "terms, doubtful",
    [
        (["DERIVED", "SECONDARY", "AXIAL", "CT_SOM7 DE IODINE"], True),
        (["DERIVED", "SECONDARY", "AXIAL", "CALCIUM_MAP"], True),
        (["DERIVED", "SECONDARY", "AXIAL", "GSI WATER"], True),
        (["DERIVED", "SECONDARY", "AXIAL", "FAT_FRACTION"], True),
        (["ORIGINAL", "PRIMARY", "AXIAL", "MAT_DENS_WATER"], True),
        (["DERIVED", "SECONDARY", "AXIAL", "MAT_REMOVED"], False),
        (["DERIVED", "SECONDARY", "AXIAL", "CALCIUM REMOVED"], False),
        (["DERIVED", "SECONDARY", "AXIAL", "VNC IODINE"], False),
        (["DERIVED", "SECONDARY", "AXIAL", "IODINE_NO_WATER"], True),
        (["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SEQ", "FLOW"], False),
        (["ORIGINAL", "PRIMARY", "PERFUSION"], False),
        (["DERIVED", "SECONDARY", "AXIAL", "SUBTRACTED"], True),
        (["DERIVED", "SECONDARY", "AXIAL", "BONE SUBTRACTED"], False),
        (["DERIVED", "SECONDARY", "AXIAL", "CT_SOM8 TIP"], False),
    ],
)
def test_material_terms_cause_a_warning_although_the_rescale_type_is_hu(terms, doubtful):
    given = image(ImageType=terms, RescaleType="HU")
    assert unit_of(given, 0) == "HU" and ("names a material" in unit_warning(given, 0)) == doubtful


def test_values_do_not_depend_on_the_unit(tmp_path):
    pixels = stored(3, 8, 9)
    write_ct(tmp_path, pixels, RescaleType="MGML", RescaleSlope="0.1", RescaleIntercept="0")
    volume = read_volume(tmp_path)
    assert volume.unit == "MGML (RescaleType)"
    np.testing.assert_allclose(volume.data, 0.1 * pixels.transpose(2, 1, 0), rtol=1e-6)


@pytest.mark.parametrize(
    "elements, doubtful",
    [
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM7 PERF", "STRANGE"]}, True),
        ({"ImageType": ["DERIVED", "SECONDARY", "ODD"]}, True),
        ({"ImageType": ["DERIVED", "SECONDARY", "ODD"], "RescaleType": "HU"}, False),
        ({"ImageType": ["DERIVED", "SECONDARY", "TTP"], "Modality": "MR"}, False),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI", "STRANGE"]}, False),
        *(({"ImageType": ["DERIVED", "SECONDARY", *terms.split("/")]}, False) for terms in
          ("AXIAL", "REFORMATTED/AVERAGE", "MPR", "AXIAL/CT_SOM5 MPR", "MIP", "MPR/CSA MPR//CSAPARALLEL", "AXIAL/VMI",
           "AXIAL/MAT_REMOVED", "AXIAL/CT_SOM7 SPI DE")),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, False),
        ({"RescaleSlope": None, "RescaleIntercept": None}, True),
        ({"RescaleSlope": "1", "RescaleIntercept": None}, True),
        *(({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"], "RescaleType": "HU", "SeriesDescription": name}, doubtful)
          for name, doubtful in (("Iodine", True), ("Iodine no Water", True), ("ECV map", True), ("SPR", True),
                                 ("FFR-CT", True), ("Fat Fraction", True), ("Abdomen Iodine 300", False),
                                 ("VNC", False), ("Iodine removed", False), ("Rhodes protocol", False))),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SeriesDescription": "RhoZ Rho"}, True),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SeriesDescription": "Stopping Power Ratio"}, True),
        ({"RescaleSlope": "1", "RescaleIntercept": ""}, True),
        ({"RescaleSlope": None, "RescaleIntercept": "0"}, True),
        ({"RescaleSlope": "1", "RescaleIntercept": "0"}, False),
        ({"RescaleSlope": None, "RescaleIntercept": None, "Modality": "MR"}, False),
    ],
)  # fmt: skip
def test_doubtful_hu_causes_a_warning(elements, doubtful):
    assert bool(unit_warning(image(**elements), 0)) == doubtful


def test_ct_without_a_rescale_is_read_with_a_warning(tmp_path):
    write_ct(tmp_path / "a", stored(3, 8, 9))
    assert read_volume(tmp_path / "a").warnings == ()
    write_ct(tmp_path / "b", stored(3, 8, 9), RescaleSlope=None, RescaleIntercept=None)
    (warning,) = read_volume(tmp_path / "b").warnings
    assert "RescaleSlope" in warning


@pytest.mark.parametrize(
    ("description", "doubtful"),
    [("MD:Iodine(Water)", True), ("Iodine map 70", True), ("Z-eff", True), ("Perfusion map CBV", True)]
    + [("Abdomen portal venous 1.5 Br40", False), ("Iodine removed (VNC)", False), ("MonoE 70 keV", False)]
    + [("Iodine no Water [mg/ml]", True), ("Iodine Density [mg/ml]", True), ("Non contrast perfusion map", True)]
    + [("No filter iodine map", True), ("Uric Acid [HU*]", True), ("DE_Iodine", True), ("Lung PBV", True)]
    + [("Iodine no water map", True), ("Water (Iodine) [mg/cc]", True), ("Virtual non-contrast", False)]
    + [("Calcium removed image", False), ("Omnipaque 350 mg/ml", False), ("Abdomen (350mg/ml)", False)]
    + [("Lung Subtraction CE", True), ("Difference art-ven", True), ("CTA bone subtracted", False)]
    + [("Thorax fat sat", False), ("Abdomen Omnipaque iodine 350", False), ("", False), ("perfusion source", False)],
)
def test_a_description_that_names_a_map_causes_a_warning(description, doubtful):
    given = image(ImageType=["DERIVED", "PRIMARY", "AXIAL"], SeriesDescription=description, RescaleType="HU")
    assert unit_of(given, 0) == "HU" and ("names a map" in unit_warning(given, 0)) == doubtful


@pytest.mark.parametrize(
    ("slope", "intercept", "told"), [(1.0, -1074.0, True), (1.0, -1024.0, False), (1.0, 0.0, False), (2.0, 0.0, True)]
)
def test_a_mapping_to_other_hu_than_the_rescale_is_told(slope, intercept, told):
    given = image(
        RealWorldValueMappingSequence=mapping("[hnsf'U]", slope, intercept),
        RescaleSlope="1",
        RescaleIntercept="-1024",
        RescaleType="HU",
    )
    assert unit_of(given, 0) == "HU" and ("give different HU" in unit_warning(given, 0)) == told

import pytest
from pydicom.sr.codedict import codes

from medgen import terminology
from medgen.phantom.anatomy.labels import LABELS
from medgen.qa.measures.enhancement import RANGES
from medgen.terminology import (
    display_rank,
    is_enhancing,
    is_homogeneous,
    is_lesion,
    is_native,
    is_pathology,
    is_vessel,
    meant,
    side_of,
    snomed,
    structure_of,
    words,
)

TOTALSEGMENTATOR = {  # name: structure, enhancing, lesion, SNOMED type
    "aorta": ("aorta", True, False, "Aorta"),
    "inferior_vena_cava": ("inferior_vena_cava", True, False, "InferiorVenaCava"),
    "portal_vein_and_splenic_vein": ("portal_vein", True, False, "Tissue"),
    "iliac_artery_left": ("artery", True, False, "Tissue"),
    "iliac_vena_right": ("vein", True, False, "Tissue"),
    "pulmonary_artery": ("artery", True, False, "PulmonaryArtery"),
    "kidney_right": ("kidney", True, False, "Kidney"),
    "kidney_cyst_left": (None, False, True, "Cyst"),
    "adrenal_gland_left": (None, False, False, "AdrenalGland"),
    "spleen": ("spleen", True, False, "Spleen"),
    "pancreas": (None, False, False, "Pancreas"),
    "small_bowel": (None, False, False, "SmallIntestine"),
    "esophagus": (None, False, False, "Esophagus"),
    "urinary_bladder": (None, False, False, "Bladder"),
    "vertebrae_L1": (None, False, False, "Tissue"),
    "liver_vessels": ("vein", True, False, "Tissue"),
    "liver_tumor": (None, True, True, "Neoplasm"),
}
NNUNET = {  # Decathlon, KiTS, AMOS and others
    "Kidney": ("kidney", True, False, "Kidney"),
    "Tumour": (None, False, True, "Neoplasm"),
    "hepatic vessels": ("vein", True, False, "BloodVessel"),
    "left adrenal gland": (None, False, False, "AdrenalGland"),
    "lung nodules": (None, False, True, "Nodule"),
    "liver metastases": (None, True, True, "Metastasis"),
    "pseudocyst": (None, False, True, "Lesion"),
    "kidney_stone": (None, False, False, "Tissue"),
    "IVC": ("inferior_vena_cava", True, False, "InferiorVenaCava"),
    "renal_pelvis": ("collecting_system", True, False, "RenalPelvis"),
    "cancer": (None, False, False, "Tissue"),
}


@pytest.mark.parametrize(("name", "expected"), [*TOTALSEGMENTATOR.items(), *NNUNET.items()])
def test_names_of_other_programs(name, expected):
    assert (structure_of(name), is_enhancing(name), is_lesion(name), snomed(name)[1]) == expected


def test_names_of_the_phantom():
    structures = {structure_of(name) for name in LABELS} - {None}
    assert structures == {*terminology.STRUCTURES} == {*RANGES}
    assert {name for name in LABELS if is_lesion(name)} == {"cyst", "lesion_hypovascular", "lesion_hypervascular"}
    assert {name for name in LABELS if is_enhancing(name)} == {
        *(name for name in LABELS if structure_of(name)),
        "lesion_hypervascular",
    }


@pytest.mark.parametrize(
    "name",
    ["kidney_left", "Kidney", "KIDNEYS", "KidneyRight", "left kidney", "kidney-left", "Left_Kidneys", " kidney "],
)
def test_case_side_plural_and_separators_do_not_matter(name):
    assert words(name) == ("kidney",) and structure_of(name) == "kidney"
    assert snomed(name) == ("AnatomicalStructure", "Kidney")


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("arteries", "artery"),
        ("vertebrae", "vertebra"),
        ("metastases", "metastasis"),
        ("aortas", "aorta"),
        ("adrenal_glands", "adrenal gland"),
        ("pancreas", "pancreas"),
        ("hippocampus", "hippocampus"),
        ("renal_pelvis", "renal pelvis"),
        ("abscess", "abscess"),
    ],
)
def test_plurals(plural, singular):
    assert " ".join(words(plural)) == singular


def test_the_terms_of_the_tables_are_normalised():
    tables = (*terminology.SNOMED_STRUCTURES, *terminology.SNOMED_TISSUES, *terminology.SNOMED_LESIONS)
    for term in tables:
        assert " ".join(words(term)) == term
    for table in (terminology.ENHANCING, terminology.NOT_ENHANCING, terminology.LESIONS, terminology.CALCULI):
        assert all(" ".join(words(f"{term} x")) == f"{term} x" for term in table)


def test_every_snomed_name_exists():
    tables = (terminology.SNOMED_STRUCTURES, terminology.SNOMED_TISSUES, terminology.SNOMED_LESIONS)
    for keyword in {keyword for table in tables for keyword in table.values()} | {*snomed("x")} | {*snomed("lesion")}:
        assert getattr(codes.SCT, keyword).scheme_designator == "SCT"


def test_vessels_homogeneous_organs_and_pathology():
    assert [name for name in LABELS if is_vessel(name)] == [
        "aorta",
        "inferior_vena_cava",
        "portal_vein",
        "hepatic_vessels",
        "arteries",
        "veins",
    ]
    assert [name for name in LABELS if is_homogeneous(name)] == ["liver", "spleen"] and is_homogeneous("liver_tumor")
    assert is_pathology("kidney_stone") and not is_lesion("kidney_stone") and not is_pathology("pancreas")


def test_reports_show_the_aorta_first_and_unknown_names_last():
    names = ["fat", "veins", "kidney_left", "hepatic_vessels", "aorta", "liver", "arteries"]
    assert sorted(names, key=display_rank) == [
        "aorta",
        "kidney_left",
        "liver",
        "arteries",
        "veins",
        "hepatic_vessels",
        "fat",
    ]


NATIVE_NAMES = ("none", "Native", "non-contrast", "Non Contrast", "non_contrast", "NonContrast", "NCCT")


@pytest.mark.parametrize("name", NATIVE_NAMES)
def test_names_without_contrast_medium_in_any_spelling(name):
    assert is_native(name)


@pytest.mark.parametrize("name", ["contrast", "arterial", "portal_venous", "late", "t1", "target"])
def test_other_names_do_not_mean_native(name):
    assert not is_native(name)


@pytest.mark.parametrize(
    "name",
    ["liver_without_lesion", "lesion_free_liver", "LiverMinusTumor", "liver no tumor", "liver excluding lesions"],
)
def test_a_lesion_that_a_name_negates_is_none(name):
    assert not is_lesion(name) and structure_of(name) == "liver" and meant(name) == ("liver",)


@pytest.mark.parametrize("name", ["peritumoral_fat", "nontumor_tissue", "non lesion", "no_tumor", "perilesional edema"])
def test_surroundings_and_the_absence_of_a_lesion_are_none(name):
    assert not is_lesion(name) and structure_of(name) is None


@pytest.mark.parametrize("name", ["non_enhancing_tumor", "nonenhancing tumor core", "not classified lesion", "tumor"])
def test_a_negated_property_leaves_the_lesion(name):
    assert is_lesion(name)


@pytest.mark.parametrize(
    "name", ["nonspleen", "non-liver", "periaortic_fat", "kidney_fat", "aorta_stent", "aorta wall"]
)
def test_what_does_not_enhance_beside_the_name_of_a_structure(name):
    assert structure_of(name) is None


@pytest.mark.parametrize(
    ("name", "side"),
    [("Kidney_L", "left"), ("Atrium_R", "right"), ("kidneyLeft", "left"), ("Lung_RT", "right"), ("vertebrae_L5", "")],
)
def test_sides_in_the_spelling_of_tg_263(name, side):
    assert side_of(name) == side
    assert "l" not in words(name) and "r" not in words(name)

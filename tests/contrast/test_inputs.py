"""Inputs of simulate-contrast: pairs by name, patients, label values, and scans that are not what they should be."""

import json
import unicodedata

import nibabel as nib
import numpy as np
import pytest
from refusal import refused
from typer.testing import CliRunner

from medgen.cli import app
from medgen.contrast.cohort import simulate_cohort
from medgen.contrast.enhancement import unknown_words, uptake_of
from medgen.contrast.inputs import find_pairs
from medgen.contrast.label_names import TOTALSEGMENTATOR, names_of_labels
from medgen.data.cohort.read import read_cohort

TABLE = {"aorta": 1, "liver": 2}
AFFINE = np.diag([3.0, 3, 3, 1])


def scan(aorta=40):
    hu = np.full((20, 20, 12), -1000, np.int16)
    hu[2:-2, 2:-2] = 40
    labels = np.zeros(hu.shape, np.uint8)
    labels[4:8, 4:8] = 1
    labels[10:16, 6:14] = 2
    hu[labels == 1] = aorta
    return hu + np.random.default_rng(0).normal(0, 5, hu.shape).astype(np.int16), labels


def save(data, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, AFFINE), path)


def cohort(root, names=("a",), aorta=40, table=TABLE):
    hu, labels = scan(aorta)
    for i, name in enumerate(names):
        save(hu + np.int16(i), root / "images" / f"{name}.nii.gz")
        save(labels, root / "labels" / f"{name}.nii.gz")
    (root / "labels/labels.json").write_text(json.dumps(table))
    return root


def run(root, **options):
    return simulate_cohort(root / "images", root / "labels", root / "out", **{"phases": ["late"], **options})


def test_scans_of_a_patient_stay_on_one_side(tmp_path):
    cohort(tmp_path, ["s1", "s2", "s3", "sub-01_ses-1", "sub-01_ses-2", "s4__syn000"])
    record = {
        "real": {"s1": {"patient": "A"}, "s2": {"patient": "A"}, "s3": {"patient": "B"}, "s4": {"patient": "C"}},
        "synthetic": {"s4__syn000": {"patient": "C", "operations": [{"patients": ["B"]}]}},
    }
    (tmp_path / "images/provenance.json").write_text(json.dumps(record))
    run(tmp_path)
    cases = {case.name: case for case in read_cohort(tmp_path / "out").cases}
    assert cases["s1_late"].patient == cases["s2_late"].patient == "A"
    assert cases["sub-01_ses-1_late"].patient == cases["sub-01_ses-2_late"].patient == "sub-01"
    assert cases["s3_late"].patient == "B" and not cases["s3_late"].synthetic
    assert set(cases["s4__syn000_late"].made_of) >= {"B", "C"} and cases["s4__syn000_late"].synthetic


def test_names_match_in_spite_of_accents_channels_and_slicer(tmp_path):
    names = {unicodedata.normalize("NFC", "Müller"): unicodedata.normalize("NFD", "Müller"), "b_0000": "b", "c": "c"}
    hu, labels = scan()
    for image, label in names.items():
        save(hu, tmp_path / "images" / f"{image}.nii.gz")
        save(labels, tmp_path / "labels" / f"{label}.nii.gz")
    (tmp_path / "labels/c.nii.gz").rename(tmp_path / "labels/c.seg.nii.gz")
    pairs, warnings = find_pairs(tmp_path / "images", tmp_path / "labels")
    assert all(pair.label_map for pair in pairs) and len(pairs) == 3 and not warnings


def test_a_missing_label_map_stops_no_other_case(tmp_path):
    cohort(tmp_path, ["a", "b", "c"])
    (tmp_path / "labels/b.nii.gz").unlink()
    (tmp_path / "images/c.nii.gz").unlink()
    said = []
    first, second = run(tmp_path, warn=said.append)
    assert first.error is None and "no label map for b" in second.error
    assert len(said) == 1 and "c.nii.gz" in said[0]


def test_a_folder_of_masks_is_named(tmp_path):
    cohort(tmp_path)
    (tmp_path / "labels/a.nii.gz").unlink()
    save(scan()[1], tmp_path / "labels/a/liver.nii.gz")
    with refused("folder-no-volumes", names=("folders such as a", "--ml")):
        run(tmp_path)
    save(scan()[1], tmp_path / "labels/other.nii.gz")
    with refused("pair-partner-missing", names="--ml"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("values", "refused_"),
    [(lambda x: x + 0.2 * (x == 1), True), (lambda x: x - 1.0, True), (lambda x: x + 5e-4, False)],
)
def test_values_that_are_no_labels_are_refused(tmp_path, values, refused_):
    cohort(tmp_path)
    save(values(scan()[1].astype(np.float32)), tmp_path / "labels/a.nii.gz")
    (result,) = run(tmp_path)
    assert ("whole numbers" in (result.error or "")) == refused_


def test_values_without_a_name_are_reported_and_kept(tmp_path):
    cohort(tmp_path)
    labels = scan()[1].astype(np.int32)
    labels[17, 17] = 40000
    save(labels, tmp_path / "labels/a.nii.gz")
    (result,) = run(tmp_path)
    assert any("40000" in warning for warning in result.warnings)
    assert nib.load(tmp_path / "out/labels/a_late.nii.gz").get_fdata().max() == 40000


@pytest.mark.parametrize(
    ("aorta", "reverse", "word"),
    [(40, False, ""), (200, False, "already"), (200, True, ""), (40, True, "seems to")]
    + [(-900, False, "too dark"), (-900, True, "too dark")],
)
def test_a_scan_of_the_wrong_kind_is_reported(tmp_path, aorta, reverse, word):
    cohort(tmp_path, aorta=aorta)
    (result,) = run(tmp_path, reverse=reverse)
    assert result.error is None
    assert bool(result.warnings) == bool(word) and word in "".join(result.warnings)


@pytest.mark.parametrize("table", [{"liver": 1, "spleen": 1}, {"1": "liver", "01": "spleen"}])
def test_two_names_of_one_value_are_refused(tmp_path, table):
    (tmp_path / "t.json").write_text(json.dumps(table))
    with refused("labels-table-value-twice", names="spleen"):
        names_of_labels(tmp_path / "x.nii.gz", tmp_path / "t.json")


@pytest.mark.parametrize("value", [True, 1.5, -1, [1, 2], None, "one"])
def test_values_that_are_no_whole_number_are_refused(tmp_path, value):
    (tmp_path / "t.json").write_text(json.dumps({"liver": value}))
    with refused("labels-table-form"):
        names_of_labels(tmp_path / "x.nii.gz", tmp_path / "t.json")


@pytest.mark.parametrize("line", ["\n", "\r\n"])
def test_names_in_a_segmentation_of_slicer_are_read(tmp_path, line):
    header = ["NRRD0004", "type: uchar", "Segment0_LabelValue:=3", "Segment0_Name:=liver", "Segment1_Name:=no value"]
    (tmp_path / "a.seg.nrrd").write_bytes((line.join(header) + line + line).encode() + b"\0" * 100)
    assert names_of_labels(tmp_path / "a.seg.nrrd") == {3: "liver"}


@pytest.mark.parametrize(
    "name",
    ["fat_around_liver", "no_aorta", "outside_liver", "not kidney", "aorta_thrombus", "Aorta-Stent", "PortalNodes"]
    + ["vena_cava_filter", "heart_valve_prosthesis", "pancreas_duct", "aortic_valve", "kidney_stone_left"]
    + ["ventricle", "Left-Lateral-Ventricle", "3rd-Ventricle", "portal_vein_gas", "kidney_calculi", "feces in colon"]
    + ["spleen infarct", "kidney_infarct_left", "liver_necrosis", "liver_ablation_zone", "liver_resection_cavity"]
    + ["bowel_lumen", "LiverAbscess", "kidney_laceration", "intervertebral_discs", "infarcted_myocardium"]
    + ["false_lumen_thrombosed", "portal_vein_thrombi", "ivc_clot", "occluded_portal_vein", "brain_ventricle_left"]
    + ["peritumoral_fat", "muscle_fat", "nonspleen", "tumor_bed", "tumor necrosis", "lesion_necrotic"]
    + ["non_enhancing_tumor", "NonenhancingTumor", "perihepatic fluid"],
)
def test_surroundings_and_devices_take_up_nothing(name):
    assert uptake_of(name) is None


@pytest.mark.parametrize(
    ("name", "unknown"),
    [("liver_hernia", ("hernia",)), ("spleen", ()), ("liver_segment_4a", ()), ("liver segment IVb", ()), ("cyst", ())]
    + [
        ("splenorenal artery", ("splenorenal",)),
        ("common_iliac_artery_left", ()),
        ("aorta_dacron", ("dacron",)),
        ("vertebrae_L5", ()),
        ("lung_upper_lobe_left", ()),
        ("kidney_foo_right", ("foo",)),
        ("hepatic_lesion_encapsulated", ("encapsulated",)),
        ("lesion_benign_2", ()),
        ("liver_without_lesion", ()),
        ("kidney_right_nonfunctioning", ("nonfunctioning",)),
        ("liver_not_perfused", ("perfused",)),
        ("portalveinthrombus", ("portalveinthrombus",)),
        ("heartfat", ("heartfat",)),
        ("liverbed", ("liverbed",)),
        ("portalvein", ()),
        ("leftkidney", ()),
        ("pulmonaryarteries", ()),
    ]
    + [(name, ()) for name in TOTALSEGMENTATOR.values()],
)
def test_a_structure_with_a_word_that_is_not_known_is_left_and_told(name, unknown):
    assert unknown_words(name) == unknown
    assert not unknown or uptake_of(name) is None


@pytest.mark.parametrize("name", ["lymph_node_metastasis", "tumor no 3", "abdominal_wall_muscle", "aorta", "liver"])
def test_lesions_and_muscles_keep_their_meaning_beside_such_words(name):
    assert uptake_of(name) is not None


def test_an_unenhanced_thyroid_is_no_contrast_medium(tmp_path):
    """It holds iodine of its own: 80 to 120 HU."""
    cohort(tmp_path, aorta=110, table={"thyroid_gland": 1, "liver": 2})
    (result,) = run(tmp_path)
    assert not result.warnings


def test_two_scans_cannot_share_a_label_map(tmp_path):
    cohort(tmp_path, ["a"])
    (tmp_path / "images/a_0000.nii.gz").write_bytes((tmp_path / "images/a.nii.gz").read_bytes())
    with refused("folder-case-twice", names="a_0000"):
        find_pairs(tmp_path / "images", tmp_path / "labels")


def test_cases_whose_names_end_alike_have_their_own_draws(tmp_path):
    cohort(tmp_path, ["p1_ct_portal_abdomen", "p2_ct_portal_abdomen"])
    run(tmp_path)
    real = json.loads((tmp_path / "out/provenance.json").read_text())["real"].values()
    assert len({record["operations"][0]["seed"] for record in real}) == 2


def test_phases_are_recognised_in_any_spelling(tmp_path):
    cohort(tmp_path)
    given = [str(tmp_path / part) for part in ("images", "labels", "out")]
    result = CliRunner().invoke(app, ["simulate-contrast", *given, "--phase", "Late, portal venous,late"])
    assert result.exit_code == 0, result.output
    assert "a: late, portal_venous" in result.output


@pytest.mark.parametrize("name", ["liver_without_lesion", "lesion_free_liver", "tumor free liver", "liver_minus_tumor"])
def test_an_organ_without_its_lesions_enhances_as_the_organ(name):
    assert uptake_of(name) == uptake_of("liver")

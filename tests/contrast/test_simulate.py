"""Simulated contrast: iodine goes where the labels say, and the truth is the scan itself."""

import json

import nibabel as nib
import numpy as np
import pytest
from refusal import refused
from typer.testing import CliRunner

from medgen.cli import app
from medgen.contrast.cohort import simulate_cohort
from medgen.contrast.enhancement import PHASES, draw_iodine, uptake_of
from medgen.contrast.label_names import TOTALSEGMENTATOR, names_of_labels
from medgen.contrast.simulate import simulate

NAMES = {1: "aorta", 2: "liver", 3: "vertebrae_L1", 4: "kidney_cyst_left", 5: "stomach", 6: "kidney_left"}


def scan():
    """A block of soft tissue (40 HU) with labelled boxes, in air; bone 400 HU, a calcification in the aorta."""
    hu = np.full((48, 40, 32), -1000, np.float32)
    hu[4:-4, 4:-4, 2:-2] = 40
    labels = np.zeros(hu.shape, np.int32)
    labels[8:14, 8:14, 4:-4] = 1
    labels[18:36, 8:16, 4:-4] = 2
    labels[8:14, 20:28, 4:-4] = 3
    labels[18:24, 20:26, 8:-8] = 4
    labels[28:40, 20:32, 8:-8] = 5
    labels[6:22, 28:36, 6:-6] = 6
    hu[labels == 3] = 400
    hu[labels == 4] = 5
    hu[11:13, 11:13, 14:18] = 700
    hu += np.random.default_rng(0).normal(0, 8, hu.shape).astype(np.float32)
    return hu, labels


@pytest.mark.parametrize("phase", PHASES)
def test_enhancement_follows_labels_and_the_truth_is_the_scan(phase):
    hu, labels = scan()
    found = simulate(hu, labels, NAMES, (2.0, 2.0, 2.0), phase, 1)
    assert np.allclose(found.contrast - found.iodine, hu, atol=1e-3)
    added = {name: found.iodine[3:-3, 3:-3, 3:-3][labels[3:-3, 3:-3, 3:-3] == value] for value, name in NAMES.items()}
    assert np.median(added["aorta"]) > 40
    assert added["kidney_left"].mean() > 30
    assert np.median(added["vertebrae_L1"]) < 25
    assert np.median(added["kidney_cyst_left"]) < 5
    assert found.iodine[labels == 0].mean() < 10
    assert (found.iodine[hu < -500] < 3).all(), "air holds no blood"
    assert found.iodine[11:13, 11:13, 15:17].max() < 0.5 * np.median(added["aorta"]), "a calcification stays"


def test_arteries_come_before_the_liver():
    drawn = {phase: draw_iodine(phase, np.random.default_rng(0)) for phase in PHASES}
    assert drawn["arterial"]["blood_left"] > 2 * drawn["portal_venous"]["blood_left"] * 0.7
    assert drawn["arterial"]["liver"] < drawn["portal_venous"]["liver"]
    assert drawn["arterial"]["renal_cortex"] > drawn["arterial"]["renal_medulla"]


def test_same_seed_same_scan_and_oral_medium_is_in_both():
    hu, labels = scan()
    first, again, other = (simulate(hu, labels, NAMES, (2, 2, 2), "late", seed) for seed in (3, 3, 4))
    assert np.array_equal(first.contrast, again.contrast) and not np.array_equal(first.contrast, other.contrast)
    oral = simulate(hu, labels, NAMES, (2, 2, 2), "late", 3, oral=True)
    stomach = labels == 5
    assert (oral.contrast - oral.iodine)[stomach].mean() > hu[stomach].mean() + 20
    with pytest.raises(ValueError, match="one shape"):
        simulate(hu, labels[1:], NAMES, (2, 2, 2), "late", 3)
    with pytest.raises(ValueError, match="phase"):
        simulate(hu, labels, NAMES, (2, 2, 2), "early", 3)


@pytest.mark.parametrize(
    ("name", "tissue"),
    [
        ("aorta", "blood_left"),
        ("kidney_cyst_left", None),
        ("inferior_vena_cava", "blood_cava"),
        ("liver_tumor", "lesion_hypovascular"),
        ("kidney_lesion_hypervascular", "lesion_hypervascular"),
        ("portal_vein_and_splenic_vein", "blood_portal"),
        ("heart_atrium_right", "blood_right"),
        ("iliopsoas_left", "muscle"),
        ("costal_cartilages", None),
        ("rib_left_3", None),
        ("liver_vessels", "blood_hepatic"),
        ("heart_ventricle_left", "blood_left"),
        ("Right Ventricle", "blood_right"),
        ("Atrium_R", "blood_right"),
        ("Ventricle_L", "blood_left"),
        ("Kidney_R", "renal_cortex"),
    ],
)
def test_uptake_by_name(name, tissue):
    uptake = uptake_of(name)
    assert (uptake and uptake.tissue) == tissue


def write(folder, with_table=True):
    hu, labels = scan()
    folder.mkdir()
    affine = np.diag([2.0, 2, 2, 1])
    nib.save(nib.Nifti1Image(np.rint(hu).astype(np.int16), affine), folder / "ct.nii.gz")
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), affine), folder / "labels.nii.gz")
    if with_table:
        (folder / "labels.json").write_text(json.dumps({name: value for value, name in NAMES.items()}))
    return folder


def test_cohort_of_one_scan(tmp_path):
    folder = write(tmp_path / "in")
    (result,) = simulate_cohort(folder / "ct.nii.gz", folder / "labels.nii.gz", tmp_path / "out", phases=["arterial"])
    assert result.error is None and result.phases == ("arterial",)
    assert "kidney_cyst_left" in result.unchanged
    parts = {p: nib.load(tmp_path / "out" / p / "ct_arterial.nii.gz").get_fdata() for p in ("source", "target")}
    assert np.array_equal(parts["target"], nib.load(folder / "ct.nii.gz").get_fdata())
    assert (parts["source"] - parts["target"]).max() > 60


def test_names_come_from_a_file_a_header_or_totalsegmentator(tmp_path):
    folder = write(tmp_path / "in", with_table=False)
    with refused("labels-table-missing", names="labels.nii.gz"):
        names_of_labels(folder / "labels.nii.gz")
    assert names_of_labels(folder / "labels.nii.gz", "totalsegmentator") == TOTALSEGMENTATOR
    assert TOTALSEGMENTATOR[52] == "aorta" and TOTALSEGMENTATOR[117] == "costal_cartilages"
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "aorta": 1}}))
    assert names_of_labels(folder / "labels.nii.gz") == {1: "aorta"}
    (folder / "own.json").write_text(json.dumps({"1": "liver"}))
    assert names_of_labels(folder / "labels.nii.gz", folder / "own.json") == {1: "liver"}
    image = nib.load(folder / "labels.nii.gz")
    table = b'<LabelTable><Label Key="7" Red="1"><![CDATA[spleen]]></Label></LabelTable>'
    image.header.extensions.append(nib.nifti1.Nifti1Extension(30, table))
    nib.save(image, folder / "own.nii.gz")
    assert names_of_labels(folder / "own.nii.gz") == {7: "spleen"}
    with refused("labels-tables-differ", names="own.nii.gz"):
        names_of_labels(folder / "own.nii.gz", "totalsegmentator")


def test_one_bad_case_stops_no_other(tmp_path):
    folder = write(tmp_path / "in")
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    for name in ("a", "b"):
        (images / f"{name}.nii.gz").write_bytes((folder / "ct.nii.gz").read_bytes())
    (labels / "b.nii.gz").write_bytes((folder / "labels.nii.gz").read_bytes())
    moved = nib.load(folder / "labels.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), np.diag([3.0, 2, 2, 1])), labels / "a.nii.gz")
    results = simulate_cohort(images, labels, tmp_path / "out", table=folder / "labels.json", phases=["late"])
    assert "another grid" in results[0].error and results[1].error is None
    with refused("phase-unknown"):
        simulate_cohort(images, labels, tmp_path / "out2", phases=["early"])


def test_command_writes_the_phases_and_reports_bad_cases(tmp_path):
    folder = write(tmp_path / "in")
    given = ["simulate-contrast", str(folder / "ct.nii.gz"), str(folder / "labels.nii.gz"), str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*given, "--phase", "arterial,late"])
    assert result.exit_code == 0, result.output
    unchanged = next(line for line in result.output.splitlines() if line.startswith("labels left unchanged"))
    assert "kidney_cyst_left" in unchanged and "aorta (blood_left)" in result.output
    written = sorted(path.name for path in (tmp_path / "out" / "source").iterdir())
    assert written == ["ct_arterial.nii.gz", "ct_late.nii.gz"]
    image = nib.load(folder / "ct.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj) + 1024, image.affine), folder / "ct.nii.gz")
    result = CliRunner().invoke(app, [*given[:-1], str(tmp_path / "other")])
    assert result.exit_code == 2 and "not CT in HU" in result.output
    assert not list((tmp_path / "other").glob("source/*"))


def test_the_table_holds_the_structures_of_all_cases_and_refuses_a_contradiction(tmp_path):
    folder = write(tmp_path / "in")
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    full = nib.load(folder / "labels.nii.gz")
    values = np.asarray(full.dataobj)
    for name, kept in (("a", {1, 2}), ("b", {2, 6}), ("c", {1})):
        (images / f"{name}.nii.gz").write_bytes((folder / "ct.nii.gz").read_bytes())
        part = np.where(np.isin(values, list(kept)), values, 0).astype(np.uint8)
        image = nib.Nifti1Image(np.where(part == 1, 9, part) if name == "c" else part, full.affine)
        table = b'<LabelTable><Label Key="9" Red="1"><![CDATA[aorta]]></Label></LabelTable>'
        if name == "c":
            image.header.extensions.append(nib.nifti1.Nifti1Extension(30, table))
        nib.save(image, labels / f"{name}.nii.gz")
    (labels / "labels.json").write_text(json.dumps({name: value for value, name in NAMES.items()}))
    results = simulate_cohort(images, labels, tmp_path / "out", phases=["late"])
    assert [result.error is None for result in results] == [True, True, False]
    assert "aorta is 9" in results[2].error
    written = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert written == {"aorta": 1, "liver": 2, "kidney_left": 6}

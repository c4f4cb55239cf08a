"""Patients of a case from every kind of record; a case and synthetic cases made from it have the same patients."""

import json

import pytest
from refusal import refused

from medgen.data.cohort.patients import Known, Records, identified, merge_by_images


def patients_of(cases, root, pattern=None, listed=None):
    """Return {case: (patient, patients of a synthetic case)} of files root/CASE or root/FOLDER/CASE."""
    records = Records()
    known = [
        records.known(
            name, [root / place / f"{name}.nii"], listed=(listed or {}).get(name, ""), pattern=pattern, root=root
        )
        for place, _, name in (case.rpartition("/") for case in cases)
    ]
    return {case.name: found for case, found in zip(known, identified(known), strict=True)}


def provenance(root, real=(), **synthetic):
    """Write records of real cases (names) and of synthetic ones (name = source case and donors)."""
    made = {
        name: {"patient": source, "source": source, "operations": [{"operation": "x", "patients": donors}]}
        for name, (source, *donors) in synthetic.items()
    }
    root.mkdir(parents=True, exist_ok=True)
    (root / "provenance.json").write_text(json.dumps({"real": {n: {"patient": n} for n in real}, "synthetic": made}))


@pytest.mark.parametrize("region", ["AB", "HN", "brain", "head_and_neck", "Thorax", "Task1"])
def test_folders_of_regions_are_no_patients(tmp_path, region):
    names = [f"{region}/1ABA00{n}" for n in range(3)]
    records = Records()
    known = [records.known(name.replace("/", "_"), [tmp_path / name / "mr.mha"], root=tmp_path) for name in names]
    assert [each.ids[0] for each in known] == [("patient", f"1ABA00{n}") for n in range(3)]


def test_patients_from_name_folder_list_and_pattern(tmp_path):
    names = ["sub-01_ses-1", "sub-01_ses-2", "x/plain", "patient07/day1", "siteA/patient07/day2", "siteB/y"]
    found = {name: patient for name, (patient, _) in patients_of(names, tmp_path).items()}
    assert found == {
        "sub-01_ses-1": "sub-01", "sub-01_ses-2": "sub-01", "plain": "plain", "day1": "patient07", "day2": "patient07",
        "y": "y",
    }  # fmt: skip
    found = patients_of(["p1_a", "p1_b", "p2_a"], tmp_path, pattern=r"p\d", listed={"p2_a": "other"})
    assert [patient for patient, _ in found.values()] == ["p1", "p1", "other"]
    with refused("config-patient-pattern-unmatched"):
        patients_of(["a"], tmp_path, pattern="z")


@pytest.mark.parametrize("place", ["", "imagesTr/", "set/imagesTr/"])
def test_a_synthetic_case_belongs_to_its_patient_and_donors_in_any_layout(tmp_path, place):
    provenance((tmp_path / place).parent if place else tmp_path, ["a", "b"], a__syn000=("a", "b"))
    found = patients_of([place + name for name in ("a", "b", "a__syn000")], tmp_path)
    assert found == {"a": ("a", frozenset()), "b": ("b", frozenset()), "a__syn000": ("a", frozenset("ab"))}


@pytest.mark.parametrize("place", ["source", "target", "."])
def test_records_beside_any_image_of_a_case_count(tmp_path, place):
    (tmp_path / "c" / place).mkdir(parents=True)
    record = {"real": {"day1": {"patient": "p"}, "day2": {"patient": "p"}}, "synthetic": {}}
    (tmp_path / "c" / place / "provenance.json").write_text(json.dumps(record))
    records = Records()
    for case in ("day1", "day2"):
        files = [tmp_path / "c" / side / f"{case}.nii" for side in ("source", "target")]
        assert records.known(case, files).ids[0] == ("patient", "p")


@pytest.mark.parametrize("donors", [["b"], "b"])
def test_donors_in_a_record_written_by_hand_count(tmp_path, donors):
    record = {"patient": "a", "patients": donors, "operations": []}
    (tmp_path / "provenance.json").write_text(json.dumps({"real": {}, "synthetic": {"made": record}}))
    assert patients_of(["a", "b", "made"], tmp_path)["made"] == ("a", frozenset("ab"))


def test_patients_from_a_pattern_and_from_records_are_merged(tmp_path):
    provenance(tmp_path, ["p1_x", "p1_y", "p2_x"], p1_x__syn000=("p1_x", "p2_x"))
    found = patients_of(["p1_x", "p1_y", "p2_x", "p1_x__syn000"], tmp_path, pattern=r"p\d")
    assert [patient for patient, _ in found.values()] == ["p1", "p1", "p2", "p1"]
    assert found["p1_x__syn000"][1] == {"p1", "p2"}


def test_listed_patients_apply_to_synthetic_cases_by_case_name(tmp_path):
    provenance(tmp_path, ["a"], a__syn000=("a",))
    found = patients_of(["a", "a__syn000"], tmp_path, listed={"a": "patient 9"})
    assert found == {"a": ("patient 9", frozenset()), "a__syn000": ("patient 9", {"patient 9"})}


def test_synthesized_cases_belong_to_the_patients_of_label_map_and_style(tmp_path):
    record = {
        "source_case": "a",
        "style": "/data/s.nii.gz",
        "operations": [{"operation": "recombine", "with": "x/b.nii"}],
    }
    (tmp_path / "manifest.json").write_text(json.dumps({"cases": {"a_synthetic_0": record}}))
    found = patients_of(["images/a_synthetic_0", "images/a"], tmp_path)
    assert found["a_synthetic_0"] == ("a", {"a", "b", "s"}) and found["a"] == ("a", frozenset())
    (tmp_path / "manifest.json").write_text("[1]")
    assert patients_of(["a_synthetic_0", "b"], tmp_path)["a_synthetic_0"] == ("a", {"a"})


def test_an_unrecorded_synthetic_name_belongs_to_the_case_in_its_name(tmp_path):
    assert patients_of(["a", "a__syn012"], tmp_path)["a__syn012"] == ("a", {"a"})
    assert Records().known("a__syn012", [], root=tmp_path).unrecorded
    provenance(tmp_path, ["a__syn012"])  # a real case of such a name
    assert patients_of(["a__syn012"], tmp_path) == {"a__syn012": ("a__syn012", frozenset())}


def test_shared_images_merge_patients_transitively(tmp_path):
    called, pairs = merge_by_images([("a", "p", "12"), ("b", "q", "3"), ("c", "r", "23"), ("d", "p", "1")])
    assert set(called) == {"p", "q", "r"} and len(set(called.values())) == 1
    assert pairs == [("a", "c"), ("b", "c")]


def test_patient_ids_in_records_match_in_any_notation(tmp_path):
    names = {"a": 8, "b": "8", "c": 8.0, "d": " 8", "e": "9 "}
    made = {"a__syn000": {"patient": 8.0, "operations": [{"patients": ["9", 8]}]}}
    real = {name: {"patient": patient} for name, patient in names.items()}
    (tmp_path / "provenance.json").write_text(json.dumps({"real": real, "synthetic": made}))
    found = patients_of([*names, "a__syn000"], tmp_path)
    assert [patient for patient, _ in found.values()] == ["8", "8", "8", "8", "9", "8"]
    assert found["a__syn000"][1] == {"8", "9"}


def test_records_by_file_name_apply_and_cases_without_record_give_a_warning(tmp_path):
    real = {name: {"patient": "P"} for name in ("a.nii.gz", "b.mha")}
    (tmp_path / "provenance.json").write_text(json.dumps({"real": real, "synthetic": {}}))
    assert {patient for patient, _ in patients_of("ab", tmp_path).values()} == {"P"}
    records = Records()
    for name in "abc":
        records.known(name, [tmp_path / f"{name}.nii"], root=tmp_path)
    assert records.without_case("ab") == []
    (warning,) = records.without_case("abc")
    assert f"{tmp_path}/provenance.json does not name c; each counts as a separate patient" in warning


def test_no_records_give_no_warning(tmp_path):
    records = Records()
    records.known("a", [tmp_path / "a.nii"], root=tmp_path)
    provenance(tmp_path / "x")  # names nobody
    records.known("b", [tmp_path / "x/b.nii"], root=tmp_path)
    assert records.without_case("ab") == []


@pytest.mark.parametrize("other", ["O\u0308zil", "\u00d6ZIL", "\u00f6zil"])
def test_a_patient_is_the_same_in_any_unicode_form_and_case(other):
    """macOS writes decomposed accents, typists any case."""
    known = [Known("a", (("patient", "\u00d6zil"), ("case", "a"))), Known("b", (("patient", other), ("case", "b")))]
    assert len({patient for patient, _ in identified(known)}) == 1
    apart = [Known("a", (("patient", "\u00d6zil"),)), Known("b", (("patient", "Ozil"),))]
    assert len({patient for patient, _ in identified(apart)}) == 2

"""Who is evaluated: by records, by the content of images, and whether the model was trained on them."""

import json

import pytest

from medgen.evaluation.folders import match_folders
from medgen.evaluation.identity import merge_patients_by_image, patients_of, training_overlap_warnings
from medgen.evaluation.summary import CaseResult

OLD = {"training": ["source/a", "target/b", "c"], "validation": ["d"], "sha256": "ef"}
NEW = OLD | {"images": {"h1": "a", "h4": "d"}}


def warned(data, cases):
    return training_overlap_warnings({"model": {"sha256": "x", "training_data": data}, "cases": {}}, cases)


def test_training_cases_are_recognised_by_content_under_any_name():
    (found,) = warned(NEW, {"copy": ["h0", "h1"], "a": ["h2"], "other": ["h4"]})
    assert found.startswith("2 of 3 cases (copy, other) were used to train or select the model")
    assert warned(NEW, {"a": ["h2"], "c": ["h3"]}) == []


@pytest.mark.parametrize("data, cases", [(OLD, {"a": ["h9"], "x": ["h1"]}), (NEW, {"a": [], "x": []})])
def test_without_content_hashes_names_are_compared_with_a_warning(data, cases):
    seen, how = warned(data, cases)
    assert "1 of 2 cases (a)" in seen and "2 of 2 cases" in how and "by name only" in how
    assert warned(None, cases) == warned({}, cases) == []


def test_cases_with_an_image_in_common_are_one_patient():
    results = [CaseResult(n, {}, {}, patient=n, images=i) for n, i in (("a", ["1"]), ("b", ["2"]), ("c", ["1", "3"]))]
    found, warnings = merge_patients_by_image(results)
    assert [case.patient for case in found] == ["a", "b", "a"] and "cases a and c show the same image" in warnings[0]


def test_a_prediction_of_two_cases_is_warned_of():
    made = (("a", ["1"], "x"), ("b", ["2"], "x"), ("c", ["1"], "x"), ("d", ["4"], ""), ("e", ["5"], ""))
    results = [CaseResult(n, {}, {}, patient=n, images=i, prediction_image=p) for n, i, p in made]
    _, warnings = merge_patients_by_image(results)
    assert [text for text in warnings if "prediction" in text] == [
        "the predictions of cases a and b are the same image; check the files"
    ]


def test_provenance_next_to_the_references_gives_patients_and_synthetic_cases(tmp_path):
    for folder in ("imagesTr", "made"):
        (tmp_path / folder).mkdir()
        for name in ("c0", "c1", "c0__syn000"):
            (tmp_path / folder / f"{name}.nii.gz").write_bytes(b"")
    real = {"c0": {"patient": "p"}, "c1": {"patient": "q"}}
    synthetic = {"c0__syn000": {"patient": "p", "operations": []}}
    (tmp_path / "provenance.json").write_text(json.dumps({"real": real, "synthetic": synthetic}))
    folders = match_folders({"reference": tmp_path / "imagesTr", "prediction": tmp_path / "made"})
    assert patients_of(folders, None) == ({"c0": "p", "c1": "q", "c0__syn000": "p"}, {"c0__syn000"})

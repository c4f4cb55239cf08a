import json

import pytest
from refusal import refused

from medgen.evaluation.provenance import provenance, read_manifest

MANIFEST = {
    "model": {
        "folder": "RUN/best",
        "sha256": "ab",
        "step": 7,
        "target": None,
        "method": "cut",
        "training_data": {"training": ["source/a", "target/b", "c"], "validation": ["d"], "sha256": "ef"},
        "versions": {"medgen": "0.1.0", "torch": "2.13.0"},
    },
    "cases": {"a": {"status": "converted", "warnings": ["w"]}, "x": {"status": "failed", "warnings": []}},
}


def test_the_manifest_lies_in_the_folder_or_beside_the_file(tmp_path):
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    (tmp_path / "a.nii.gz").write_bytes(b"")
    assert read_manifest(tmp_path) == read_manifest(tmp_path / "a.nii.gz") == MANIFEST


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {}}', '{"model": {"sha256": "a"}, "cases": []}'])
def test_another_file_of_that_name_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with refused("manifest-foreign", names="manifest.json"):
        read_manifest(tmp_path)


def test_fields_of_the_provenance_shown_in_a_report():
    shown = provenance(MANIFEST)
    assert shown["model"]["method"] == "cut" and shown["model"]["training cases"] == "3"
    assert "target" not in shown["model"] and shown["model"]["versions"] == "medgen 0.1.0, torch 2.13.0"
    assert shown["conversion"] == {"converted": "1", "failed": "1", "with warnings": "1"}

"""A record is valid while the case's inputs and its written files are unchanged."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgen.augmentation.dataset.provenance import Provenance, digest, file_hash, read_provenance


@pytest.fixture
def one(tmp_path):
    """The record of a case with two files."""
    files = [tmp_path / "imagesTr/a.nii", tmp_path / "labelsTr/a.nii"]
    for path in files:
        path.parent.mkdir()
        path.write_text(path.parent.name)
    provenance = Provenance(tmp_path)
    provenance.add("a", {"patient": "p", "made_of": "x", "operations": []}, files, True)
    return provenance, files


def test_a_record_is_read_again_from_its_file(one, tmp_path):
    provenance, files = one
    record = Provenance(tmp_path).holds("a", "x", files)
    assert record == provenance.holds("a", "x", files) == read_provenance(tmp_path)["synthetic"]["a"]
    assert record["files"]["imagesTr/a.nii"] == hashlib.sha256(b"imagesTr").hexdigest() == file_hash(files[0])


def test_a_record_is_invalid_after_a_change(one, tmp_path):
    provenance, files = one
    assert provenance.holds("a", "y", files) is None and provenance.holds("b", "x", files) is None
    assert provenance.holds("a", "x", files[:1]) is None
    files[0].write_text("changed")
    assert provenance.holds("a", "x", files) is None
    files[0].unlink()
    assert provenance.holds("a", "x", files) is None


def test_a_case_written_again_leaves_no_old_files(one, tmp_path):
    provenance, files = one
    other = tmp_path / "imagesTr/a_0000.nii"
    other.write_text("new")
    provenance.add("a", {"patient": "p", "made_of": "z"}, [other, files[1]], False)
    assert not files[0].exists() and files[1].exists()
    content = json.loads((tmp_path / "provenance.json").read_text())
    assert content["synthetic"] == {} and list(content["real"]) == ["a"]
    provenance.keep_only([])
    assert not other.exists() and not files[1].exists() and read_provenance(tmp_path)["real"] == {}


@given(st.dictionaries(st.text(max_size=3), st.integers(), min_size=2, max_size=5))
def test_a_digest_is_of_content_not_of_order(table):
    turned = dict(reversed(table.items()))
    assert digest(table) == digest(turned) != digest(table, 1)

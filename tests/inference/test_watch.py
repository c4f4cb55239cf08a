"""What arrives in a folder is found once it has stood still."""

import pytest
from dicom_series import stored, write_ct

from medgen.inference import watch
from medgen.inference.watch import arrivals
from medgen.types import InputError


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when something sleeps."""
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def until(found, clock, seconds):
    """The cases found until so much time has passed."""
    end, cases = clock[0] + seconds, []
    while clock[0] < end:
        scan = next(found)
        cases += [] if scan is None else [scan.case]
    return cases


def test_a_file_that_grows_is_left_alone_and_found_once(tmp_path, clock):
    found, path = arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10), tmp_path / "a.nii.gz"
    for n in range(5):
        path.write_bytes(b"x" * n)
        assert until(found, clock, 6) == []
    assert until(found, clock, 30) == ["a"]
    path.write_bytes(b"another")
    assert until(found, clock, 6) == [] and until(found, clock, 30) == ["a"]


def test_series_are_folders_and_loose_or_hidden_files_are_none(tmp_path, clock):
    found = arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".part-a.nii.gz").write_text("x")
    (tmp_path / "study/series").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for n in range(3):
        (tmp_path / f"study/series/{n}").write_text("x")
        assert until(found, clock, 6) == []
    assert until(found, clock, 30) == ["study_series"]


def test_what_lies_deeper_is_named_by_its_place(tmp_path, clock):
    found = arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10)
    for patient in "ab":
        (tmp_path / f"{patient}/portal").mkdir(parents=True)
        (tmp_path / f"{patient}/portal/0").write_text("x")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/scan.nii.gz").write_text("x")
    assert sorted(until(found, clock, 30)) == ["a_portal", "b_portal", "c_scan"]
    write_ct(tmp_path / "c", stored(3, 4, 4))  # beside the volume
    assert until(found, clock, 30) == ["c"]


def test_a_case_waits_for_all_its_contrasts(tmp_path, clock):
    found = arrivals(tmp_path, tmp_path.parent / "out", ("t1", "t2"), 10)
    assert until(found, clock, 20) == []
    for name in ("t1", "t2"):
        (tmp_path / name).mkdir()
    (tmp_path / "t1/a.nii.gz").write_text("x")
    assert until(found, clock, 20) == []
    (tmp_path / "t2/a.nii.gz").write_text("x")
    assert until(found, clock, 20) == ["a"]


def test_an_output_inside_and_no_folder_are_refused(tmp_path):
    for source, output, words in ((tmp_path, tmp_path / "out", "outside"), (tmp_path / "none", tmp_path, "no folder")):
        with pytest.raises(InputError, match=words):
            arrivals(source, output, ("source",), 1)

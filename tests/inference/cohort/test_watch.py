"""Arriving scans are found once their files stop changing."""

import errno
import os

import pytest
from dicom_series import stored, write_ct
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage
from refusal import refused

from medgen.inference.cohort import watch
from medgen.inference.cohort.watch import arrivals


@pytest.fixture
def clock(monkeypatch):
    """Replace time by a clock that advances only in sleep."""
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def scans(found, clock, seconds):
    """The scans found within this many seconds."""
    end, scans = clock[0] + seconds, []
    while clock[0] < end:
        scan = next(found)
        scans += [] if scan is None else [scan]
    return scans


def until(found, clock, seconds):
    return [scan.case for scan in scans(found, clock, seconds)]


def test_a_file_that_grows_is_left_alone_and_found_once(tmp_path, clock):
    found, path = arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10), tmp_path / "a.nii.gz"
    for n in range(5):
        path.write_bytes(b"x" * n)
        assert until(found, clock, 6) == []
    assert until(found, clock, 30) == ["a"]
    path.write_bytes(b"another")
    assert until(found, clock, 6) == [] and until(found, clock, 30) == ["a"]


def test_series_are_folders_and_loose_or_hidden_files_are_ignored(tmp_path, clock):
    found = arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".part-a.nii.gz").write_text("x")
    (tmp_path / "study/series").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    for n in range(3):
        (tmp_path / f"study/series/{n}").write_text("x")
        assert until(found, clock, 6) == []
    assert until(found, clock, 30) == ["study_series"]


def test_nested_scans_are_named_by_their_folders(tmp_path, clock):
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


def test_a_duplicate_name_is_reported_once_and_the_others_are_found(tmp_path, clock):
    found = arrivals(tmp_path, tmp_path.parent / "out", ("t1", "t2"), 10)
    for name in ("t1/a.nii.gz", "t1/a.mha", "t2/a.nii.gz", "t1/b.nii.gz", "t2/b.nii.gz", "t1/lone.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    a, b = scans(found, clock, 100)
    assert a.case == "a" and "rename one" in a.fault and b.case == "b" and b.fault is None
    (tmp_path / "t1/a.mha").unlink()
    (a,) = scans(found, clock, 100)
    assert a.fault is None and a.files == (tmp_path / "t1/a.nii.gz", tmp_path / "t2/a.nii.gz")
    (tmp_path / "t1/a.mha").write_text("x")
    (a,) = scans(found, clock, 100)
    assert "rename one" in a.fault
    (tmp_path / "t1/a.mha").unlink()
    assert until(found, clock, 100) == ["a"], "its record may be that of the fault"


@pytest.mark.parametrize("contrasts", [("source",), ("t1", "t2")])
def test_a_folder_that_cannot_be_listed_is_reported_once_and_the_others_are_found(
    tmp_path, clock, monkeypatch, contrasts
):
    tops = [tmp_path / name for name in contrasts] if len(contrasts) > 1 else [tmp_path]
    for top in tops:
        for patient in "abc":
            (top / patient).mkdir(parents=True)
            (top / patient / "0").write_text("x")
        (top / ".Trash").mkdir()
    closed, scandir = [tops[0] / "b", tops[0] / ".Trash"], os.scandir

    def refused(path):
        if closed and str(path) in map(str, closed):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    found = arrivals(tmp_path, tmp_path.parent / "out", contrasts, 10)
    *others, b = scans(found, clock, 100)
    assert [scan.case for scan in others] == ["a", "c"] and not any(scan.fault for scan in others)
    assert (
        b.case.endswith("b") and b.fault == f"{closed[0]} cannot be listed (Permission denied); check its permissions"
    )
    closed.clear()
    (b,) = scans(found, clock, 100)
    assert b.case == "b" and b.fault is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may enter every folder")
def test_folders_without_access_are_found_and_fail_when_read(tmp_path, clock):
    for patient, name in (("a", "ct.nii.gz"), ("b", "ct.nii.gz"), ("c", "0")):
        (tmp_path / patient).mkdir()
        (tmp_path / patient / name).write_text("x")
    for patient in "bc":
        (tmp_path / patient).chmod(0o444)
    assert until(arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10), clock, 100) == ["a_ct", "b_ct", "c"]
    for patient in "bc":
        (tmp_path / patient).chmod(0o755)


def test_a_header_waits_for_the_data_file_beside_it(tmp_path, clock):
    found = arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10)
    (tmp_path / "a.mhd").write_text("ElementDataFile = a.raw\n")
    for n in range(5):
        (tmp_path / "a.raw").write_bytes(b"x" * n)
        assert until(found, clock, 6) == []
    assert until(found, clock, 100) == ["a"]


def test_a_dangling_link_is_found_again_once_its_target_exists(tmp_path, clock):
    found = arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10)
    (tmp_path / "a.nii.gz").symlink_to(tmp_path.parent / "later")
    assert until(found, clock, 30) == ["a"]
    (tmp_path.parent / "later").write_text("x")
    assert until(found, clock, 30) == ["a"]


def test_failed_scans_are_retried_after_growing_pauses_or_at_once_after_a_change(tmp_path, clock):
    path, failed, times = tmp_path / "a.nii.gz", set(), []
    path.write_text("x"), (tmp_path / "b.nii.gz").write_text("x")
    found = arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10, failed)
    while len(times) < 6:
        for scan in scans(found, clock, 1):
            if scan.case == "a":
                failed.add(scan.files)
                times.append(clock[0])
    pauses = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert pauses == pytest.approx([60, 300, 1800, 3600, 3600], abs=5)
    path.write_text("another")
    assert until(found, clock, 20) == ["a"]
    failed.clear()
    assert until(found, clock, 10000) == []


def test_an_output_inside_the_input_and_a_missing_folder_are_refused(tmp_path):
    for source, output, code in (
        (tmp_path, tmp_path / "out", "output-inside-input"),
        (tmp_path / "none", tmp_path, "folder-watched-missing"),
    ):
        with refused(code):
            arrivals(source, output, ("source",), 1)


def test_dicom_in_the_watched_folder_itself_is_reported_once(tmp_path, clock):
    write_ct(tmp_path / "in", stored(3, 8, 9))
    found = arrivals(tmp_path / "in", tmp_path / "out", ("source",), 10)
    (scan,) = scans(found, clock, 30)
    assert "000.dcm is directly in" in scan.fault and "move each series to a subfolder" in scan.fault
    write_ct(tmp_path / "in/case", stored(3, 8, 9))
    assert until(found, clock, 30) == ["case"]


def test_half_a_series_waits_for_the_count_in_its_headers(tmp_path, clock):
    found = arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10)
    write_ct(tmp_path / "a", stored(8, 4, 4), ImagesInAcquisition=8)
    later = sorted((tmp_path / "a").iterdir())[4:]
    kept = {path: path.read_bytes() for path in later}
    for path in later:
        path.unlink()
    assert until(found, clock, 100) == []
    for path, content in kept.items():
        path.write_bytes(content)
    (scan,) = scans(found, clock, 100)
    assert scan.case == "a" and scan.warnings == scan.notes == ()


def test_half_a_series_is_found_late_with_a_warning_and_again_when_complete(tmp_path, clock):
    found = arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10)
    write_ct(tmp_path / "a", stored(8, 4, 4), ImagesInAcquisition=8)
    last = (tmp_path / "a/007.dcm").read_bytes()
    (tmp_path / "a/007.dcm").unlink()
    (scan,) = scans(found, clock, 1000)
    assert "7 of 8 images by ImagesInAcquisition are present" in scan.warnings[0]
    (tmp_path / "a/007.dcm").write_bytes(last)
    (scan,) = scans(found, clock, 1000)
    assert scan.warnings == ()


def test_a_series_without_a_count_is_found_with_a_note(tmp_path, clock):
    write_ct(tmp_path / "a", stored(3, 4, 4))
    (scan,) = scans(arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10), clock, 100)
    assert scan.warnings == () and "do not state how many images" in scan.notes[0]


def test_a_series_and_a_volume_in_one_folder_are_a_fault_until_separated(tmp_path, clock):
    found = arrivals(tmp_path, tmp_path.parent / "out", ("source",), 10)
    write_ct(tmp_path / "p1", stored(2, 4, 4))
    (tmp_path / "p1/mask.nii.gz").write_text("x")
    (tmp_path / "p2").mkdir()
    (tmp_path / "p2/ct.nii.gz").write_text("x")
    directory = Dataset()
    directory.FileSetID, directory.file_meta = "X", FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.save_as(tmp_path / "p2/DICOMDIR", enforce_file_format=True)
    first = scans(found, clock, 30)
    assert [scan.case for scan in first] == ["p1", "p2_ct"] and first[1].fault is None
    assert "mask.nii.gz, so the input is ambiguous" in first[0].fault
    (tmp_path / "p1/mask.nii.gz").unlink()
    (again,) = scans(found, clock, 30)
    assert again.case == "p1" and again.fault is None

import pytest
from dicom_series import stored, write_ct

from medgen.inference.inputs import find_scans, frames_apart, read_scan, sha256
from medgen.types import InputError


def put(path, text="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_one_contrast_is_a_volume_or_a_folder(tmp_path, monkeypatch):
    for name in "ba":
        put(tmp_path / f"{name}.nii.gz")
    assert [scan.case for scan in find_scans(tmp_path, ["source"])] == ["a", "b"]
    assert find_scans(tmp_path / "a.nii.gz", ["source"])[0].files == (tmp_path / "a.nii.gz",)
    series = put(tmp_path / "dicom/1.dcm").parent
    monkeypatch.chdir(series)
    from pathlib import Path

    assert [(s.case, s.files) for s in find_scans(Path("."), ["source"])] == [("dicom", (series,))]


def test_contrasts_belong_together_by_name_and_in_the_models_order(tmp_path):
    for contrast, cases in (("flair", "ab"), ("t1", "abc")):
        for case in cases:
            put(tmp_path / contrast / f"{case}.nii.gz")
    scans = find_scans(tmp_path, ["t1", "flair"])
    assert [scan.case for scan in scans] == ["a", "b", "c"]
    assert scans[0].files == (tmp_path / "t1/a.nii.gz", tmp_path / "flair/a.nii.gz") and scans[0].fault is None
    assert "case c lacks flair" in scans[2].fault


def test_dicom_series_of_one_case_are_called_after_its_folder(tmp_path):
    for contrast in ("t1", "flair"):
        put(tmp_path / "patient" / contrast / "1.dcm")
    (scan,) = find_scans(tmp_path / "patient", ["t1", "flair"])
    assert scan.case == "patient" and scan.files == (tmp_path / "patient/t1", tmp_path / "patient/flair")


def test_missing_folders_and_doubled_cases(tmp_path):
    put(tmp_path / "t1/a.nii.gz")
    with pytest.raises(InputError, match="no folder flair/.*t1/CASE.nii.gz, flair/CASE.nii.gz"):
        find_scans(tmp_path, ["t1", "flair"])
    put(tmp_path / "flair/a.nii.gz"), put(tmp_path / "flair/a.mha")
    put(tmp_path / "t1/b.nii.gz"), put(tmp_path / "flair/b.nii.gz")
    doubled, other = find_scans(tmp_path, ["t1", "flair"])
    assert "another scan of this folder is named a" in doubled.fault and not other.fault and other.case == "b"


def test_hash_is_of_the_content_in_order(tmp_path):
    a, b = put(tmp_path / "a.nii", "1"), put(tmp_path / "b.nii", "2")
    assert sha256([a]) == sha256([put(tmp_path / "c.nii", "1")]) != sha256([b])
    assert sha256([a, b]) != sha256([b, a])


def test_volumes_and_dicom_in_one_folder_are_refused(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("x")
    assert [scan.case for scan in find_scans(tmp_path, ["source"])] == ["a"]
    write_ct(tmp_path / "patient/ct", stored(2, 4, 4))
    with pytest.raises(InputError, match="holds volumes, and DICOM in .*patient"):
        find_scans(tmp_path, ["source"])


def test_contrasts_of_two_patients_are_no_case(tmp_path):
    for contrast, patient in (("t1", "1"), ("t2", "2")):
        write_ct(tmp_path / contrast / "a", stored(3, 8, 8), PatientID=patient)
    (scan,) = find_scans(tmp_path, ["t1", "t2"])
    with pytest.raises(InputError, match="of two patients"):
        read_scan(scan)


@pytest.mark.parametrize(
    "frames, apart",
    [(("1.1", "1.2"), True), (("1.1", "1.1"), False), (("1.1", ""), False), (("1.1", lambda k: f"1.{k + 2}"), False)],
)
def test_contrasts_in_different_frames_of_reference_are_told(tmp_path, frames, apart):
    """Not where one does not say, or says another with each file."""
    for contrast, frame in zip(("t1", "t2"), frames, strict=True):
        write_ct(tmp_path / contrast / "a", stored(3, 8, 8), FrameOfReferenceUID=frame)
    (scan,) = find_scans(tmp_path, ["t1", "t2"])
    told = frames_apart(read_scan(scan))
    assert len(told) == apart and all("t1/a and " in said and "t2/a are in different frames" in said for said in told)

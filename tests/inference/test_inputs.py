import json
import os

import pytest
from dicom_series import stored, write_ct
from refusal import refused

from medgen.inference.inputs import find_scans, frame_of_reference_warnings, read_scan, scan_grids
from medgen.inference.series import Rules
from medgen.io.dicom.derived.references import NOTICE
from medgen.io.hashes import sha256
from medgen.io.read import read_volume


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


def test_a_folder_with_one_volume_each_case(tmp_path):
    put(tmp_path / "p1/ct.nii.gz"), put(tmp_path / "p2/late/ct.nii.gz"), put(tmp_path / "p2/late/ct.json")
    put(tmp_path / "p3/ct.nii.gz"), put(tmp_path / "p3/mask.nii.gz")
    one, other, several = find_scans(tmp_path, ["source"])
    assert (one.case, one.files) == ("p1_ct", (tmp_path / "p1/ct.nii.gz",))
    assert (other.case, other.files) == ("p2_late_ct", (tmp_path / "p2/late/ct.nii.gz",))
    assert (several.case, several.files) == ("p3", (tmp_path / "p3",))  # reading it asks which of the two


def test_folders_of_masks_beside_a_scan_are_named_in_a_note(tmp_path):
    """The layout of TotalSegmentator's data set; without a scan beside it, such a folder is read like any other."""
    for name in ("s1/ct", "s1/segmentations/liver", "s1/segmentations/spleen", "s2/ct", "s2/Masks/liver", "s3/masks/a"):
        put(tmp_path / f"{name}.nii.gz")
    scans = find_scans(tmp_path, ["source"])
    assert [scan.case for scan in scans] == ["s1_ct", "s2_ct", "s3_masks_a"]
    notes = [("ignored beside ct.nii.gz: segmentations/",), ("ignored beside ct.nii.gz: Masks/",), ()]
    assert [scan.notes for scan in scans] == notes


def test_a_folder_of_translated_scans_inside_the_input_is_ignored_and_named(tmp_path, caplog):
    put(tmp_path / "p1/ct.nii.gz"), put(tmp_path / "out/p1_ct.nii.gz"), put(tmp_path / "out/more/x.nii.gz")
    put(tmp_path / "phantoms/a.nii.gz")
    for folder, command in (("out", "translate"), ("phantoms", "phantom")):
        put(tmp_path / folder / ".medgen.record", json.dumps({"about": {"command": command}}))
    assert [scan.case for scan in find_scans(tmp_path, ["source"])] == ["p1_ct", "phantoms_a"]
    assert f"{tmp_path / 'out'} is ignored" in caplog.text
    assert [scan.case for scan in find_scans(tmp_path / "out", ["source"])] == ["p1_ct"]  # if it is asked for


def test_text_of_a_data_set_above_its_scans_does_not_hide_them(tmp_path):
    for place in ("sub-01/ses-1/ct", "sub-02/ses-1/ct"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "ct.nii.gz").touch()
    for text in ("README", "about.json", "participants.tsv", "sub-01/sub-01_sessions.tsv"):
        (tmp_path / text).touch()
    assert [scan.case for scan in find_scans(tmp_path, ["ct"])] == ["sub-01_ses-1_ct_ct", "sub-02_ses-1_ct_ct"]
    (tmp_path / "IM0001").write_bytes(b"no scan")  # this may be a damaged DICOM file, so it is a case that fails
    assert [scan.files for scan in find_scans(tmp_path, ["ct"])] == [(tmp_path,)]


def test_folders_of_one_volume_may_be_links(tmp_path):
    put(tmp_path / "in/p1/ct.nii.gz"), put(tmp_path / "store/x/ct.nii.gz")
    (tmp_path / "in/p2").symlink_to(tmp_path / "store/x")
    assert [scan.case for scan in find_scans(tmp_path / "in", ["source"])] == ["p1_ct", "p2_ct"]


def test_volumes_in_subfolders_of_a_cohort_are_named(tmp_path):
    put(tmp_path / "a.nii.gz"), put(tmp_path / "b.nii.gz"), put(tmp_path / "late/c.nii.gz"), put(tmp_path / ".d/e.nii")
    first, second = find_scans(tmp_path, ["source"])
    assert len(first.notes) == 1 and "c.nii.gz" in first.notes[0] and not second.notes


def test_contrasts_belong_together_by_name_and_in_the_models_order(tmp_path):
    for contrast, cases in (("flair", "ab"), ("t1", "abc")):
        for case in cases:
            put(tmp_path / contrast / f"{case}.nii.gz")
    scans = find_scans(tmp_path, ["t1", "flair"])
    assert [scan.case for scan in scans] == ["a", "b", "c"]
    assert scans[0].files == (tmp_path / "t1/a.nii.gz", tmp_path / "flair/a.nii.gz") and scans[0].fault is None
    assert "case c has no flair" in scans[2].fault


def test_dicom_series_of_one_case_are_called_after_its_folder(tmp_path):
    for contrast in ("t1", "flair"):
        put(tmp_path / "patient" / contrast / "1.dcm")
    (scan,) = find_scans(tmp_path / "patient", ["t1", "flair"])
    assert scan.case == "patient" and scan.files == (tmp_path / "patient/t1", tmp_path / "patient/flair")


def test_missing_folders_and_doubled_cases(tmp_path):
    put(tmp_path / "t1/a.nii.gz")
    with refused("input-contrast-folder-missing", names=("t1/CASE.nii.gz", "flair/CASE.nii.gz")):
        find_scans(tmp_path, ["t1", "flair"])
    put(tmp_path / "flair/a.nii.gz"), put(tmp_path / "flair/a.mha")
    put(tmp_path / "t1/b.nii.gz"), put(tmp_path / "flair/b.nii.gz")
    doubled, other = find_scans(tmp_path, ["t1", "flair"])
    assert (
        "another scan of this folder has the same name, a;" in doubled.fault and not other.fault and other.case == "b"
    )


def test_hash_is_of_the_content_in_order(tmp_path):
    a, b = put(tmp_path / "a.nii", "1"), put(tmp_path / "b.nii", "2")
    assert sha256([a]) == sha256([put(tmp_path / "c.nii", "1")]) != sha256([b])
    assert sha256([a, b]) != sha256([b, a])


@pytest.mark.parametrize("series", [".", "patient/ct"])
@pytest.mark.parametrize("volume", ["a.nii.gz", "a.nii", "a.mha", "a.nrrd", "a.mhd", "a.nhdr"])
def test_volumes_and_dicom_in_one_folder_are_refused_until_one_is_chosen(tmp_path, series, volume):
    put(tmp_path / volume)
    put(tmp_path / "other/notes.txt")
    assert [scan.case for scan in find_scans(tmp_path, ["source"])] == ["a"]
    write_ct(tmp_path / series, stored(2, 4, 4))
    with refused("folder-mixed-kinds", names=("000.dcm", str(volume))):
        find_scans(tmp_path, ["source"])
    (scan,) = find_scans(tmp_path, ["source"], series="1")
    assert len(scan.series.files) == 2
    (scan,) = find_scans(tmp_path, ["source"], rules=Rules(include=[{"modality": "CT"}]))
    assert len(scan.series.files) == 2
    assert find_scans(tmp_path / volume, ["source"])[0].files == (tmp_path / volume,)
    (scan,) = find_scans(tmp_path / series / "000.dcm", ["source"])
    assert read_scan(scan)[0].data.shape[2] == 2


SIDECARS = ("a.json", "a.bval", "notes.txt", "shot.png", "DICOMDIR", "packed.zip", ".hidden.nii.gz")


def test_sidecar_files_do_not_affect_series_or_volumes(tmp_path):
    for name in SIDECARS:
        for folder in ("series", "volumes"):
            put(tmp_path / folder / name, "x" * 200)
    write_ct(tmp_path / "series", stored(2, 4, 4))
    put(tmp_path / "volumes/a.nii.gz"), put(tmp_path / "volumes/b.mha")
    (scan,) = find_scans(tmp_path / "series", ["source"])
    assert not scan.fault and not scan.notes and read_scan(scan)[0].data.shape[2] == 2
    assert [scan.case for scan in find_scans(tmp_path / "volumes", ["source"])] == ["a", "b"]


@pytest.mark.parametrize(
    "of_no_scan",
    [
        {"Modality": "SR"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"SeriesDescription": f"{NOTICE} of something"},
        {"ImagePositionPatient": None},
    ],
)
def test_dicom_that_is_no_scan_does_not_hinder_volumes(tmp_path, of_no_scan):
    write_ct(tmp_path, stored(1, 4, 4), **of_no_scan)
    put(tmp_path / "a.nii.gz")
    assert [scan.case for scan in find_scans(tmp_path, ["source"])] == ["a"]


def test_a_damaged_series_beside_volumes_is_not_ignored(tmp_path):
    write_ct(tmp_path, stored(1, 4, 4))
    file = tmp_path / "000.dcm"
    file.write_bytes(file.read_bytes()[:300])
    put(tmp_path / "a.nii.gz")
    with refused("folder-mixed-kinds"):
        find_scans(tmp_path, ["source"])


def test_volumes_among_folders_of_dicom(tmp_path):
    """A volume in a series' folder is a fault; elsewhere in the patient's folder a note; without a series a fault."""
    for patient in ("p1", "p2", "p3"):
        write_ct(tmp_path / patient / "ct", stored(2, 4, 4), PatientID=patient, StudyInstanceUID=f"1.{patient[1]}")
    put(tmp_path / "p1/ct/mask.nii.gz"), put(tmp_path / "p2/masks/liver.mha"), put(tmp_path / "p4/ct.nii.gz")
    scans = {scan.files[0].relative_to(tmp_path).as_posix(): scan for scan in find_scans(tmp_path, ["source"])}
    assert "mask.nii.gz, so the input is ambiguous" in scans["p1/ct"].fault and "--series" in scans["p1/ct"].fault
    assert not scans["p2/ct"].fault and "liver.mha" in scans["p2/ct"].notes[0]
    assert not scans["p3/ct"].fault and not scans["p3/ct"].notes
    assert "is a volume among DICOM folders" in scans["p4/ct.nii.gz"].fault and scans["p4/ct.nii.gz"].case == "p4_ct"
    chosen = find_scans(tmp_path, ["source"], rules=Rules(include=[{"modality": "CT"}]))
    assert len(chosen) == 3 and not any(scan.fault or scan.notes for scan in chosen)


def test_a_contrast_whose_folder_holds_both_is_refused(tmp_path):
    for contrast in ("t1", "t2"):
        write_ct(tmp_path / contrast / "a", stored(2, 4, 4))
    put(tmp_path / "t1/a/mask.nii")
    (scan,) = find_scans(tmp_path, ["t1", "t2"])
    for read in (read_scan, scan_grids):
        with refused("folder-mixed-kinds", names=("t1/a", "mask.nii")):
            read(scan)
    put(tmp_path / "t2/b.nii")
    write_ct(tmp_path / "t2", stored(2, 4, 4))
    with refused("folder-mixed-kinds", names="t2 "):
        find_scans(tmp_path, ["t1", "t2"])


@pytest.mark.parametrize("names", [("a.hdr", "a.img"), ("a.hdr.gz", "a.img.gz"), ("a.hdr", "a.img.gz")])
def test_header_image_pairs_are_reported(tmp_path, names):
    for name in names:
        put(tmp_path / name)
    (scan,) = find_scans(tmp_path, ["source"])
    assert scan.case == "a" and "convert it to .nii.gz" in scan.fault
    for name in names:
        with refused("nifti-header-image-pair"):
            read_scan(find_scans(tmp_path / name, ["source"])[0])
    put(tmp_path / "b.nii")
    assert [scan.case for scan in find_scans(tmp_path, ["source"])] == ["b", "a"]


def test_links_pipes_and_missing_files_are_named_as_such(tmp_path):
    (tmp_path / "dangling.nii.gz").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "zero.nii").symlink_to("/dev/zero")
    for name, code in (
        ("dangling.nii.gz", "file-dangling-link"),
        ("pipe.nii.gz", "file-not-regular"),
        ("zero.nii", "file-not-regular"),
        ("none.nii", "file-missing"),
    ):
        with refused(code, names=name):
            find_scans(tmp_path / name, ["source"])
        with refused(code, names=name):
            read_volume(tmp_path / name)
    assert [scan.case for scan in find_scans(tmp_path, ["source"])] == ["dangling", "pipe", "zero"]


def test_a_folder_of_volumes_is_not_read_as_a_series(tmp_path):
    put(tmp_path / "p1/ct.nii.gz"), put(tmp_path / "p1/mask.nii.gz")
    (scan,) = find_scans(tmp_path, ["source"])
    with refused("folder-not-one-volume", names=("p1", "ct.nii.gz", "mask.nii.gz")):
        read_scan(scan)


def test_contrasts_of_two_patients_are_refused(tmp_path):
    for contrast, patient in (("t1", "1"), ("t2", "2")):
        write_ct(tmp_path / contrast / "a", stored(3, 8, 8), PatientID=patient)
    (scan,) = find_scans(tmp_path, ["t1", "t2"])
    with refused("pair-patients-differ"):
        read_scan(scan)


@pytest.mark.parametrize(
    "frames, apart",
    [(("1.1", "1.2"), True), (("1.1", "1.1"), False), (("1.1", ""), False), (("1.1", lambda k: f"1.{k + 2}"), False)],
)
def test_contrasts_in_different_frames_of_reference_give_a_warning(tmp_path, frames, apart):
    """No warning where one has no frame of reference, or a different one in each file."""
    for contrast, frame in zip(("t1", "t2"), frames, strict=True):
        write_ct(tmp_path / contrast / "a", stored(3, 8, 8), FrameOfReferenceUID=frame)
    (scan,) = find_scans(tmp_path, ["t1", "t2"])
    warnings = frame_of_reference_warnings(read_scan(scan))
    assert len(warnings) == apart and all("t1/a and " in w and "t2/a have different frames" in w for w in warnings)


def test_a_pair_beside_dicom_is_named_in_a_note(tmp_path):
    write_ct(tmp_path / "a", stored(2, 4, 4))
    for name in ("seg.hdr", "seg.img"):
        (tmp_path / "a" / name).write_bytes(b"x" * 348)
    (scan,) = find_scans(tmp_path / "a", ("source",))
    assert scan.fault is None and "seg.hdr" in scan.notes[0]


def test_archives_and_formats_that_are_not_read_are_named(tmp_path, caplog):
    write_ct(tmp_path / "p2", stored(4))
    put(tmp_path / "p1/study.zip"), put(tmp_path / "p3/brain.mgz"), put(tmp_path / "p2/notes.txt")
    (tmp_path / "p2/IM0000.img").write_bytes(bytes(128) + b"DICM")  # DICOM under the ending of Analyze
    assert [scan.case for scan in find_scans(tmp_path, ["source"])] == ["p2"]
    assert "left out: p1/study.zip, p3/brain.mgz;" in caplog.text and "notes" not in caplog.text
    (
        put(tmp_path / "in/a.nii.gz"),
        put(tmp_path / "in/b.nii.bz2"),
        put(tmp_path / "in/c.mhd"),
        put(tmp_path / "in/c.raw"),
    )
    find_scans(tmp_path / "in", ["source"])
    assert "left out: b.nii.bz2;" in caplog.text and "c.raw" not in caplog.text

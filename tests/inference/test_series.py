import shutil
from dataclasses import asdict

import numpy as np
import pytest
from dicom_series import AXIAL, stored, write_ct
from pydicom import Dataset, dcmread, dcmwrite
from refusal import refused
from small import make_model, small_settings

from medgen.inference.cohort.run import convert
from medgen.inference.inputs import find_scans, read_scan
from medgen.inference.series import Rule, Rules, load_rules
from medgen.io.dicom.derived.references import NOTICE
from medgen.reports.conversion import conversion_report


def rules(tmp_path, text):
    (tmp_path / "rules.yaml").write_text(text)
    return load_rules(tmp_path / "rules.yaml")


def scans(source, **options):
    return find_scans(source, ["source"], **options)


@pytest.fixture
def mixed(tmp_path):
    """A flat folder: a patient with two phases, a bone kernel and a localiser; another with one series."""
    flat = tmp_path / "in"
    flat.mkdir()
    for name, slices, tags in (
        ("arterial", 4, {"SeriesNumber": 2, "ConvolutionKernel": "B30f"}),
        ("portal", 5, {"SeriesNumber": 3, "ConvolutionKernel": "B30f"}),
        ("portal bone", 5, {"SeriesNumber": 4, "ConvolutionKernel": "B70f"}),
        ("scout", 2, {"SeriesNumber": 1, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("other", 6, {"PatientID": "../p2", "StudyInstanceUID": "1.2.9"}),
    ):
        study = {"StudyInstanceUID": "1.2.3", "SeriesDescription": name, **tags}
        write_ct(tmp_path / "x", stored(slices), **study)
        for path in (tmp_path / "x").iterdir():
            path.rename(flat / f"{name}{path.name}")
    return flat


def test_a_study_of_one_series_is_a_scan_and_one_of_several_is_a_fault(mixed):
    first, second = sorted(scans(mixed), key=lambda scan: scan.fault is None)
    assert "choose one with --series" in first.fault and "arterial" in first.fault
    assert second.fault is None and len(read_scan(second)[0].frames) == 6
    assert second.case.startswith("in_p2_3_") and "/" not in second.case


def test_series_are_chosen_by_description_and_by_rules(mixed, tmp_path, caplog):
    picked = [s for s in scans(mixed, series="arterial") if s.fault is None]
    assert [s.series.description for s in picked] == ["arterial"]
    found = scans(mixed, rules=rules(tmp_path, "include: [{phase: Portal}, {slices: [6, 9]}]\nexclude: [{kernel: B7}]"))
    assert sorted(s.series.description for s in found) == ["other", "portal"]
    found = scans(
        mixed, rules=rules(tmp_path, "include: [{modality: ct, contrast: true, slice_thickness: [2, 3]}]\nevery: true")
    )
    assert len(found) == 4 and all(s.fault is None for s in found)
    assert scans(mixed, rules=rules(tmp_path, "include: [{modality: MR}]")) == []
    assert caplog.text.count("the rules select none of its series") == 2 and "'portal bone'" in caplog.text
    (undecided,) = scans(mixed, rules=rules(tmp_path, "include: [{phase: portal}]"))
    assert "'portal bone'" in undecided.fault and "every: true" in undecided.fault


def test_rules_see_each_value_of_an_element_and_all_as_stored(tmp_path):
    write_ct(tmp_path / "in", stored(4, 8, 9), ConvolutionKernel=["Br40d", "3"], SeriesDescription=["CT Abdomen", "ce"])
    for text in ("kernel: '^Br40d$'", "kernel: '^3$'", r"kernel: '^Br40d\\3$'", "description: '^CT Abdomen'"):
        assert scans(tmp_path / "in", rules=rules(tmp_path, f"include: [{{{text}}}]")), text
    assert not scans(tmp_path / "in", rules=rules(tmp_path, "include: [{modality: CT}]\nexclude: [{kernel: ^Br40}]"))


@pytest.mark.parametrize(
    ("agent", "given"),
    [("NON-IONIC", True), ("Non ionic iodinated", True), ("No reaction; Ultravist 370", True), ("NONIONIC 300", True)]
    + [("N", False), ("Omnipaque 0 ml", False), ("Omnipaque 300 100 ml", True), ("non contrast", False), ("non", False)]
    + [("", False), ("NONE", False), ("No", False), ("ohne KM", False), ("w/o", False), ("kein Kontrastmittel", False)]
    + [("-", False), ("nativ", False), ("Non-contrast", False), ("without contrast", False), ("N/A", False)]
    + [("Novaque 300", True), ("Omnipaque", True), ("IV", True), ("KM i.v.", True), ("Sinuscan 350", True)],
)
def test_an_agent_may_say_that_there_is_none(tmp_path, agent, given):
    write_ct(tmp_path / "in", stored(4, 8, 9), ContrastBolusAgent=agent)
    (scan,) = scans(tmp_path / "in", rules=Rules(include=[Rule(modality="CT")]))
    assert [Rule(contrast=wanted).fits(scan.series) for wanted in (True, False)] == [given, not given]


def test_patients_and_studies_that_share_a_series_uid_are_scans_of_their_own(tmp_path):
    (tmp_path / "in").mkdir()
    for n, (patient, study) in enumerate((("p0", "1.0"), ("p0", "1.1"), ("p1", "1.2"))):
        write_ct(tmp_path / "x", stored(4), SeriesInstanceUID="1.2.9", PatientID=patient, StudyInstanceUID=study)
        for path in (tmp_path / "x").iterdir():
            path.rename(tmp_path / f"in/{n}{path.name}")
    found = scans(tmp_path / "in")
    assert [len(s.series.slices) for s in found] == [4, 4, 4] and not any(s.fault for s in found)
    assert len({s.case for s in found}) == 3


@pytest.mark.parametrize(
    "text, code, name",
    [
        ("include: []", "rules-invalid", "include"),
        ("include: [{modalty: CT}]", "rules-invalid", "modalty"),
        ("include: [{slices: [2000, 2]}]", "rules-invalid", "slices"),
        ("include: [{description: '('}]", "rules-invalid", "rules.yaml"),
        ("{", "rules-not-yaml", "rules.yaml"),
        ("", "rules-invalid", "the file"),
    ],
)
def test_invalid_rules_are_refused(tmp_path, text, code, name):
    with refused(code, names=name):
        rules(tmp_path, text)


def test_nested_studies_are_called_after_their_folders(tmp_path):
    for patient in ("p1", "p2"):
        write_ct(tmp_path / "in" / patient / "CT", stored(3))
    write_ct(tmp_path / "in/p3", stored(3))
    assert [s.case for s in scans(tmp_path / "in")] == ["p1_CT", "p2_CT", "p3"]


def test_a_broken_file_is_a_fault_of_every_scan_of_its_folder_or_alone(mixed, tmp_path):
    write_ct(tmp_path / "in/sub", stored(4))
    for place in ("sub/002.dcm", "other005.dcm"):  # the last slice: what is left is a volume
        (mixed / place).write_bytes(b"")
    (tmp_path / "in/alone").mkdir()
    (tmp_path / "in/alone/x.dcm").write_bytes(b"")
    found = {s.case: s for s in scans(mixed, rules=rules(tmp_path, "include: [{modality: CT}]\nevery: true"))}
    assert "002.dcm is not a readable DICOM file" in found.pop("sub").fault
    assert "x.dcm is not" in found.pop("x.dcm").fault
    assert len(found) == 4 and all("other005.dcm is not" in s.fault for s in found.values())
    (undecided,) = scans(tmp_path / "in/sub", rules=rules(tmp_path, "include: [{modality: MR}]"))
    assert undecided.series is None and "002.dcm is not" in undecided.fault  # it may be what the rules ask for


def test_a_cohort_of_mixed_studies_is_converted_and_its_output_not_converted_again(mixed, tmp_path):
    model = make_model(small_settings(inference={"spacing": "ignore"}))
    chosen = rules(tmp_path, "include: [{description: '^(portal|other)$'}]")
    for status in ("converted", "skipped"):
        results = convert(model, mixed, tmp_path / "out", rules=chosen)
        assert [r.status for r in results] == [status] * 2, [r.error for r in results]
    assert (tmp_path / "out/dicom_index.sqlite").exists()
    shutil.copytree(tmp_path / "out", mixed / "made")
    again = scans(mixed, rules=chosen)
    assert len(again) == 2 and not any(s.series.description.startswith(NOTICE) for s in again)
    assert np.isfinite(read_scan(again[0])[0].data).all()


def test_no_scan_is_ignored_silently(model, tmp_path):
    for case, tags in (("ok", {}), ("lost", {}), ("ours", {"SeriesDescription": NOTICE})):
        write_ct(tmp_path / "in" / case, stored(4, 8, 9), **tags)
    for path in (tmp_path / "in/lost").iterdir():
        ds = dcmread(path)
        del ds.ImagePositionPatient
        ds.save_as(path)
    found = {scan.case: scan.fault for scan in find_scans(tmp_path / "in", ["ct"])}
    assert found.keys() == {"ok", "lost"} and found["ok"] is None and "no valid ImagePositionPatient" in found["lost"]
    with refused("input-only-own-series"):
        find_scans(tmp_path / "in/ours", ["ct"])
    with refused("rules-choose-nothing"):
        convert(model, tmp_path / "in", tmp_path / "out", rules=Rules(include=[Rule(modality="MR")]))


def test_a_slice_not_recognisable_as_dicom_is_not_ignored(tmp_path):
    """Old files begin with their elements; damaged or compressed copies do not, but are slices too."""
    write_ct(tmp_path / "in", stored(5, 8, 9))
    for path in sorted((tmp_path / "in").iterdir()):
        path.rename(path.with_suffix(""))
    *_, last = sorted((tmp_path / "in").iterdir())
    whole = dcmread(last)
    dcmwrite(last, Dataset(whole), implicit_vr=True, little_endian=True, enforce_file_format=False)
    (scan,) = find_scans(tmp_path / "in", ["ct"])
    assert scan.fault is None and read_scan(scan)[0].data.shape[2] == 5
    last.write_bytes(bytes(range(256)) * 9)
    (scan,) = find_scans(tmp_path / "in", ["ct"])
    assert "not DICOM but named like the DICOM files" in scan.fault
    last.rename(last.with_name(f"{last.name}.gz"))
    (scan,) = find_scans(tmp_path / "in", ["ct"])
    assert "is compressed" in scan.fault


def test_a_tilted_gantry_in_nifti_gives_a_warning(model, tmp_path):
    tilted = AXIAL.copy()
    tilted[:, 2] += [0, 0.3, 0]
    write_ct(tmp_path / "in/case", stored(5, 8, 9), tilted)
    for format, warned in (("nifti", True), ("mha", False)):
        (result,) = convert(model, tmp_path / "in", tmp_path / format, format=format)
        assert any("sheared" in text for text in result.warnings) == warned, result.error


def test_a_report_shows_the_series_that_was_converted(mixed, tmp_path):
    """One of several series in a folder, several volumes in one series, and a series in several folders."""
    for k, path in enumerate(sorted(mixed.glob("other*"))):
        moved = tmp_path / f"all/other/part{k % 2}" / path.name
        moved.parent.mkdir(exist_ok=True, parents=True)
        path.rename(moved)
    for path in sorted(mixed.glob("portal0*")):  # a second volume under the same UID
        ds = dcmread(path)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"{ds.SOPInstanceUID[:50]}.7"
        ds.AcquisitionNumber = 2
        ds.save_as(path.with_name(f"again{path.name}"))
    mixed.rename(tmp_path / "all/in")
    model = make_model(small_settings(inference={"spacing": "ignore"}))
    chosen = rules(tmp_path, "include: [{modality: CT}]\nevery: true")
    results = convert(model, tmp_path / "all", tmp_path / "out", rules=chosen)
    assert [r.error for r in results] == [None] * 5 and len({r.picked for r in results}) == 5
    (again,) = convert(model, tmp_path / "all/in", tmp_path / "more", series="arterial")
    page = conversion_report([asdict(result) for result in [*results, again]], tmp_path / "report.html")
    text = page.read_text()
    assert "cannot be shown" not in text and text.count("(identical in input and output)") == 6


@pytest.mark.parametrize("keyword", ["PatientID", "StudyInstanceUID"])
def test_a_series_that_a_correction_tore_apart_is_a_fault(tmp_path, keyword):
    write_ct(tmp_path, stored(10), **{keyword: lambda k: f"1.{k // 5}"})
    found = scans(tmp_path)
    assert len(found) == 2 and all(f"different values of {keyword} (5 and 5 slices)" in s.fault for s in found)


def test_a_screen_save_stored_as_a_ct_image_is_no_slice(tmp_path):
    """It lies one step beyond the last slice, where scanners put it."""
    kinds = (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "SCREEN SAVE"])
    write_ct(tmp_path, stored(6), ImageType=lambda k: kinds[k == 5])
    (scan,) = scans(tmp_path)
    assert len(read_scan(scan)[0].frames) == 5 and "secondary capture" in " ".join(scan.notes)

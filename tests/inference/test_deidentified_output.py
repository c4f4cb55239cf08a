"""De-identified runs: the output folder identifies nobody, and a run can be resumed."""

import csv
import json
import shutil

import numpy as np
import pydicom
import pytest
from dicom_series import stored, write_ct
from refusal import refused
from small import make_model, small_settings
from typer.testing import CliRunner

from medgen.checkpoint import save_model
from medgen.cli import app
from medgen.inference import convert_case as cases
from medgen.inference.cohort.run import convert
from medgen.inference.deidentified_output import open_private_folder
from medgen.io.atomic import atomic_folder
from medgen.io.volume import Volume
from medgen.io.write import write_volume
from medgen.qa.run import named_checks

NAME = "Zyx^Wvut"
HU = {
    "intensity": {"source": {"low": -1000, "high": 1000, "outside": "preserve"}},
    "inference": {"spacing": "ignore"},
}


def cohort(folder):
    """Two scans named after the patient, and an invalid one."""
    for n in (1, 2):
        write_ct(
            folder / f"ZyxWvut_{n}", np.clip(stored(8, 16, 16) // 3, 100, 2000), PatientName=NAME, PatientID="ZyxWvut",
            StudyDescription="ZyxWvut head",
        )  # fmt: skip
    write_ct(folder / "ZyxWvut_3", stored(4, 16, 16), BurnedInAnnotation="YES", PatientName=NAME, PatientID="ZyxWvut")
    return folder


def contents(folder):
    """All names and bytes below a folder."""
    return b"".join(
        str(p.relative_to(folder)).encode() + (p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*")
    )


def test_an_output_folder_identifies_nobody_and_a_second_run_skips(tmp_path, monkeypatch):
    source, out = cohort(tmp_path / "in"), tmp_path / "out"
    model = make_model(small_settings(**HU))
    translated, translate_case = [], cases.translate_case
    monkeypatch.setattr(cases, "translate_case", lambda *a, **k: translated.append(a) or translate_case(*a, **k))
    results = convert(model, source, out, private=open_private_folder(source, out, None))
    assert len(translated) == 2  # what may show a name in its pixels is refused before any work
    assert [r.status for r in results] == ["converted", "converted", "failed"]
    assert "may show the patient's name" in results[2].error
    everything = contents(out)
    assert b"Zyx" not in everything and str(tmp_path).encode() not in everything
    names = sorted(path.name for path in out.iterdir())
    assert names.pop(0) == ".medgen.record" and names[-1] == "deidentification.csv" and len(names) == 3
    assert all(c.startswith("case_") for c in names[:2])
    first, second = (pydicom.dcmread(out / name / "00000.dcm") for name in names[:2])
    assert first.PatientID == second.PatientID and first.StudyInstanceUID != second.StudyInstanceUID
    with open(out / "deidentification.csv") as file:
        rows = {(row["attribute"], row["change"]): row for row in csv.DictReader(file)}
    assert rows["PatientName", "replaced"]["places"] == "16" and rows["PatientName", "replaced"]["cases"] == "2"
    assert rows["StudyDescription", "removed"]["tag"] == "00081030"
    kept = json.loads((tmp_path / "out-private/manifest.json").read_text())["cases"]
    assert {record["input"].split("/")[-1] for record in kept.values()} == {f"ZyxWvut_{n}" for n in (1, 2, 3)}
    again = convert(model, source, out, private=open_private_folder(source, out, None))
    assert [r.status for r in again] == ["skipped", "skipped", "failed"]
    assert contents(out).split(b".medgen.record")[0] == everything.split(b".medgen.record")[0]
    assert b"Zyx" not in contents(out) and str(tmp_path).encode() not in contents(out)
    private = open_private_folder(source, out, None, shift_dates=True)
    with refused("folder-not-empty", names="deidentified"):
        convert(model, source, out, private=private)
    shutil.move(tmp_path / "out-private", tmp_path / "safe")  # another key would make other pseudonyms
    with refused("deidentify-key-missing", names="out-private"):
        open_private_folder(source, out, None)
    assert not (tmp_path / "out-private").exists()
    shifted = convert(model, source, out, private=private, overwrite=True)
    assert [r.status for r in shifted] == ["converted", "converted", "failed"]


def test_kinds_of_run_are_not_mixed_and_the_private_folder_is_apart(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    for folder in (out, out / "p", source / "p", tmp_path):
        with refused("deidentify-private-not-apart"):
            open_private_folder(source, out, folder)
    (tmp_path / "open").mkdir(mode=0o755)
    with refused("deidentify-private-folder-open"):
        open_private_folder(source, out, tmp_path / "open")
    with refused("deidentify-option-missing"):
        open_private_folder(source, out, tmp_path / "p", deidentify=False)
    (out / "deidentification.csv").touch()
    with refused("deidentify-output-mixed"):
        open_private_folder(source, out, None, deidentify=False)
    (out / "manifest.json").touch()
    with refused("deidentify-output-names-inputs", names="manifest.json"):
        open_private_folder(source, out, None)


def test_other_formats_are_refused(tmp_path):
    write_volume(tmp_path / "in/a.nii.gz", Volume(np.zeros((16, 16, 16)), np.eye(4)))
    private = open_private_folder(tmp_path / "in", tmp_path / "out", None)
    (result,) = convert(make_model(small_settings(**HU)), tmp_path / "in", tmp_path / "out", private=private)
    assert result.status == "failed" and "--deidentify reads and writes DICOM only" in result.error


def test_the_command_writes_the_report_to_the_private_folder(tmp_path):
    source = cohort(tmp_path / "in")
    model = make_model(small_settings(**HU))
    with atomic_folder(tmp_path / "model") as folder:
        save_model(folder, model.generator, model.info)
    call = ["translate", str(tmp_path / "model"), str(source), str(tmp_path / "out"), "--device", "cpu", "--deidentify"]
    result = CliRunner().invoke(app, [*call, "--identity-dir", str(tmp_path / "p")])
    assert result.exit_code == 2 and "2 converted, 0 skipped, 1 failed" in result.output
    assert (tmp_path / "p/report.html").exists() and not (tmp_path / "out/report.html").exists()
    assert b"Zyx" not in contents(tmp_path / "out")


def test_names_stay_when_others_join(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    model = make_model(small_settings(**HU))
    write_ct(source / "a/portal", np.clip(stored(4, 16, 16) // 3, 100, 2000), PatientID="1")
    (first,) = convert(model, source, out, private=open_private_folder(source, out, None))
    write_ct(source / "b/portal", np.clip(stored(5, 16, 16) // 3, 100, 2000), PatientID="2")
    results = convert(model, source, out, private=open_private_folder(source, out, None))
    assert sorted(r.status for r in results) == ["converted", "skipped"]
    assert first.case in [r.case for r in results] and len(list(out.glob("case_*"))) == 2


def test_two_patients_of_one_series_uid_are_two_cases(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    uid = write_ct(source / "a", np.clip(stored(4, 16, 16) // 3, 100, 2000), PatientID="1")
    write_ct(source / "b", np.clip(stored(4, 16, 16) // 3, 100, 2000), PatientID="2", SeriesInstanceUID=uid)
    results = convert(make_model(small_settings(**HU)), source, out, private=open_private_folder(source, out, None))
    assert [r.status for r in results] == ["converted", "converted"], [r.error for r in results]
    assert len(list(out.glob("case_*"))) == 2


@pytest.mark.parametrize(("other", "told"), [("Doe^Jane^^", None), ("Roe^Jane", "names"), ("Anonymous", None)])
def test_one_id_with_two_names_is_told_also_when_nothing_is_new(tmp_path, caplog, other, told):
    source, out = tmp_path / "in", tmp_path / "out"
    for name, person in (("a", "DOE^JANE"), ("b", other)):
        write_ct(source / name, np.clip(stored(4, 16, 16) // 3, 100, 2000), PatientID="1", PatientName=person)
    for status in ("converted", "skipped"):
        caplog.clear()
        private = open_private_folder(source, out, None)
        results = convert(make_model(small_settings(**HU)), source, out, private=private)
        assert [r.status for r in results] == [status] * 2, [r.error for r in results]
        assert (f"one PatientID but different {told}" in caplog.text) == (told is not None)
        assert "doe" not in caplog.text.casefold()


def test_reports_of_verdicts_quote_nothing_of_the_input(tmp_path):
    """The warning about a map of iodine quotes the description, and is part of the verdict."""
    pytest.importorskip("highdicom")
    source, out = tmp_path / "in", tmp_path / "out"
    write_ct(source / "a", np.clip(stored(8, 16, 16) // 3, 100, 2000), SeriesDescription=f"Iodine map {NAME}")
    options = {"checks": named_checks("general"), "qa_report_sr": True}
    (result,) = convert(
        make_model(small_settings(**HU)), source, out, private=open_private_folder(source, out, None), **options
    )
    assert result.status == "converted" and any("Zyx" in reason for reason in result.reasons)
    assert b"Zyx" not in contents(out) and list((out / "verdicts").iterdir())
    (report,) = (out / "verdicts").iterdir()
    assert b"private folder" in report.read_bytes()

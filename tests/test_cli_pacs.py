"""medgen translate --from-pacs and --to-pacs: conflicting options, and storing conversions of local scans."""

import sys
from contextlib import contextmanager

import pytest
from archive import free_port
from dicom_series import stored, write_ct
from pydicom import dcmread
from pydicom.uid import ComprehensiveSRStorage, CTImageStorage
from small import SMALL_METHOD, make_model, merged, small_settings, write_cohort

from medgen import cli
from medgen.checkpoint import save_model
from medgen.io.atomic import atomic_folder

HERE = ["--from-pacs", "dicom://A@127.0.0.1:9", "--query", "PatientID=1"]
THERE = ["--to-pacs", "dicom://A@127.0.0.1:9"]


@pytest.fixture
def run(capsys, monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["medgen", "translate", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        shown = capsys.readouterr()
        return caught.value.code or 0, shown.out, shown.err

    return call


@pytest.mark.parametrize(
    "output, options, words",
    [
        ("out", ["--query", "PatientID=1"], "add --from-pacs"),
        ("out", [*HERE, "--watch"], "--watch reads a folder"),
        ("out.nii.gz", HERE, "needs a folder as output"),
        ("out.nii.gz", THERE, "--to-pacs stores DICOM"),
        ("out", [*THERE, "--format", "nifti"], "--to-pacs stores DICOM"),
    ],
)
def test_options_that_do_not_go_together(run, tmp_path, output, options, words):
    code, _, err = run(tmp_path / "no_model", tmp_path / "in", tmp_path / output, *options)
    assert code == 2 and words in err and "Traceback" not in err


def save(folder, train=True, **sections):
    model = make_model(small_settings(inference={"spacing": "ignore"}, **sections), train=train)
    with atomic_folder(folder) as saved:
        save_model(saved, model.generator, model.info)
    return folder


def test_a_model_of_several_contrasts_takes_none_from_a_pacs(run, tmp_path):
    model = save(tmp_path / "m", data={"sources": ["t1", "t2"]}, intensity={"source": {"low": 0, "high": 1}})
    code, _, err = run(model, tmp_path / "in", tmp_path / "out", *HERE)
    assert code == 2 and "a model with one source contrast" in err and "t1 and t2" in err


@contextmanager
def archive(*kinds):
    """A storage server; gives its address and the list of received datasets."""
    pytest.importorskip("pynetdicom", reason="needs pip install 'medgen[pacs]'")
    from pynetdicom import AE, evt

    got = []
    entity = AE("PACS")
    for kind in kinds:
        entity.add_supported_context(kind)
    store = (evt.EVT_C_STORE, lambda event: got.append(event.dataset) or 0)
    server = entity.start_server(("127.0.0.1", free_port()), block=False, evt_handlers=[store])
    try:
        yield f"dicom://PACS@127.0.0.1:{server.server_address[1]}", got
    finally:
        server.shutdown()


def test_deidentified_series_are_stored_with_their_verdict(run, tmp_path):
    pytest.importorskip("highdicom", reason="highdicom (medgen[dicom]) is absent")
    model = save(tmp_path / "m", train=False)
    write_ct(tmp_path / "in/Meier", stored(8, 32, 34) // 3)
    source = dcmread(next((tmp_path / "in/Meier").iterdir()))
    with archive(CTImageStorage, ComprehensiveSRStorage) as (address, got):
        given = ("--to-pacs", address, "--deidentify", "--qa-report-sr", "--qa-limits", "general")
        for sent in (9, 9):
            code, out, err = run(model, tmp_path / "in", tmp_path / "out", *given)
            assert code == 0 and len(got) == sent, out + err
    assert [ds.Modality for ds in got].count("SR") == 1 and len({ds.StudyInstanceUID for ds in got}) == 1
    identifying = {str(source.PatientID), str(source.PatientName), str(source.StudyInstanceUID), "Meier"}
    for ds in got:
        assert ds.PatientIdentityRemoved == "YES" and ds.PatientID and ds.StudyInstanceUID
        assert not any(word and word in str(ds) for word in identifying)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files and not any(word.encode() in path.read_bytes() for path in files for word in identifying if word)


def test_every_target_of_local_scans_is_stored_and_other_formats_fail(run, tmp_path):
    with archive(CTImageStorage) as (address, got):
        method = merged(SMALL_METHOD, {"generator": {"residual": False}})
        model = save(tmp_path / "m", data={"targets": ["late", "none"]}, method=method)
        write_ct(tmp_path / "in/case", stored(8, 32, 34) // 3)
        for sent in (8, 0):
            given = ("--to-pacs", address, "--no-report", "--qa-limits", "none")
            code, out, err = run(model, tmp_path / "in", tmp_path / "out", *given)
            assert code == 0, err
            assert all(f"stored {target}/case: 8 images, {sent} of them sent now" in out for target in ("late", "none"))
        assert len(got) == 16 and len({ds.SeriesInstanceUID for ds in got}) == 2
        # an untrained network's output fails the structure check, and is kept from the archive
        code, out, err = run(model, tmp_path / "in", tmp_path / "failed", "--to-pacs", address, "--no-report")
        assert code == 0 and "verdicts: 0 pass, 0 review, 1 fail" in out and "not stored" in out and len(got) == 16
        model = save(tmp_path / "one")
        write_cohort(tmp_path / "nifti", 1)
        code, out, err = run(model, tmp_path / "nifti/source", tmp_path / "made", "--to-pacs", address, "--no-report")
        assert code == 2 and "1 converted" in out and "is not a DICOM series, so it cannot be stored" in err

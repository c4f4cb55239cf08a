"""medgen translate --from-pacs and --to-pacs: what does not go together, and storing what is made of local scans."""

import sys

import pytest
from archive import free_port
from dicom_series import stored, write_ct
from small import SMALL_METHOD, make_model, small_settings, write_cohort

from medgen import cli
from medgen.checkpoint import save_model
from medgen.io.folder import folder_written_aside

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
        ("out", ["--query", "PatientID=1"], "say which with --from-pacs"),
        ("out", [*HERE, "--watch"], "--watch looks at a folder"),
        ("out.nii.gz", HERE, "give a folder as output"),
        ("out.nii.gz", THERE, "--to-pacs stores DICOM"),
        ("out", [*THERE, "--format", "nifti"], "--to-pacs stores DICOM"),
    ],
)
def test_options_that_do_not_go_together(run, tmp_path, output, options, words):
    code, _, err = run(tmp_path / "no_model", tmp_path / "in", tmp_path / output, *options)
    assert code == 2 and words in err and "Traceback" not in err


def save(folder, **sections):
    model = make_model(small_settings(inference={"spacing": "ignore"}, **sections))
    with folder_written_aside(folder) as aside:
        save_model(aside, model.generator, model.info)
    return folder


def test_a_model_of_several_contrasts_takes_none_from_a_pacs(run, tmp_path):
    model = save(tmp_path / "m", data={"sources": ["t1", "t2"]}, codec={"source": {"low": 0, "high": 1}})
    code, _, err = run(model, tmp_path / "in", tmp_path / "out", *HERE)
    assert code == 2 and "models of one contrast" in err


def test_every_target_of_local_scans_is_stored_and_what_is_no_dicom_is_a_fault(run, tmp_path):
    pytest.importorskip("pynetdicom", reason="needs pip install 'medgen[pacs]'")
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import CTImageStorage

    got = []
    entity = AE("PACS")
    entity.add_supported_context(CTImageStorage)
    store = (evt.EVT_C_STORE, lambda event: got.append(str(event.dataset.SeriesInstanceUID)) or 0)
    server = entity.start_server(("127.0.0.1", free_port()), block=False, evt_handlers=[store])
    address = f"dicom://PACS@127.0.0.1:{server.server_address[1]}"
    try:
        model = save(tmp_path / "m", data={"targets": ["late", "none"]}, method={**SMALL_METHOD, "residual": False})
        write_ct(tmp_path / "in/case", stored(8, 32, 34) // 3)
        for sent in (8, 0):
            given = ("--to-pacs", address, "--no-report", "--checks", "none")
            code, out, err = run(model, tmp_path / "in", tmp_path / "out", *given)
            assert code == 0, err
            assert all(f"stored {target}/case: 8 images, {sent} of them now" in out for target in ("late", "none"))
        assert len(got) == 16 and len(set(got)) == 2
        # an untrained network's output fails the structure check, and is kept from the archive
        code, out, err = run(model, tmp_path / "in", tmp_path / "failed", "--to-pacs", address, "--no-report")
        assert code == 0 and "verdicts: 0 pass, 0 review, 1 fail" in out and "not stored" in out and len(got) == 16
        model = save(tmp_path / "one")
        write_cohort(tmp_path / "nifti", 1)
        code, out, err = run(model, tmp_path / "nifti/source", tmp_path / "made", "--to-pacs", address, "--no-report")
        assert code == 2 and "1 converted" in out and "is no DICOM series, so it cannot be stored" in err
    finally:
        server.shutdown()

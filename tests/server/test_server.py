"""The server gives the voxels of medgen translate, within bounds."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from dicom_series import stored, write_ct
from serving import LOCAL, finished, scan, zipped
from typer.testing import CliRunner

from medgen.cli import app as cli
from medgen.io.read import read_volume
from medgen.io.volume import Volume

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from medgen.server.app import Access  # noqa: E402
from medgen.server.uploads import Limits  # noqa: E402


def test_a_nifti_upload_gives_the_voxels_of_the_command(served, model, tmp_path):
    client, path = served(), scan(tmp_path / "scan.nii.gz")
    assert client.get("/api/models").json() == [{"name": "tiny", "about": "A model"}]
    state = finished(client, client.post("/api/jobs?model=tiny", content=path.read_bytes()))
    assert state["state"] == "done" and state["cases"][0]["verdict"] in ("pass", "review", "fail"), state
    found = client.get(f"/api/jobs/{state['id']}/result")
    (tmp_path / "found.nii.gz").write_bytes(found.content)
    call = ["translate", model, path, tmp_path / "out.nii.gz", "--qa-limits", "none"]
    assert CliRunner().invoke(cli, [str(text) for text in call]).exit_code == 0
    got, wanted = read_volume(tmp_path / "found.nii.gz"), read_volume(tmp_path / "out.nii.gz")
    assert np.array_equal(got.data, wanted.data) and np.array_equal(got.affine, wanted.affine)
    assert got.dtype == wanted.dtype
    report = client.get(f"/api/jobs/{state['id']}/report")
    assert report.status_code == 200 and "sandbox" in report.headers["content-security-policy"]
    assert str(tmp_path) not in report.text and str(tmp_path) not in str(state)
    _slices_are_those_of_the_images(client, state, read_volume(path), wanted)
    assert client.delete(f"/api/jobs/{state['id']}").status_code == 200
    assert client.get(f"/api/jobs/{state['id']}").status_code == 404 and not list((tmp_path / "work").iterdir())


def test_input_and_output_on_other_grids_are_shown_at_the_same_place(served, tmp_path, quick, monkeypatch):
    """As of a model that restores thick slices: the input is interpolated."""
    client, path = served(), scan(tmp_path / "scan.nii.gz")
    made = read_volume(path)
    fine = Volume(np.repeat(made.data, 2, 2), made.affine @ np.diag([1, 1, 0.5, 1]), np.dtype(np.int16))
    monkeypatch.setattr("medgen.inference.convert_case.translate_case", lambda *_, **__: [fine])
    state = finished(client, client.post("/api/jobs?model=tiny", content=path.read_bytes()))
    assert state["state"] == "done" and state["shape"] == [14, 12, 20], state
    for name in ("input", "output"):
        assert client.get(f"/api/jobs/{state['id']}/slice?image={name}&axis=2&index=19").status_code == 200


def test_a_result_has_the_ending_of_its_format(served, tmp_path, quick):
    client, path = served(), scan(tmp_path / "scan.nii")
    state = finished(client, client.post("/api/jobs?model=tiny", content=path.read_bytes()))
    assert state["state"] == "done" and state["result"].startswith("result.nii"), state
    found = tmp_path / state["result"]
    found.write_bytes(client.get(f"/api/jobs/{state['id']}/result").content)
    assert read_volume(found).data.shape == (14, 12, 10)


def _slices_are_those_of_the_images(client, state, source, output):
    shown = {"input": source.data[::-1], "output": output.data[::-1]}  # RAS: the affine's first axis points left
    for name, data in shown.items():
        answer = client.get(f"/api/jobs/{state['id']}/slice", params={"image": name, "axis": 2, "index": 3})
        rows, columns = int(answer.headers["x-rows"]), int(answer.headers["x-columns"])
        found = np.frombuffer(answer.content, "<f4").reshape(rows, columns)
        assert np.array_equal(found, data[:, :, 3].T[::-1, ::-1])


def test_a_zip_of_dicom_gives_a_derived_series(served, tmp_path, quick):
    write_ct(tmp_path / "series", stored(16, 16, 16))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "series").iterdir():
            archive.write(path, f"study/series/{path.name}")
    client = served()
    state = finished(client, client.post("/api/jobs?model=tiny", content=content.getvalue()))
    assert state["state"] == "done" and state["result"] == "result.zip", state
    result = zipfile.ZipFile(io.BytesIO(client.get(f"/api/jobs/{state['id']}/result").content))
    result.extractall(tmp_path / "result")
    assert len(result.namelist()) == 16 and read_volume((tmp_path / "result" / result.namelist()[0]).parent).frames


@pytest.mark.parametrize("kind", ["finder", "patient CD", "backslashes"])
def test_a_zip_as_other_programs_write_it(served, tmp_path, quick, kind):
    """What is beside the images is no failed case."""
    write_ct(tmp_path / "series", stored(16, 16, 16))
    beside = {
        "finder": {"__MACOSX/series/._00001.dcm": b"\0\5\x16\7" + bytes(200), "series/.DS_Store": bytes(600)},
        "patient CD": {"README.TXT": b"hello", "AUTORUN.INF": b"[autorun]", "VIEWER/view.exe": b"MZ" + bytes(900)},
        "backslashes": {},
    }[kind]
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in beside.items():
            archive.writestr(name, data)
        for number, path in enumerate((tmp_path / "series").iterdir()):
            info = zipfile.ZipInfo()
            info.filename = info.orig_filename = {
                "finder": f"series/{path.name}",
                "patient CD": f"DICOM/PA00/IM_{number:04d}",
                "backslashes": f"DICOM\\{path.name}",
            }[kind]
            archive.writestr(info, path.read_bytes())
    client = served()
    state = finished(client, client.post("/api/jobs?model=tiny", content=content.getvalue()))
    assert state["state"] == "done" and [case["error"] for case in state["cases"]] == [None], state


def test_the_results_of_a_zip_name_their_folders(served, tmp_path, quick):
    files = {}
    for patient in ("Ann", "Bob"):
        write_ct(tmp_path / patient, stored(16, 16, 16))
        files |= {f"study/{patient}/{path.name}": path.read_bytes() for path in (tmp_path / patient).iterdir()}
    client = served()
    state = finished(client, client.post("/api/jobs?model=tiny&format=nifti", content=zipped(files)))
    assert {case["case"]: case["folder"] for case in state["cases"]} == {"00000": "study/Ann", "00001": "study/Bob"}


@pytest.mark.parametrize(
    ("name", "unread"), [("B/scan.nii.gz", False), ("B/scan.nii", False), ("B/x.dcm.gz", True), ("VIEW: 1/x.zip", True)]
)
def test_another_scan_in_a_zip_of_dicom_is_not_lost_without_a_word(served, tmp_path, quick, name, unread):
    write_ct(tmp_path / "A", stored(16, 16, 16))
    files = {f"A/{path.name}": path.read_bytes() for path in (tmp_path / "A").iterdir()}
    other = scan(tmp_path / f"other{''.join(Path(name).suffixes)}").read_bytes() if ".nii" in name else b"PK" * 200
    client = served()
    state = finished(client, client.post("/api/jobs?model=tiny", content=zipped(files | {name: other})))
    if unread:
        assert state["state"] == "done" and state["unread"] == [name] and len(state["cases"]) == 1
    else:
        assert any(case["error"] and "DICOM" in case["error"] for case in state["cases"]) or state["error"], state


def test_paths_only_below_the_allowed_folder(served, tmp_path, quick):
    (tmp_path / "scans").mkdir()
    scan(tmp_path / "scans/one.nii.gz")
    scan(tmp_path / "secret.nii.gz")
    (tmp_path / "scans/link.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    assert served().post("/api/paths?model=tiny&path=one.nii.gz").status_code == 403
    client = served(access=Access(root=tmp_path / "scans"))
    assert finished(client, client.post("/api/paths?model=tiny&path=one.nii.gz"))["state"] == "done"
    for path in ("../secret.nii.gz", str(tmp_path / "secret.nii.gz"), "link.nii.gz", "", "a\0b", "none.nii.gz"):
        answer = client.post("/api/paths", params={"model": "tiny", "path": path})
        assert answer.status_code in (400, 403, 404), path
    assert (tmp_path / "scans/one.nii.gz").exists()


def test_a_full_queue_and_a_large_upload_are_refused(served, tmp_path, monkeypatch):
    path = scan(tmp_path / "scan.nii.gz")
    client = served(Limits(upload=path.stat().st_size + 10, queue=1))
    answer = client.post("/api/jobs?model=tiny", content=path.read_bytes() + b"0" * 11)
    assert answer.status_code == 413
    answer = client.post("/api/jobs?model=tiny", content=iter([path.read_bytes(), b"0" * 11]))  # no content-length
    assert answer.status_code == 413
    client.jobs.reserve("tiny", None)
    assert client.post("/api/jobs?model=tiny", content=path.read_bytes()).status_code == 429


def test_old_jobs_are_deleted(served, tmp_path, quick):
    path = scan(tmp_path / "scan.nii.gz")
    client = served(Limits(kept=2))
    for _ in range(4):
        finished(client, client.post("/api/jobs?model=tiny", content=path.read_bytes()))
    assert len(list((tmp_path / "work").iterdir())) <= 3


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer wrong", "Basic right-token-0123456", "Bearer \xff"])
def test_a_wrong_token_opens_only_the_page(served, given):
    client = served(access=Access(token="right-token-0123456", hosts=None), base="http://server.example")
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    places = [("GET", "/api/models"), ("POST", "/api/jobs?model=tiny"), ("GET", "/api/jobs/x"), ("GET", "/info/")]
    for method, path in (*places, ("POST", "/infer/tiny"), ("POST", "/dicom-web/studies")):
        assert client.request(method, path, headers=headers).status_code == 401
    assert client.get("/", headers=headers).status_code == 200
    right = {"Authorization": "Bearer right-token-0123456"}
    assert client.get("/api/models", headers=right).status_code == 200


def test_other_websites_and_names_are_refused(served):
    client = served()
    assert client.get("/api/models", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/api/models", headers={"Host": "127.0.0.1.evil.example:8000"}).status_code == 421
    for path in ("/api/jobs?model=tiny", "/infer/tiny", "/dicom-web/studies"):
        assert client.post(path, headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get("/api/models", headers={"Origin": LOCAL}).status_code == 200


def test_the_page_needs_no_network(served):
    text = served().get("/").text
    assert "<script>" in text and "http" not in text.replace("http-equiv", "")


def test_another_address_needs_a_token(model, monkeypatch):
    monkeypatch.delenv("MEDGEN_SERVER_TOKEN", raising=False)
    call = ["serve", str(model), "--host", "0.0.0.0"]
    assert CliRunner().invoke(cli, call).exception.code == "server-token-missing"
    monkeypatch.setenv("MEDGEN_SERVER_TOKEN", "short")
    assert CliRunner().invoke(cli, call).exception.code == "server-token-weak"
    monkeypatch.delenv("MEDGEN_SERVER_TOKEN")
    assert CliRunner().invoke(cli, ["serve", str(model), str(model)]).exception.code == "server-model-name"

"""The requests of MONAI Label's clients give the voxels of medgen translate."""

import json

import numpy as np
import pytest
from dicom_series import stored, write_ct
from python_multipart.multipart import MultipartParser
from serving import scan, zipped
from typer.testing import CliRunner

from medgen.cli import app as cli
from medgen.io.read import read_volume

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from medgen.server.app import Access  # noqa: E402
from medgen.server.uploads import Limits  # noqa: E402


def parts_of(answer):
    """[headers and content] of a form, by another reading of it than the server's."""
    boundary = answer.headers["content-type"].partition("boundary=")[2]
    found = answer.content.split(f"--{boundary}".encode())[1:-1]
    return [part.strip(b"\r\n").partition(b"\r\n\r\n")[::2] for part in found]


def form(path, **fields):
    return {"files": {"file": (path.name, path.read_bytes())}, "data": {"params": "{}", **fields}}


def test_the_info_lists_the_models_as_clients_read_it(served):
    info = served(names=("tiny", "other")).get("/info/").json()
    assert info["name"] == "medgen" and info["labels"] == [] and info["trainers"] == {} and info["strategies"] == {}
    assert info["models"]["tiny"] | {"description": "A model", "dimension": 3, "labels": []} == info["models"]["tiny"]
    assert set(info["models"]) == {"tiny", "other"}


def test_an_upload_gives_parameters_and_image(served, model, tmp_path, quick):
    client, path = served(), scan(tmp_path / "scan.nii.gz")
    answer = client.post("/infer/tiny?image=scan", **form(path))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-length"] == str(len(answer.content)), "clients do not undo chunks"
    (params, about), (image, content) = parts_of(answer)
    assert b'name="params"' in params and json.loads(about)["verdict"] in ("pass", "review", "fail")
    assert b'name="image"; filename="result.nii.gz"' in image
    (tmp_path / "found.nii.gz").write_bytes(content)
    call = ["translate", model, path, tmp_path / "out.nii.gz", "--qa-limits", "none"]
    assert CliRunner().invoke(cli, [str(text) for text in call]).exit_code == 0
    got, wanted = read_volume(tmp_path / "found.nii.gz"), read_volume(tmp_path / "out.nii.gz")
    assert np.array_equal(got.data, wanted.data) and np.array_equal(got.affine, wanted.affine)
    assert not client.jobs._jobs and not list((tmp_path / "work").iterdir()), "nothing is kept"


def test_the_form_can_be_read_by_a_parser(served, tmp_path, quick):
    answer = served().post("/infer/tiny", **form(scan(tmp_path / "scan.nii")))
    ends = []
    callbacks = {"on_part_end": lambda: ends.append("part"), "on_end": lambda: ends.append("all")}
    MultipartParser(answer.headers["content-type"].partition("boundary=")[2], callbacks).write(answer.content)
    assert ends == ["part", "part", "all"]


def test_the_output_can_be_image_or_json_alone(served, tmp_path, quick):
    client, path = served(), scan(tmp_path / "scan.nii.gz")
    image = client.post("/infer/tiny?output=image", **form(path))
    assert image.status_code == 200 and image.content[:2] == b"\x1f\x8b"
    told = client.post("/infer/tiny?output=json", **form(path)).json()
    assert set(told) == {"verdict", "reasons", "warnings", "seconds"}


def test_a_scan_of_the_server_is_named_by_image(served, tmp_path, quick):
    (tmp_path / "scans").mkdir()
    scan(tmp_path / "scans/scan.nii.gz")
    scan(tmp_path / "secret.nii.gz")
    client = served(access=Access(root=tmp_path / "scans"))
    assert client.post("/infer/tiny?image=scan.nii.gz&output=json").status_code == 200
    assert client.post("/infer/tiny?image=scan.nii.gz", files={"params": (None, "{}")}).status_code == 200
    for name, status in (("../secret.nii.gz", 403), ("/etc/passwd", 400), ("none.nii.gz", 404)):
        assert client.post("/infer/tiny", params={"image": name}).status_code == status
    assert served().post("/infer/tiny?image=scan.nii.gz").status_code == 403
    assert not client.jobs._jobs


def test_what_translation_does_not_have_is_refused(served, tmp_path):
    client, path = served(Limits(upload=30_000)), scan(tmp_path / "scan.nii.gz")
    assert client.post("/infer/none", **form(path)).status_code == 404
    assert client.post("/infer/tiny").status_code == 400
    assert client.post("/infer/tiny?session_id=1", **form(path)).status_code == 406
    assert client.post("/infer/tiny?output=dicom_seg", **form(path)).status_code == 400
    label = {"files": {"label": ("label.nii.gz", b"x"), "file": ("scan.nii.gz", path.read_bytes())}}
    assert client.post("/infer/tiny", **label).status_code == 400
    assert client.post("/infer/tiny", files={"file": ("scan.nii.gz", bytes(40_000))}).status_code == 413
    assert client.post("/infer/tiny", files={"file": ("scan.nii.gz", b"no scan" * 99)}).status_code == 415
    cut = {"content": b"--b\r\nContent-Disposition: form-data; name=file\r\n\r\nabc"}
    assert (
        client.post("/infer/tiny", headers={"Content-Type": "multipart/form-data; boundary=b"}, **cut).status_code
        == 400
    )
    assert not client.jobs._jobs and not list(client.jobs.work.iterdir())


def test_a_scan_that_cannot_be_converted_gives_the_reason(served, tmp_path):
    client, path = served(), tmp_path / "scan.nii.gz"
    path.write_bytes(b"\x1f\x8b\x08" + bytes(900))
    answer = client.post("/infer/tiny", **form(path))
    assert answer.status_code == 422 and "scan" in answer.json()["error"] and str(tmp_path) not in answer.text
    assert not client.jobs._jobs


def test_one_scan_at_a_time(served, tmp_path, quick):
    files = {}
    for patient in "AB":
        write_ct(tmp_path / patient, stored(16, 16, 16))
        files |= {f"{patient}/{path.name}": path.read_bytes() for path in (tmp_path / patient).iterdir()}
    client = served()
    answer = client.post("/infer/tiny", files={"file": ("scan.zip", zipped(files))})
    assert answer.status_code == 422 and "several scans" in answer.json()["error"]


def test_a_server_that_ends_lets_no_request_wait(served, tmp_path, monkeypatch):
    path = scan(tmp_path / "scan.nii.gz")
    client = served(ending=lambda: True)
    monkeypatch.setattr(client.jobs, "submit", lambda job, source: None)  # it stays in the queue
    answer = client.post("/infer/tiny", **form(path))
    assert answer.status_code == 503 and not client.jobs._jobs

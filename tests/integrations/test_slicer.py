"""The Slicer module: its client against the real server, its widget with a stand-in of Slicer's API."""

import ast
import importlib
import sys
import threading
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import slicer_stub
from small import make_model
from typer.testing import CliRunner

from medgen.checkpoint import save_model
from medgen.cli import app as cli
from medgen.io.read import read_volume

pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")
from medgen.server.app import Access, build_app  # noqa: E402
from medgen.server.jobs import Jobs  # noqa: E402
from medgen.server.uploads import Limits  # noqa: E402

FOLDER = Path(__file__).parents[2] / "integrations/slicer/MedgenTranslate"
TOKEN = "right-token-0123456"
AFFINE = np.array([[-2, 0.1, 0, 13.3], [0.1, 2, 0, -20.1], [0, 0, 3, 7.123], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Address, jobs and model folder of a server on a socket."""
    place = tmp_path_factory.mktemp("server")
    (place / "tiny").mkdir()
    (place / "work").mkdir()
    made = make_model()
    save_model(place / "tiny", made.generator, made.info)
    jobs = Jobs({"tiny": place / "tiny"}, place / "work", Limits(upload=200_000, kept=100), qa_limits="general")
    config = uvicorn.Config(build_app(jobs, Access(TOKEN, None), {"tiny": "A model"}), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", jobs, place / "tiny"
    server.should_exit = True
    thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without reports, which take a second each."""
    monkeypatch.setattr("medgen.server.jobs.conversion_report", lambda *_, **__: None)


@pytest.fixture
def client(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("MedgenTranslateLib.client")
    for name in [name for name in sys.modules if name.startswith("MedgenTranslate")]:
        del sys.modules[name]


@pytest.fixture
def slicer(monkeypatch):
    return slicer_stub.install(monkeypatch)


@pytest.fixture
def module(client, slicer):
    return importlib.import_module("MedgenTranslate")


def voxels(shape=(14, 12, 10)):
    return np.rint(np.random.default_rng(2).normal(40, 200, shape)).astype(np.int16)


@pytest.fixture
def scan(tmp_path):
    nib.save(nib.Nifti1Image(voxels(), AFFINE), tmp_path / "scan.nii")
    return tmp_path / "scan.nii"


def command_result(model, scan, out):
    call = ["translate", str(model), str(scan), str(out), "--qa-limits", "none"]
    assert CliRunner().invoke(cli, call).exit_code == 0
    return read_volume(out)


def test_the_client_gives_the_voxels_of_the_command(client, served, scan, tmp_path):
    address, jobs, model = served
    server, said = client.MedgenServer(address + "/", TOKEN), []
    assert server.models() == [{"name": "tiny", "about": "A model"}]
    result, job = server.translate("tiny", str(scan), str(tmp_path), lambda *text: said.append(text))
    got, wanted = read_volume(Path(result)), command_result(model, scan, tmp_path / "out.nii")
    assert np.array_equal(got.data, wanted.data) and np.array_equal(got.affine, wanted.affine)
    assert job["cases"][0]["verdict"] in ("pass", "review", "fail")
    assert said[0] == ("Sending", 0.0) and said[-1] == ("Receiving", None)
    assert not jobs._jobs and not list(jobs.work.iterdir()), "the server keeps nothing"


@pytest.mark.parametrize(
    ("token", "model", "content", "reason"),
    [
        ("wrong", "tiny", b"", "token"),
        (TOKEN, "none", b"", "no such model"),
        (TOKEN, "tiny", b"no scan" * 100, "not a NIfTI file"),
        (TOKEN, "tiny", bytes(5_000_000), "too large"),
        (TOKEN, "tiny", b"\x1f\x8b\x08" + bytes(900), "scan"),
    ],
)
def test_a_refusal_gives_the_reason_of_the_server(client, served, tmp_path, token, model, content, reason):
    address, jobs, _ = served
    (tmp_path / "scan.nii").write_bytes(content or voxels().tobytes())
    with pytest.raises(client.MedgenError, match=reason):
        client.MedgenServer(address, token).translate(model, str(tmp_path / "scan.nii"), str(tmp_path), lambda *_: None)
    assert not jobs._jobs


def test_a_cancelled_job_is_deleted(client, served, scan, tmp_path):
    address, jobs, _ = served

    def cancel(text, part):
        if text != "Sending":
            raise KeyError(text)

    with pytest.raises(KeyError):
        client.MedgenServer(address, TOKEN).translate("tiny", str(scan), str(tmp_path), cancel)
    for _ in range(200):
        if all(job.finished for job in jobs._jobs.values()):
            break
        time.sleep(0.01)
    for name in list(jobs._jobs):  # was being converted: the server refuses to delete it then
        jobs.drop(name)


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://u:p@127.0.0.1", "http://127.0.0.1/?q", "http://[1"],
)
def test_what_is_no_address_is_refused(client, address):
    with pytest.raises(client.MedgenError, match="is no address"):
        client.MedgenServer(address)


def test_scan_and_token_go_unencrypted_only_to_this_machine(client):
    with pytest.raises(client.MedgenError, match="unencrypted"):
        client.MedgenServer("http://server.hospital:8000", TOKEN)
    assert client.MedgenServer("https://server.hospital", TOKEN).secure
    with pytest.raises(client.MedgenError, match="token"):
        client.MedgenServer("http://127.0.0.1:8000", "a\r\nX-Other: b")


def test_no_server_is_told(client):
    with pytest.raises(client.MedgenError, match="is medgen serve running"):
        client.MedgenServer("http://127.0.0.1:9").models()


def test_the_slicer_module_runs_its_own_tests(module):
    module.MedgenTranslateTest().runTest()


def test_the_widget_translates_the_selected_volume(module, slicer, served, scan, tmp_path):
    address, _, model = served
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    slicer.util.updateVolumeFromArray(volume, voxels().transpose())
    volume.matrix.values, volume.transform = AFFINE.copy(), "vtkMRMLLinearTransformNode1"
    widget = module.MedgenTranslateWidget()
    widget.setup()
    assert not widget.translateButton.enabled
    widget.address.text, widget.token.text = address, TOKEN
    widget.connectButton.click()
    widget.input.setCurrentNode(volume)
    assert widget.models.items == ["tiny"] and widget.translateButton.enabled
    widget.translateButton.click()
    (output,) = slicer.shown
    wanted = command_result(model, scan, tmp_path / "out.nii")
    assert output is not volume and output.name == "CT tiny synthetic"
    assert np.array_equal(output.voxels.transpose(), wanted.data)
    assert np.array_equal(output.matrix.values, AFFINE), "exact, also where NIfTI rounds to float32"
    assert output.transform == volume.transform and output.storage is None
    assert output.GetAttribute("Medgen.Verdict") in widget.result.plainText
    assert "not for diagnosis" in widget.result.plainText
    assert widget.translateButton.text == "Translate" and not widget.progressBar.visible


def test_the_widget_tells_refusals_and_can_be_cancelled(module, slicer, served):
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    slicer.util.updateVolumeFromArray(volume, voxels().transpose())
    widget = module.MedgenTranslateWidget()
    widget.setup()
    widget.address.text, widget.token.text = served[0], "wrong"
    widget.connectButton.click()
    assert slicer.shown == ["the server refused: give the token of this server"] and not widget.models.count
    widget.token.text = TOKEN
    widget.connectButton.click()
    widget.input.setCurrentNode(volume)
    slicer.app.processEvents = widget.translateButton.click  # the user clicks Cancel
    widget.translateButton.click()
    assert widget.result.plainText == "Cancelled." and not widget.running
    assert len(slicer.mrmlScene.nodes) == 1


def test_a_result_on_another_grid_keeps_it(module, slicer):
    volume, output = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name) for name in "ab")
    volume.voxels, output.voxels = np.zeros((3, 4, 5)), np.zeros((6, 4, 5))
    output.matrix.values = np.diag([1, 1, 0.5, 1])
    module.MedgenTranslateLogic().place(volume, output)
    assert np.array_equal(output.matrix.values, np.diag([1, 1, 0.5, 1]))


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.name)
def test_slicers_python_can_read_it(path):
    ast.parse(path.read_text(), feature_version=(3, 9))
    listed = (FOLDER / "CMakeLists.txt").read_text().replace("${MODULE_NAME}", "MedgenTranslate")
    assert path.relative_to(FOLDER).as_posix() in listed


def test_the_client_uses_the_standard_library_only():
    tree = ast.parse((FOLDER / "MedgenTranslateLib/client.py").read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in found} <= sys.stdlib_module_names

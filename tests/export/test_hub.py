"""A model goes to a hub and back; the hub is a stand-in on this machine with the requests of huggingface_hub."""

import base64
import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from refusal import refused
from small import make_model
from typer.testing import CliRunner

from medgen.checkpoint import load_model, save_model
from medgen.cli import app
from medgen.errors import InputError
from medgen.export.hub import HubPlace, hub_place

hub = pytest.importorskip("huggingface_hub")
TOKEN = "hf_SecretSecretSecret"


class Hub:
    """Repositories of a hub: {OWNER/NAME: [{path: content}, ...]}, one entry a commit."""

    def __init__(self):
        self.repositories, self.private, self.uploaded, self.tokens = {}, {}, {}, []
        self.wrong_content, self.status = False, None
        hub_self = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub_self.answer(self, b"")

            def do_GET(self):
                hub_self.answer(self, b"")

            def do_POST(self):
                hub_self.answer(self, self.rfile.read(int(self.headers.get("Content-Length") or 0)))

            do_PUT = do_POST

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=[0.01], daemon=True).start()

    def send(self, request, status, body=None, headers=()):
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        request.send_response(status)
        for key, value in {"Content-Length": len(content), **dict(headers)}.items():
            request.send_header(key, str(value))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)

    def answer(self, request, body):
        path = request.path.split("?")[0]
        given = request.headers.get("Authorization", "")
        self.tokens.append(given)
        if self.status:
            return self.send(request, self.status, {"error": f"your token {given} is bad"})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories[name], self.private[name] = [], asked.get("visibility") == "private"
            return self.send(request, 200, {"url": f"{self.address}/{name}"})
        if path == "/api/validate-yaml":
            return self.send(request, 200, {"warnings": []})
        if found := re.fullmatch("/upload/([0-9a-f]{64})", path):
            self.uploaded[found[1]] = body
            return self.send(request, 200)
        if found := re.fullmatch(r"/([\w-]+/[\w-]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.address}/upload/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return self.send(request, 200, {"objects": objects})
        if found := re.fullmatch(r"/api/models/([\w-]+/[\w-]+)(?:/(preupload|commit|revision)/[\w.]+)?", path):
            return self.repository(request, found[1], found[2], body)
        if found := re.fullmatch(r"/([\w-]+/[\w-]+)/resolve/([\w.]+)/([\w.]+)", path):
            return self.file(request, *found.groups())
        return self.send(request, 404)

    def repository(self, request, name, action, body):
        if name not in self.repositories:
            return self.send(request, 404, headers={"X-Error-Code": "RepoNotFound"})
        if action == "preupload":
            modes = {"model.medgen": "lfs"}
            files = [{"path": each["path"], "shouldIgnore": False} for each in json.loads(body)["files"]]
            answer = {"files": [{**each, "uploadMode": modes.get(each["path"], "regular")} for each in files]}
            return self.send(request, 200, answer)
        if action == "commit":
            files = {}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "lfsFile":
                    files[value["path"]] = self.uploaded[value["oid"]]
                elif line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
            commits = self.repositories[name]
            commits.append({**(commits[-1] if commits else {}), **files})
            number = f"{len(commits):040x}"
            return self.send(request, 200, {"commitOid": number, "commitUrl": f"{self.address}/{name}/commit/{number}"})
        return self.send(request, 200, {"id": name, "modelId": name, "siblings": [], "tags": []})

    def file(self, request, name, revision, path):
        commits = self.repositories.get(name)
        if commits is None:
            return self.send(request, 404, headers={"X-Error-Code": "RepoNotFound"})
        if revision != "main" and not (re.fullmatch("[0-9a-f]{40}", revision) and int(revision, 16) <= len(commits)):
            return self.send(request, 404, headers={"X-Error-Code": "RevisionNotFound"})
        number = len(commits) if revision == "main" else int(revision, 16)
        if not commits or path not in commits[number - 1]:
            return self.send(request, 404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": f"{number:040x}"})
        content = commits[number - 1][path]
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": f"{number:040x}"}
        if self.wrong_content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        return self.send(request, 200, content, headers)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    made = Hub()
    monkeypatch.setenv("HF_ENDPOINT", made.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # the storage of one hub, not of others
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "best"
    folder.mkdir()
    made = make_model()
    save_model(folder, made.generator, made.info)
    return folder


def call(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def hash_of(result):
    return result.output.split("sha256 ")[1].strip()


def test_a_model_goes_to_the_hub_and_back_with_its_card_as_readme(stand_in, model, tmp_path):
    sent = call("pack", model, "hub:clinic/denoiser")
    assert sent.exit_code == 0 and f"uploaded: hub:clinic/denoiser@{1:040x}; sha256 " in sent.output
    (files,) = stand_in.repositories["clinic/denoiser"]
    assert set(files) == {"model.medgen", "README.md"} and stand_in.private["clinic/denoiser"]
    assert hashlib.sha256(files["model.medgen"]).hexdigest() == hash_of(sent)
    readme = files["README.md"].decode()
    assert readme.startswith("---\nlibrary_name: medgen\n") and "# source to target, by pix2pix" in readme
    assert f"medgen unpack hub:clinic/denoiser MODEL --sha256 {hash_of(sent)}" in readme
    got = call("unpack", "hub:clinic/denoiser", tmp_path / "model", "--sha256", hash_of(sent))
    assert got.exit_code == 0, got.exception
    assert load_model(tmp_path / "model").info == load_model(model).info
    assert f"Bearer {TOKEN}" in stand_in.tokens and TOKEN not in sent.output + got.output + readme
    names = {path.name for path in (tmp_path / "model").glob("[!.]*")}
    assert names == {"card.md", "model.json", "weights.safetensors"}


def test_a_public_repository_is_asked_for_and_an_upload_replaces_only_when_told(stand_in, model, tmp_path):
    assert call("pack", model, "hub:clinic/open", "--public").exit_code == 0
    assert not stand_in.private["clinic/open"]
    again = call("pack", model, "hub:clinic/open")
    assert again.exception.code == "output-exists" and "README.md" in str(again.exception)
    assert len(stand_in.repositories["clinic/open"]) == 1
    assert call("pack", model, "hub:clinic/open", "--overwrite").exit_code == 0
    assert len(stand_in.repositories["clinic/open"]) == 2
    assert call("unpack", f"hub:clinic/open@{1:040x}", tmp_path / "first").exit_code == 0  # an older version
    assert call("pack", model, tmp_path / "a.medgen", "--public").exception.code == "option-public-needs-hub"


def test_a_download_that_differs_from_the_stated_hash_is_refused(stand_in, model, tmp_path):
    sent = call("pack", model, "hub:clinic/denoiser")
    other = call("unpack", "hub:clinic/denoiser", tmp_path / "a", "--sha256", "0" * 64)
    assert other.exception.code == "package-changed" and hash_of(sent) in str(other.exception)
    assert call("unpack", "hub:clinic/denoiser", tmp_path / "a", "--sha256", "abc").exception.code == (
        "package-sha256-invalid"
    )
    stand_in.wrong_content = True
    assert call("unpack", "hub:clinic/denoiser", tmp_path / "a").exception.code == "package-changed"
    assert not (tmp_path / "a").exists()


def test_too_large_a_file_is_not_downloaded(stand_in, model, tmp_path, monkeypatch):
    assert call("pack", model, "hub:clinic/denoiser").exit_code == 0
    monkeypatch.setattr("medgen.export.hub.MOST_PACKAGE", 10)
    assert call("unpack", "hub:clinic/denoiser", tmp_path / "a").exception.code == "package-too-large"


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("hub:clinic/nothing", "hub-model-missing"),
        ("hub:clinic/empty", "hub-model-missing"),
        (f"hub:clinic/empty@{'f' * 40}", "hub-revision-missing"),
    ],
)
def test_what_is_not_on_the_hub_is_named(stand_in, tmp_path, address, code):
    stand_in.repositories["clinic/empty"] = [{"README.md": b"nothing yet"}]
    error = call("unpack", address, tmp_path / "a").exception
    assert isinstance(error, InputError) and error.code == code and not (tmp_path / "a").exists()


def test_texts_of_the_server_and_the_token_are_not_repeated(stand_in, model, tmp_path):
    for status in (401, 403, 500):
        stand_in.status = status
        for result in (call("pack", model, "hub:a/b"), call("unpack", "hub:a/b", tmp_path / "a")):
            assert result.exception.code == "hub-refused" and str(status) in str(result.exception)
            assert TOKEN not in f"{result.exception}{result.output}" and "\n" not in str(result.exception)


def test_uploading_needs_a_token_and_tokens_need_encryption(stand_in, model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.org")
    error = call("pack", model, "hub:a/b").exception
    assert error.code == "hub-token-unencrypted" and TOKEN not in str(error)
    monkeypatch.setenv("HF_ENDPOINT", stand_in.address)
    monkeypatch.delenv("HF_TOKEN")
    assert call("pack", model, "hub:a/b").exception.code == "hub-token-missing"
    assert stand_in.tokens == []


def test_without_a_network_the_message_says_so(stand_in, tmp_path):
    stand_in.server.shutdown()
    stand_in.server.server_close()
    assert call("unpack", "hub:a/b", tmp_path / "a").exception.code == "hub-unreachable"


def test_without_the_package_the_message_says_how_to_install_it(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for result in (call("pack", model, "hub:a/b"), call("unpack", "hub:a/b", tmp_path / "a")):
        assert result.exception.code == "dependency-missing" and "medgen[hub]" in str(result.exception)


def test_addresses():
    assert hub_place("model.medgen") is None and hub_place("hub.medgen") is None
    assert hub_place("hub:a/b-1.0@v2") == HubPlace("a/b-1.0", "v2") and str(HubPlace("a/b", "v2")) == "hub:a/b@v2"
    for text in ("hub:a", "hub:user:secret@a/b", "hub:a/b/c", "hub:../b", "hub:a/..", "hub:a/b@", "hub:a/b?x=1"):
        with refused("hub-address-invalid") as caught:
            hub_place(text)
        assert "secret" not in str(getattr(caught, "value", ""))

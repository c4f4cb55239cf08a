"""Hostile requests: each is refused or fails, and nothing outside the work folder is read or written."""

import functools
import gzip
import io
import random
import re
import struct
import sys
import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small import make_model

import medgen
from medgen.checkpoint import save_model

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
from fastapi.testclient import TestClient  # noqa: E402
from starlette.testclient import httpx  # noqa: E402  (httpx, or httpx2 where it is installed)

from medgen.server.app import Access, build_app  # noqa: E402
from medgen.server.jobs import Jobs  # noqa: E402
from medgen.server.uploads import Limits  # noqa: E402

TOKEN = "right-token-0123456"
SECRET = "the-secret-of-this-machine"
TEXTS = (
    "../../secret.txt", "..%2f..%2fsecret.txt", "%2e%2e/%2e%2e/secret.txt", "/etc/passwd", "....//....//secret.txt",
    "..\\..\\secret.txt", "%00", "a" * 5000, "file:///etc/passwd", "<script>alert(1)</script>", "' OR 1=1 --", "~",
    "${HOME}", "{{7*7}}", "é\u202e", "-1", "0", "NaN", "1e999", "%s%n", "con", "\x1b[31m", "secret.txt", ".", "..",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "CONNECT", "PROPFIND")
PLACES = (
    "/api/jobs/{0}", "/api/jobs/{0}/result", "/api/jobs/{0}/report", "/api/jobs/{0}/slice", "/{0}", "/api/{0}",
    "/static/{0}", "/api/jobs?model={0}", "/api/jobs?model=tiny&format={0}", "/api/paths?model=tiny&path={0}",
    "/api/jobs/{0}/slice?image={0}&axis={0}&index={0}", "/api/models?{0}", "/dicom-web/{0}/studies",
    "/dicom-web/studies/{0}", "/infer/{0}?image={0}", "/infer/tiny?image={0}&output={0}", "/infer/tiny?image={0}",
    "/info/{0}",
)  # fmt: skip
NUMBERS = (0, -1, 1, 3, 7, 2**15 - 1, -(2**15), 255)
opened = None  # paths that this process opens, while it is a list


def _audit(event, arguments):
    if opened is not None and event == "open" and isinstance(arguments[0], str | bytes):
        path = arguments[0].decode(errors="replace") if isinstance(arguments[0], bytes) else arguments[0]
        opened.append((path, arguments[1], arguments[2]))


sys.addaudithook(_audit)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    (root / "secret.txt").write_text(SECRET)
    (root / "models/tiny").mkdir(parents=True)
    (root / "work").mkdir()
    made = make_model()
    save_model(root / "models/tiny", made.generator, made.info)
    return root


@pytest.fixture(scope="module")
def client(place):
    limits = Limits(upload=200_000, unpacked=400_000, queue=10_000, kept=10_000)
    jobs = Jobs({"tiny": place / "models/tiny"}, place / "work", limits, qa_limits="none", memory_gb=0.1)
    with TestClient(build_app(jobs, Access(token=TOKEN), {}), base_url="http://127.0.0.1:8000") as client:
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client


def addresses(rng):
    text = rng.choice(TEXTS)
    return {"method": rng.choice(METHODS), "url": rng.choice(PLACES).format(text), "content": rng.randbytes(9)}


def tokens(rng):
    wrong = rng.choice(("", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN} ", "\xff" * 9))
    return {"method": "GET", "url": "/api/models", "headers": {"Authorization": wrong.encode("latin-1")}}


def lengths(rng):
    length = rng.choice(("99999999999999999999", "-1", "1e9", "0x10", "\xb2", "200001", "9" * 4000))
    headers = {"Content-Length": length.encode("latin-1")}
    return {"method": "POST", "url": "/api/jobs?model=tiny", "headers": headers, "content": b"n"}


def hosts(rng):
    key, values = rng.choice(
        (
            (
                "Host",
                ("evil.example", "127.0.0.1.evil.example", "", "[::1", "localhost@evil.example", "127.0.0.1:80:80x"),
            ),
            ("Origin", ("null", "http://evil.example", "http://127.0.0.1:8000.evil.example", "file://")),
        )
    )
    return {"method": "POST", "url": "/api/jobs?model=tiny", "headers": {key: rng.choice(values)}, "content": b"n"}


def noise(rng):
    head = rng.choice(
        (b"", b"\x1f\x8b\x08", b"PK\x03\x04", b"\0" * 344 + b"n+1\0", b"\x5c\x01\0\0n+2\0", b"\x89PNG", b"MZ")
    )
    return upload(head + rng.randbytes(rng.choice((0, 1, 10, 400, 5000))))


def headers(rng):
    """A small NIfTI file with odd numbers in its header."""
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4))
    content = bytearray(image.to_bytes())
    for _ in range(rng.randrange(1, 4)):
        if rng.random() < 0.6:
            struct.pack_into("<h", content, rng.choice((0, 40, 42, 44, 46, 48, 70, 72, 252, 254)), rng.choice(NUMBERS))
        else:
            odd = rng.choice((float("nan"), float("inf"), -1e30, 0.0, 1e-40))
            struct.pack_into("<f", content, rng.choice((76, 80, 84, 88, 108, 112, 116, 280, 296, 312)), odd)
    content = bytes(content[: rng.choice((len(content), 352, 400))])
    return upload(gzip.compress(content) if rng.random() < 0.5 else content)


def bombs(rng):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)).to_bytes()
    if rng.random() < 0.5:
        return upload(_bomb())
    large = bytearray(image)
    struct.pack_into("<hhhh", large, 40, 3, 30_000, 30_000, 30_000)
    return upload(gzip.compress(bytes(large)))


@functools.cache
def _bomb():
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)).to_bytes()
    return gzip.compress(image + bytes(150_000_000), 9)


def archives(rng):
    names = (
        "../up.dcm", "/etc/cron.d/x", "a/../../up", "C:\\x", "..\\up", "ok.dcm", "a" * 300, "a\0b", "é.dcm",
        "dir/ok.dcm", "dir/", "-rf", "con", "x/.", "./y", "\x1b[2J",
    )  # fmt: skip
    content = io.BytesIO()
    kind = rng.choice(
        ("names", "names", "link", "bomb", "bzip2", "encrypted", "lie", "empty", "nested", "cut", "zip64")
    )
    with zipfile.ZipFile(content, "w", zipfile.ZIP_BZIP2 if kind == "bzip2" else zipfile.ZIP_DEFLATED) as archive:
        for number in range(0 if kind == "empty" else rng.randrange(1, 4)):
            info = zipfile.ZipInfo(rng.choice(names) if kind == "names" else f"{number}.dcm")
            info.compress_type = archive.compression
            if kind == "link":
                info.external_attr = 0o120777 << 16
            archive.writestr(info, bytes(900_000) if kind == "bomb" else b"../../secret.txt")
        if kind == "nested":
            archive.writestr("inner.zip", bytes(upload(content.getvalue())["content"]))
    data = bytearray(content.getvalue())
    at = data.find(b"PK\x01\x02")
    if kind == "encrypted":
        data[at + 8] |= 1
    if kind == "lie":
        struct.pack_into("<I", data, at + 24, rng.choice((1, 2**31)))
    if kind == "zip64":
        struct.pack_into("<H", data, len(data) - 12, 0xFFFF)
    return upload(bytes(data[: len(data) // 2] if kind == "cut" else data))


def upload(content):
    return {"method": "POST", "url": "/api/jobs?model=tiny", "content": content}


def multiparts(rng):
    """Messages of STOW-RS and of MONAI Label: odd names and UIDs, cut, many or long headers, wrong boundaries."""
    names = ("file", "file", "label", "params", "../../secret.txt", "a" * 500, "\0", "file\r\nX: y", "1.2.3", "")
    stow = rng.random() < 0.5
    parts = []
    for _ in range(rng.choice((0, 1, 1, 2, 30))):
        name, other = rng.choice(names), rng.choice(names)
        kind = rng.choice(("application/dicom",) * 9 + ("text/plain", name))
        lines = [f'Content-Disposition: form-data; name="{name}"; filename="{other}"', f"Content-Type: {kind}"]
        lines += [f"X-{n}: {other}" for n in range(rng.choice((0,) * 9 + (40,)))]
        content = rng.choice((bytes(132), b"PK\x03\x04", b"\x1f\x8b\x08", b"")) + rng.randbytes(rng.choice((0, 9, 900)))
        content = odd_dicom(name, other) if rng.random() < 0.5 else content
        parts.append("\r\n".join(["--b", *lines, "", ""]).encode() + content)
    end = rng.choice((b"\r\n--b--\r\n",) * 8 + (b"", b"\r\n--b--x", b"\r\n--b\r\n"))
    content = b"\r\n".join(parts) + end + (bytes(250_000) if rng.random() < 0.05 else b"")
    stows, forms = ("/dicom-web/studies", "/dicom-web/tiny/studies/1.2"), ("/infer/tiny", "/infer/tiny?image=../x")
    boundary = rng.choice(("b",) * 12 + ("c", "", "b" * 500, "\xff", 'b"; boundary="c'))
    kind = 'multipart/related; type="application/dicom"' if stow else "multipart/form-data"
    kinds = {"Content-Type": f"{kind}; boundary={boundary}".encode("latin-1")}
    return {"method": "POST", "url": rng.choice(stows if stow else forms), "content": content, "headers": kinds}


def odd_dicom(name, study):
    """A CT image without pixels whose UIDs are texts."""

    def element(group, number, text):
        data = text.encode() + b"\0" * (len(text.encode()) % 2)
        return struct.pack("<HH2sH", group, number, b"UI", len(data)) + data

    head = bytes(128) + b"DICM" + element(2, 0x10, "1.2.840.10008.1.2.1")
    return head + element(8, 0x16, "1.2.840.10008.5.1.4.1.1.2") + element(8, 0x18, name) + element(0x20, 0xD, study)


KINDS = {f.__name__: f for f in (addresses, tokens, lengths, hosts, noise, headers, bombs, archives, multiparts)}
EACH = {  # 1,058 requests
    "multiparts": 250,
    "addresses": 420,
    "bombs": 8,
    "headers": 80,
    "tokens": 30,
    "lengths": 30,
    "hosts": 40,
    "archives": 80,
    "noise": 120,
}


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_requests_are_refused_and_touch_nothing_else(client, place, kind, monkeypatch):
    global opened
    monkeypatch.setattr("medgen.server.jobs.conversion_report", lambda *_, **__: None)
    before, waiting = files(place), []
    opened, answers = [], []
    try:
        for seed in range(EACH[kind]):
            request = KINDS[kind](random.Random(f"{kind} {seed}"))
            try:
                answer = client.request(**request)
            except (UnicodeError, httpx.InvalidURL):  # the test's own client does not send it
                continue
            assert answer.status_code < 500, (seed, request, answer.text[:300])
            assert SECRET not in answer.text and str(place) not in answer.text, (seed, request)
            if answer.status_code == 202:
                waiting.append(answer.json()["id"])
            answers.append(answer.status_code)
        states = [finished(client, name) for name in waiting]
    finally:
        seen, opened = opened, None
    assert len(answers) > 0.6 * EACH[kind]
    if kind in ("tokens", "lengths", "hosts", "noise", "bombs", "multiparts"):
        assert 200 not in answers and all(state["state"] == "failed" for state in states)
    assert all(str(place) not in str(state) and SECRET not in str(state) for state in states)
    assert files(place) == before
    assert [entry for entry in seen if not harmless(entry, place)] == []


def finished(client, name):
    for _ in range(1000):
        state = client.get(f"/api/jobs/{name}").json()
        if state["state"] in ("done", "failed"):
            return state
        time.sleep(0.005)
    raise AssertionError(state)


def files(place):
    found = [path for path in place.rglob("*") if path.is_file() and place / "work" not in path.parents]
    return {path: path.read_bytes() for path in found}


def harmless(entry, place):
    """Opened inside the work folder, or only read, and part of the program or of the machine's description."""
    path, mode, flags = entry
    where = Path(path).absolute()
    if where.is_relative_to(place / "work") or re.fullmatch(r"\d+|scan", str(path)):  # the latter: opened by rmtree
        return True
    own = (sys.prefix, sys.base_prefix, Path(medgen.__file__).parent, Path(torch.__file__).parent, place / "models")
    writes = (mode is not None and set(mode) & set("wax+")) or (flags or 0) & 0b11
    compiled = "__pycache__" in where.parts  # Python's own cache of a module that is imported for the first time
    return (compiled or not writes) and any(
        where.is_relative_to(root) for root in (*own, "/proc", "/sys", "/dev", Path(__file__).parent)
    )

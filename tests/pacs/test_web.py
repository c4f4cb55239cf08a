"""DICOMweb client against a local server with preset responses."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from archive import free_port
from dicom_series import stored, write_ct
from refusal import refused

pytest.importorskip("dicomweb_client", reason="needs pip install 'medgen[pacs]'")

from medgen.errors import InputError
from medgen.pacs import web  # noqa: E402
from medgen.pacs.connect import connect

JSON = "application/dicom+json"
PARTS = 'multipart/related; type="application/dicom"; boundary=b'


@pytest.fixture
def server():
    """``server.response``: (status, content type, body) or a function of the path; ``server.asked``: its requests."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            here.asked.append((self.path, self.headers.get("Authorization"), body))
            status, kind, body = here.response(self.path) if callable(here.response) else here.response
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(here.claims or len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer

        def log_message(self, *_):
            pass

    here = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    here.response, here.asked, here.claims = (200, JSON, b"[]"), [], None
    here.address = f"http://127.0.0.1:{here.server_port}/dicom-web"
    threading.Thread(target=here.serve_forever, args=(0.02,), daemon=True).start()
    yield here
    here.shutdown()
    here.server_close()


@pytest.mark.parametrize(
    "response, error, words",
    [
        ((401, "text/html", b"Jane Doe"), InputError, "HTTP 401.; check the credentials"),
        ((404, "text/html", b"Jane Doe"), InputError, "HTTP 404.; check the address"),
        ((503, "text/html", b"Jane Doe"), ConnectionError, "HTTP 503"),
        ((200, "text/html", b"<html>Jane Doe"), InputError, "does not respond as a DICOMweb server"),
        ((200, JSON, b'["Jane Doe"]'), InputError, "not DICOM"),
        ((200, JSON, b'[{"00080060": "Jane Doe"}]'), InputError, "not DICOM"),
    ],
)
def test_query_errors_are_reported(server, response, error, words):
    server.response = response
    with pytest.raises(error, match=words) as caught:
        connect(server.address, "FROM").series("1.2")
    assert "Jane" not in str(caught.value)


def test_unreachable_server_and_cut_or_endless_responses(server, monkeypatch):
    with pytest.raises(ConnectionError, match="cannot be reached"):
        connect(f"http://127.0.0.1:{free_port()}/dicom-web", "FROM").series("1.2")
    server.claims = 100
    with pytest.raises(ConnectionError, match="closed the connection"):
        connect(server.address, "FROM").series("1.2")
    server.claims = None
    monkeypatch.setattr(web, "LARGEST", 1000)
    server.response = (200, JSON, b" " * 2000)
    with refused("pacs-answer-too-large"):
        connect(server.address, "FROM").series("1.2")


def page(first, count):
    names = (f"1.{n}" for n in range(first, first + count))
    return (200, JSON, json.dumps([{"0020000D": {"vr": "UI", "Value": [name]}} for name in names]).encode())


def test_all_pages_are_read_and_servers_without_paging_are_not_queried_endlessly(server, monkeypatch):
    def pages(path):
        offset = int(path.split("offset=")[1].split("&")[0])
        return page(offset, min(2, 5 - offset))

    server.response = pages
    found = connect(server.address, "FROM").studies({"PatientID": "p 1"})
    assert [study["StudyInstanceUID"] for study in found] == [f"1.{n}" for n in range(5)]
    assert "PatientID=p+1" in server.asked[0][0] or "PatientID=p%201" in server.asked[0][0]
    server.response = page(0, 3)
    assert len(connect(server.address, "FROM").studies({})) == 3
    server.response = lambda path: page(len(server.asked) * 2, 2)
    monkeypatch.setattr(web, "MOST", 20)
    with refused("pacs-too-many-entries"):
        connect(server.address, "FROM").studies({})


def test_images_of_a_truncated_response_are_not_kept(server, tmp_path):
    write_ct(tmp_path / "a", stored(1, 8, 9))
    part = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + (tmp_path / "a/000.dcm").read_bytes()
    kept = []
    server.response = (200, PARTS, part + b"\r\n--b--\r\n")
    connect(server.address, "FROM").retrieve("1.2", "1.3", ["1.4"], kept.append)
    assert len(kept) == 1
    for length in (len(part), len(part) // 2, 200):
        server.response = (200, PARTS, part[:length])
        with pytest.raises(ConnectionError):
            connect(server.address, "FROM").retrieve("1.2", "1.3", ["1.4"], kept.append)
    server.response = (404, "text/html", b"")
    connect(server.address, "FROM").retrieve("1.2", "1.3", ["1.4"], kept.append)
    assert len(kept) == 1


def items(tag, *pairs):
    values = [
        {"00081155": {"vr": "UI", "Value": [uid]}, reason: {"vr": "US", "Value": [code]}} for uid, reason, code in pairs
    ]
    return {tag: {"vr": "SQ", "Value": values}}


@pytest.mark.parametrize("status", [202, 409])
def test_store_reports_the_outcome_of_each_image(server, tmp_path, status):
    uids = ["1.0", "1.1", "1.2", "1.3"]
    write_ct(tmp_path / "a", stored(4, 8, 9), SOPInstanceUID=lambda k: uids[k])
    failed = items("00081198", (uids[0], "00081197", 0xA700), (uids[1], "00081197", 0x0111))
    stored_ = items("00081199", (uids[2], "00081196", 0xB000))
    server.response = (status, JSON, json.dumps(failed | stored_).encode())
    files = sorted((tmp_path / "a").iterdir())
    _, reasons, stored_flags = zip(*connect(server.address, "TO").store(files), strict=True)
    assert stored_flags == (False, True, True, False)
    for words, reason in zip(("A700", "already", "B000", "did not confirm"), reasons, strict=True):
        assert words in reason
    server.response = (409, "text/html", b"no")
    assert not any(is_stored for *_, is_stored in connect(server.address, "TO").store(files))


def test_credentials_come_from_the_environment_for_one_side_and_stay_off_open_networks(server, monkeypatch):
    monkeypatch.setenv("MEDGEN_FROM_PACS_USER", "jürgen")
    monkeypatch.setenv("MEDGEN_FROM_PACS_PASSWORD", "se:cret")
    connect(server.address, "FROM").series("1.2")
    assert server.asked[-1][1] == "Basic " + base64.b64encode("jürgen:se:cret".encode()).decode()
    connect(server.address, "TO").series("1.2")
    assert server.asked[-1][1] is None
    monkeypatch.setenv("MEDGEN_TO_PACS_TOKEN", "ticket")
    connect(server.address, "TO").series("1.2")
    assert server.asked[-1][1] == "Bearer ticket"
    with refused("pacs-credentials-unencrypted") as caught:
        connect("http://pacs.example/dicom-web", "TO")
    assert "ticket" not in str(caught.value)
    assert connect("https://pacs.example/dicom-web", "TO").name == "https://pacs.example/dicom-web"

"""A client of ``medgen serve``: the standard library only, no Slicer, Python 3.9 (Slicer 5.0) and newer.

http.client is used and not urllib, because it follows no redirect and no proxy setting: scan and token go to the
address that the user typed, or nowhere.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import ssl
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

LOCAL = ("127.0.0.1", "localhost", "::1")
BLOCK = 2**20  # bytes sent at once
MOST_TEXT = 2**22  # bytes of an answer that is read at once
TIMEOUT = 60.0  # seconds without an answer
POLL = 0.5  # seconds between two questions for the state of a job
TICK = 0.05  # seconds between two calls of ``progress`` while waiting
STATES = {"receiving": "Sent", "queued": "Waiting", "reading": "Reading", "translating": "Translating"}

# progress(what happens, part that is done in [0, 1] or None): called often; an exception from it ends the conversion.
Progress = Callable[[str, "float | None"], None]


class MedgenError(Exception):
    """What went wrong, in one sentence for the user."""


class MedgenServer:
    """A running ``medgen serve``.

    Args:
        address: ``http://127.0.0.1:8000``; for other machines https, because token and scan are readable otherwise.
        token: that of the server; empty: none.

    Raises:
        MedgenError: no such address, or http to another machine.
    """

    def __init__(self, address: str, token: str = "") -> None:
        try:
            parts = urlsplit(address.strip().rstrip("/"))
            self.host, self.port = parts.hostname, parts.port
        except ValueError:
            raise MedgenError(f"{address} is no address; write http://127.0.0.1:8000") from None
        if parts.scheme not in ("http", "https") or not self.host or parts.query or parts.fragment or parts.username:
            raise MedgenError(f"{address} is no address of a server; write http://127.0.0.1:8000")
        if parts.scheme == "http" and self.host not in LOCAL:
            raise MedgenError(
                f"http to {self.host} would send the scan unencrypted; use https, or forward its port to this machine: "
                f"ssh -L 8000:127.0.0.1:8000 {self.host}"
            )
        self.secure, self.path, self.token = parts.scheme == "https", parts.path, token.strip()
        if not (self.token.isascii() and self.token.isprintable()):
            raise MedgenError("the token has characters that no token has; copy it again")

    def models(self) -> list[dict[str, str]]:
        """``name`` and ``about`` of each model of the server. Raises MedgenError."""
        answer = self._json("GET", "/api/models")
        if not isinstance(answer, list) or not all(isinstance(m, dict) and "name" in m for m in answer):
            raise MedgenError("this is no medgen server; check the address")
        return answer

    def translate(self, model: str, scan: str, folder: str, progress: Progress) -> tuple[str, dict[str, Any]]:
        """Convert the NIfTI file ``scan``. The server's copies are deleted afterwards, also after an error.

        Returns:
            the NIfTI file of the result, in ``folder``, and the state of the job (docs/how-to/serve_models.md);
            ``cases[0]`` of it has ``verdict``, ``reasons`` and ``warnings``.

        Raises:
            MedgenError: the server cannot be reached, refuses the scan or cannot convert it.
            Exception: what ``progress`` raises.
        """
        job = self._upload(model, scan, progress)
        place = f"/api/jobs/{job['id']}"
        try:
            job = self._finished(place, progress)
            faults = [job["error"], *(case["error"] for case in job["cases"])]
            if job["state"] != "done" or not job["result"]:
                raise MedgenError(next((text for text in faults if text), "the server gave no result"))
            progress("Receiving", None)
            result = os.path.join(folder, "result.nii.gz" if job["result"].endswith(".gz") else "result.nii")
            self._download(f"{place}/result", result)
            return result, job
        finally:
            self._forget(place)

    def _upload(self, model: str, scan: str, progress: Progress) -> dict[str, Any]:
        size = os.path.getsize(scan)

        def blocks() -> Any:
            sent = 0
            with open(scan, "rb") as file:
                while block := file.read(BLOCK):
                    progress("Sending", sent / size)
                    yield block
                    sent += len(block)

        query = urlencode({"model": model, "format": "nifti"})
        job = self._json("POST", f"/api/jobs?{query}", blocks(), {"Content-Length": str(size)})
        if not isinstance(job, dict) or not isinstance(job.get("id"), str):
            raise MedgenError("this is no medgen server; check the address")
        return job

    def _finished(self, place: str, progress: Progress) -> dict[str, Any]:
        while True:
            job = self._json("GET", place)
            if job["state"] in ("done", "failed"):
                return job
            text = STATES.get(job["state"], "Writing")
            if job["position"]:
                text += f", number {job['position']} in the queue"
            end = time.monotonic() + POLL
            while time.monotonic() < end:
                progress(f"{text} ({job['seconds']:.0f} s)", None)
                time.sleep(TICK)

    def _download(self, path: str, target: str) -> None:
        connection = self._connect()
        try:
            answer = self._request(connection, "GET", path)
            with open(target, "wb") as file:
                shutil.copyfileobj(answer, file, BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _forget(self, place: str) -> None:
        """Delete a job. The server refuses that while it converts, and deletes the job later."""
        try:
            self._json("DELETE", place)
        except MedgenError:
            pass

    def _json(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        connection = self._connect()
        try:
            return json.loads(self._request(connection, method, path, body, headers).read(MOST_TEXT))
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        except ValueError:
            raise MedgenError("this is no medgen server; check the address") from None
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        assert self.host is not None
        if self.secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT, context=context)
        return http.client.HTTPConnection(self.host, self.port, timeout=TIMEOUT)

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """Send a request; its answer, whose status is 200 or 202. Raises MedgenError with the server's reason."""
        headers = dict(headers or {})
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request(method, self.path + path, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all of it was sent: the answer tells why
        answer = connection.getresponse()
        if answer.status in (200, 202):
            return answer
        try:
            reason = str(json.loads(answer.read(MOST_TEXT))["error"])
        except (ValueError, KeyError, TypeError):
            reason = f"status {answer.status}"
        raise MedgenError(f"the server refused: {reason}")

    def _unreachable(self, error: Exception) -> MedgenError:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return MedgenError(f"no answer from {self.host}: {reason}; is medgen serve running?")

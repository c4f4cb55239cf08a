"""The app interface of MONAI Label's server, as far as translation has it: ``GET /info/`` and ``POST /infer/MODEL``.

Requests and answers follow the REST API of MONAI Label 0.8 (github.com/Project-MONAI/MONAILabel, monailabel/endpoints).
The result is an image where MONAI Label's models give a label map. There are no sessions, no training, no data store.
"""

import asyncio
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from python_multipart.multipart import parse_options_header
from starlette.background import BackgroundTask

import medgen
from medgen.server.jobs import Jobs, ServerJob
from medgen.server.receive import placed, receive_parts
from medgen.server.uploads import BLOCK, Refused, below

FORM = "multipart/form-data"
TICK = 0.05  # seconds between two looks at a job


def add_monailabel(
    app: FastAPI, jobs: Jobs, root: Path | None, about: Mapping[str, str], ending: Callable[[], bool]
) -> None:
    """Add the interface. ``root``: folder below which ``image`` is looked for. The others: see ``build_app``."""

    @app.get("/info/")
    def info() -> dict[str, Any]:
        models = {
            name: {"type": "others", "labels": [], "dimension": 3, "description": about.get(name, ""), "config": {}}
            for name in jobs.models
        }
        empty: dict[str, Any] = {key: {} for key in ("trainers", "strategies", "scoring", "train_stats", "datastore")}
        return {
            "name": "medgen",
            "description": "Translation of 3D medical images",
            "version": medgen.__version__,
            "labels": [],
            "models": models,
            **empty,
        }

    @app.post("/infer/{model}")
    async def infer(
        request: Request, model: str, image: str = "", session_id: str = "", output: str = "all"
    ) -> Response:
        if session_id:
            raise Refused(406, "this server has no sessions; send the scan as file")
        if output not in ("all", "image", "json"):
            raise Refused(400, "output is all, image or json")
        job = jobs.reserve(model, "nifti")
        try:
            source = await _source(request, job, jobs, root, image)
            jobs.submit(job, source)
        except BaseException:
            jobs.drop(job.id)
            raise
        while not job.finished:
            if ending():
                _forget(jobs, job)
                raise Refused(503, "the server is being stopped")
            await asyncio.sleep(TICK)
        done = BackgroundTask(_forget, jobs, job)
        state, file = jobs.about(job.id), job.result
        case = state["cases"][0] if len(state["cases"]) == 1 else None
        if file is None or case is None:
            faults = [state["error"], *(case["error"] for case in state["cases"])]
            _forget(jobs, job)
            raise Refused(422, next((text for text in faults if text), "the upload has several scans; send one"))
        params = {key: case[key] for key in ("verdict", "reasons", "warnings")} | {"seconds": state["seconds"]}
        if output == "json":
            return JSONResponse(params, background=done)
        if output == "image":
            return FileResponse(file, media_type="application/octet-stream", filename=file.name, background=done)
        return _form(params, file, done)


async def _source(request: Request, job: ServerJob, jobs: Jobs, root: Path | None, image: str) -> Path:
    """The scan: the part ``file`` of the form, or else a scan of the server that ``image`` names. Raises Refused."""
    raw = job.folder / "upload"

    def place(headers: dict[str, str]) -> Path | None:
        _, options = parse_options_header(headers.get("content-disposition"))
        if options.get(b"name") == b"label":
            raise Refused(400, "translation takes no label")
        return raw if options.get(b"name") == b"file" and not raw.exists() else None

    if request.headers.get("content-type", "").startswith(FORM):
        await receive_parts(request, FORM, jobs.limits.upload, place)
    if raw.exists():
        return await run_in_threadpool(placed, raw, job, jobs)
    if not image:
        raise Refused(400, "send the scan as file, or name it by image")
    return await run_in_threadpool(below, root, image)


def _forget(jobs: Jobs, job: ServerJob) -> None:
    with suppress(Refused):  # it is deleted already, or being converted
        jobs.drop(job.id)


def _form(params: dict[str, Any], file: Path, done: BackgroundTask) -> StreamingResponse:
    """The answer as a form: ``params``, JSON, and ``image``, the result.

    It has a length, and so is not sent in chunks: MONAI Label's client reads the bytes of the connection as they are.
    """
    boundary = secrets.token_hex(16)
    start = "\r\n".join(
        (
            f"--{boundary}",
            'Content-Disposition: form-data; name="params"',
            "Content-Type: application/json",
            "",
            json.dumps(params),
            f"--{boundary}",
            f'Content-Disposition: form-data; name="image"; filename="{file.name}"',
            "Content-Type: application/octet-stream",
            "\r\n",
        )
    ).encode()
    end = f"\r\n--{boundary}--\r\n".encode()

    def content() -> Iterator[bytes]:
        yield start
        with open(file, "rb") as result:
            while block := result.read(BLOCK):
                yield block
        yield end

    length = {"Content-Length": str(len(start) + file.stat().st_size + len(end))}
    return StreamingResponse(content(), 200, length, f"{FORM}; boundary={boundary}", done)

"""The HTTP interface of ``medgen serve``. docs/how-to/serve_models.md lists the requests."""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response

from medgen.server.dicomweb import add_dicomweb
from medgen.server.jobs import Jobs
from medgen.server.monailabel import add_monailabel
from medgen.server.receive import receive_scan
from medgen.server.uploads import Refused, below

PAGE = Path(__file__).with_name("page.html")
LOCAL = ("127.0.0.1", "localhost", "[::1]")
SMALL = 2**16  # bytes of a request that is no upload
UPLOADS = ("/dicom-web/", "/infer/")  # besides /api/jobs
SECURITY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)
REPORT_POLICY = "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
REPORT_POLICY += "img-src data:"


@dataclass(frozen=True)
class Access:
    """Who may use the server.

    token: what requests carry as ``Authorization: Bearer TOKEN``; None: nothing, for this machine only.
    hosts: accepted names in the header ``Host``, so that a website of a browser cannot reach the server under its own
    name; None: any, with a token.
    root: folder below which clients may name scans; None: no paths.
    """

    token: str | None = None
    hosts: tuple[str, ...] | None = LOCAL
    root: Path | None = None


def build_app(jobs: Jobs, access: Access, about: dict[str, str], ending: Callable[[], bool] = lambda: False) -> FastAPI:
    """The application. It starts the worker of ``jobs`` and closes it.

    about: {model name: one sentence}.
    ending: whether the server is about to end, so that requests that wait for a conversion give up.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.start()
        yield
        await run_in_threadpool(jobs.close)

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": error.reason}, error.status)

    @app.middleware("http")
    async def guarded(request: Request, serve: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            _check(request, access, jobs.limits.upload)
            response = await serve(request)
        except Refused as error:
            response = JSONResponse({"error": error.reason}, error.status)
        for key, value in SECURITY.items():
            response.headers.setdefault(key, value)
        return response

    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(PAGE.read_text("utf-8"), headers={"Content-Security-Policy": PAGE_POLICY})

    @app.get("/api/models")
    def models() -> list[dict[str, str]]:
        return [{"name": name, "about": about.get(name, "")} for name in jobs.models]

    @app.post("/api/jobs", status_code=202)
    async def upload(request: Request, model: str, format: str | None = None) -> dict[str, Any]:
        job = jobs.reserve(model, format)
        try:
            source = await receive_scan(request, job, jobs)
            jobs.submit(job, source)
        except BaseException:
            jobs.drop(job.id)
            raise
        return jobs.about(job.id)

    @app.post("/api/paths", status_code=202)
    async def path(request: Request, model: str, path: str, format: str | None = None) -> dict[str, Any]:
        source = await run_in_threadpool(below, access.root, path)
        job = jobs.reserve(model, format)
        jobs.submit(job, source)
        return jobs.about(job.id)

    @app.get("/api/jobs/{name}")
    def state(name: str) -> dict[str, Any]:
        return jobs.about(name)

    @app.delete("/api/jobs/{name}")
    def delete(name: str) -> dict[str, str]:
        jobs.drop(name)
        return {"deleted": name}

    @app.get("/api/jobs/{name}/result")
    def result(name: str) -> FileResponse:
        file = jobs.get(name).result
        if file is None or not file.is_file():
            raise Refused(404, "this job has no result")
        return FileResponse(file, media_type="application/octet-stream", filename=file.name)

    @app.get("/api/jobs/{name}/report")
    def report(name: str) -> FileResponse:
        file = jobs.get(name).folder / "report.html"
        if not jobs.get(name).finished or not file.is_file():
            raise Refused(404, "this job has no report")
        return FileResponse(file, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    @app.get("/api/jobs/{name}/slice")
    def slice(name: str, image: str, axis: int, index: int) -> Response:
        shown = jobs.image(name, image, axis, index)
        size = {"X-Rows": str(shown.shape[0]), "X-Columns": str(shown.shape[1])}
        return Response(shown.tobytes(), media_type="application/octet-stream", headers=size)

    add_dicomweb(app, jobs)
    add_monailabel(app, jobs, access.root, about, ending)
    return app


def _check(request: Request, access: Access, most: int) -> None:
    """Refuse requests of others before anything of them is read. Raises Refused."""
    host = request.headers.get("host", "")
    if access.hosts is not None and _name(host) not in access.hosts:
        raise Refused(421, "this server does not have this name")
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != host:
        raise Refused(403, "requests of other websites are refused")
    if access.token is not None and request.url.path != "/":
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {access.token}".encode()):
            raise Refused(401, "give the token of this server")
    path = request.url.path
    uploads = request.method == "POST" and (path == "/api/jobs" or path.startswith(UPLOADS))
    length = request.headers.get("content-length")
    if length is not None and not (length.isascii() and length.isdigit()):
        raise Refused(400, "the content length is not a number")
    if length is not None and int(length[:20]) > (most if uploads else SMALL):
        raise Refused(413, "the request is too large")


def _name(host: str) -> str:
    """The name in a header ``Host``, without the port."""
    return host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host

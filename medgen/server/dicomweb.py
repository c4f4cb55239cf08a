"""Conversions started by DICOMweb: each STOW-RS request (PS3.18 10.5) is a job."""

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydicom import Dataset
from pydicom.uid import UID

from medgen.errors import InputError
from medgen.io.dicom.header import is_scan, read_header
from medgen.server.jobs import Jobs
from medgen.server.receive import receive_parts
from medgen.server.uploads import Refused

JSON = "application/dicom+json"
ACCEPTED = (JSON, "application/json", "application/*", "*/*")
# Failure reasons, PS3.18 table I.2-2.
NOT_UNDERSTOOD = 0xC000
NO_IMAGE = 0x0122  # the SOP class is not supported
OTHER_STUDY = 0xA900  # the data set does not match


def add_dicomweb(app: FastAPI, jobs: Jobs) -> None:
    """Add STOW-RS: ``/dicom-web/studies``, and ``/dicom-web/MODEL/studies`` where the server has several models."""

    @app.post("/dicom-web/studies")
    @app.post("/dicom-web/studies/{study}")
    @app.post("/dicom-web/{model}/studies")
    @app.post("/dicom-web/{model}/studies/{study}")
    async def store(request: Request, model: str | None = None, study: str | None = None) -> JSONResponse:
        accepted = [word.partition(";")[0].strip() for word in request.headers.get("accept", "*/*").split(",")]
        if not set(accepted) & set(ACCEPTED):
            raise Refused(406, f"this server answers in {JSON}")
        if model is None and len(jobs.models) != 1:
            raise Refused(400, "this server has several models; send to /dicom-web/MODEL/studies")
        job = jobs.reserve(model or next(iter(jobs.models)), None)
        folder = job.folder / "scan"
        files: list[Path] = []
        folder.mkdir()

        def place(headers: dict[str, str]) -> Path:
            if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/dicom":
                raise Refused(415, "send parts of the type application/dicom")
            files.append(folder / f"{len(files):05d}.dcm")
            return files[-1]

        try:
            await receive_parts(request, "multipart/related", jobs.limits.upload, place)
            if not files:
                raise Refused(400, "the message has no parts")
            answer, stored = await run_in_threadpool(_checked, files, study)
            if stored:
                jobs.submit(job, folder)
        except BaseException:
            jobs.drop(job.id)
            raise
        if not stored:
            jobs.drop(job.id)
            return JSONResponse(answer.to_json_dict(), 409, media_type=JSON)
        status = 200 if stored == len(files) else 202
        return JSONResponse(answer.to_json_dict(), status, {"Location": f"/api/jobs/{job.id}"}, media_type=JSON)


def _checked(files: Sequence[Path], study: str | None) -> tuple[Dataset, int]:
    """Keep the images of scans, in a folder for each series, and delete other files.

    Returns:
        the Store Instances Response (PS3.18 I.2), and how many images are kept. Its Retrieve URLs are empty, because
        the server does not give images back by DICOMweb.
    """
    stored: list[Dataset] = []
    failed: list[Dataset] = []
    others: list[Dataset] = []
    places: dict[object, int] = {}
    for path in files:
        item, reason = _examined(path, study)
        if reason is None:
            item.RetrieveURL = ""
            stored.append(item)
            series = (read_header(path) or {}).get("SeriesInstanceUID")
            folder = path.parent / f"{places.setdefault(series, len(places)):03d}"  # a case for each series
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
            continue
        path.unlink()
        item.FailureReason = reason
        (failed if "ReferencedSOPInstanceUID" in item else others).append(item)
    answer = Dataset()
    answer.RetrieveURL = ""
    for keyword, items in (
        ("ReferencedSOPSequence", stored),
        ("FailedSOPSequence", failed),
        ("OtherFailuresSequence", others),
    ):
        if items:
            setattr(answer, keyword, items)
    return answer, len(stored)


def _examined(path: Path, study: str | None) -> tuple[Dataset, int | None]:
    """The reference to an image, without UIDs if they are not valid, and the reason why it is not taken."""
    item = Dataset()
    try:
        header = read_header(path)
    except InputError:
        header = None
    uids = [UID(str((header or {}).get(key, ""))) for key in ("SOPClassUID", "SOPInstanceUID")]
    if header is None or not all(uid.is_valid for uid in uids):
        return item, NOT_UNDERSTOOD
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = uids
    if study is not None and header.get("StudyInstanceUID") != study:
        return item, OTHER_STUDY
    try:
        return item, None if is_scan(header, path) else NO_IMAGE
    except InputError:
        return item, NOT_UNDERSTOOD

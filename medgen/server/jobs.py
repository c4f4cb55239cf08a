"""The jobs of a server: a bounded queue, one worker, and one folder for each job, named by its random id."""

import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medgen.checkpoint import Model, load_model
from medgen.data.grid import resample_like
from medgen.errors import InputError
from medgen.inference.check import checks_for
from medgen.inference.cohort.run import convert
from medgen.inference.job import Converted
from medgen.io.grids import same_grid
from medgen.io.names import one_line
from medgen.io.paths import ending_of
from medgen.io.read import read_volume
from medgen.io.volume import to_canonical
from medgen.qa.run import Checks
from medgen.reports.conversion import conversion_report
from medgen.server.uploads import Limits, Refused, remove, zip_files

IMAGES = ("input", "output")
NOTE = "Converted images are synthetic and not for diagnosis."
# Advice of the command line on a choice that a client does not have.
CHOICE = re.compile(r"; (choose one with --series|give the path of one file).*", re.DOTALL)


@dataclass
class ServerJob:
    """One conversion. ``state``: receiving, queued, reading, translating, writing, done or failed."""

    id: str
    model: str
    folder: Path
    format: str | None = None
    source: Path | None = None
    state: str = "receiving"
    created: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    error: str | None = None
    results: list[Converted] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # files of the archive that are not read, such as archives
    folders: dict[str, str] = field(default_factory=dict)  # name here: folder in the uploaded archive
    result: Path | None = None
    shape: list[int] | None = None
    spacing: list[float] | None = None

    @property
    def finished(self) -> bool:
        return self.state in ("done", "failed")

    def about(self, position: int | None) -> dict[str, Any]:
        """What a client may know: no path of this machine."""
        return {
            "id": self.id,
            "model": self.model,
            "state": self.state,
            "position": position,
            "seconds": round(self.seconds, 1),
            "error": None if self.error is None else self.hidden(self.error),
            "cases": [
                {
                    "case": entry.case,
                    "folder": self.folders.get(entry.case.split("_")[0]),
                    "verdict": entry.verdict,
                    "reasons": entry.reasons,
                    "warnings": [self.hidden(text) for text in entry.warnings],
                    "error": None if entry.error is None else self.hidden(entry.error),
                }
                for entry in self.results
            ],
            "unread": self.unread,
            "result": None if self.result is None else self.result.name,
            "shape": self.shape,
            "spacing": self.spacing,
        }

    def hidden(self, text: str) -> str:
        """A message without the folders of this server."""
        for path in (self.source, self.folder):
            if path is not None:
                text = text.replace(str(path), "scan")
        return one_line(text)


class Jobs:
    """Queue, worker and finished jobs of a server.

    Args:
        models: {name: model folder}.
        work: existing folder for the jobs.
        device: torch device.
        memory_gb: see ``convert``.
        qa_limits: see ``checks_for``.
    """

    def __init__(
        self,
        models: Mapping[str, Path],
        work: Path,
        limits: Limits,
        *,
        device: str = "cpu",
        memory_gb: float | None = None,
        qa_limits: str = "auto",
    ) -> None:
        self.models, self.work, self.limits = dict(models), work, limits
        self.device, self.memory_gb, self.qa_limits = device, memory_gb, qa_limits
        self._jobs: dict[str, ServerJob] = {}
        self._waiting: deque[ServerJob] = deque()
        self._changed = threading.Condition()
        self._loaded: dict[str, tuple[Model, Checks | None]] = {}
        self._closing = False
        self._worker = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._worker.start()

    def close(self) -> None:
        """Stop after the job under way, and delete all files."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._worker.is_alive():
            self._worker.join()
        for job in list(self._jobs.values()):
            remove(job.folder)

    def reserve(self, model: str, format: str | None) -> ServerJob:
        """A place in the queue and an empty folder, before anything is received. Raises Refused."""
        if model not in self.models:
            raise Refused(404, "this server has no such model")
        if format not in (None, "nifti", "dicom"):
            raise Refused(400, "format is nifti or dicom")
        with self._changed:
            if sum(not job.finished for job in self._jobs.values()) >= self.limits.queue:
                raise Refused(429, "the queue is full; try again later")
            self._forget_old()
            name = secrets.token_urlsafe(16)
            job = ServerJob(name, model, self.work / name, format)
            job.folder.mkdir()
            self._jobs[name] = job
        return job

    def submit(self, job: ServerJob, source: Path) -> None:
        """Queue a job whose scan lies in ``source``."""
        with self._changed:
            job.source, job.state = source, "queued"
            self._waiting.append(job)
            self._changed.notify_all()

    def get(self, name: str) -> ServerJob:
        """The job of this id. Raises Refused."""
        job = self._jobs.get(name)
        if job is None:
            raise Refused(404, "this server has no such job")
        return job

    def about(self, name: str) -> dict[str, Any]:
        job = self.get(name)
        with self._changed:
            position = self._waiting.index(job) + 1 if job in self._waiting else None
        if not job.finished:
            job.seconds = time.monotonic() - job.created
        return job.about(position)

    def drop(self, name: str) -> None:
        """Delete a job and its files. Raises Refused while it is being converted."""
        job = self.get(name)
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
            elif not job.finished and job.state != "receiving":
                raise Refused(409, "the job is being converted")
            self._jobs.pop(name, None)
        remove(job.folder)

    def image(self, name: str, which: str, axis: int, index: int) -> np.ndarray:
        """A slice of a finished job's first case, (rows, columns) float32, as radiologists see it. Raises Refused."""
        job = self.get(name)
        if which not in IMAGES or axis not in (0, 1, 2) or job.shape is None or not 0 <= index < job.shape[axis]:
            raise Refused(404, "there is no such slice")
        stored = np.load(job.folder / f"{which}.npy", mmap_mode="r")
        return np.ascontiguousarray(np.take(stored, index, axis).T[::-1, ::-1], dtype="<f4")

    def _forget_old(self) -> None:
        done = [job for job in self._jobs.values() if job.finished]
        for job in sorted(done, key=lambda job: job.created)[: max(0, len(done) - self.limits.kept + 1)]:
            self._jobs.pop(job.id)
            remove(job.folder)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return
                job = self._waiting.popleft()
                job.state = "reading"
            try:
                self._convert(job)
                failed = [entry.error for entry in job.results if entry.error]
                job.error = job.error or (failed[0] if failed and len(failed) == len(job.results) else None)
            except InputError as error:
                job.error = str(error)
            except Exception as error:  # of one job; the server goes on
                job.error = f"unexpected error, likely a bug in medgen ({type(error).__name__})"
            if job.error:
                job.error = CHOICE.sub("; upload one scan at a time", job.error)
            if job.source is not None and job.source.is_relative_to(job.folder):
                _delete(job.source)  # the upload; the images that clients see are copies
            job.seconds = time.monotonic() - job.created
            job.state = "failed" if job.error else "done"

    def _convert(self, job: ServerJob) -> None:
        if job.model not in self._loaded:
            loaded = load_model(self.models[job.model], self.device, ensembles=True)
            self._loaded[job.model] = loaded, checks_for(loaded, self.qa_limits)
        model, checks = self._loaded[job.model]
        out = job.folder / "out"

        def stage(name: str) -> None:
            job.state = name

        assert job.source is not None
        job.results = convert(
            model, job.source, out, format=job.format, memory_gb=self.memory_gb, checks=checks, stage=stage
        )
        _finish(job, out)


def _delete(path: Path) -> None:
    if path.is_dir():
        remove(path)
    else:
        path.unlink(missing_ok=True)


def _folders(job: ServerJob) -> list[str]:
    found = [f"{name}: folder {there} of the upload." for name, there in job.folders.items() if len(job.folders) > 1]
    return found + [f"Not read: {name} of the upload." for name in job.unread]


def _finish(job: ServerJob, out: Path) -> None:
    """Write the files that a client can fetch: result, report and the images of the first case."""
    made = [entry for entry in job.results if entry.error is None]
    if not made:
        return
    first = Path(made[0].output)
    if len(made) == 1 and first.is_file():
        job.result = shown = first.rename(job.folder / f"result{ending_of(first)}")
        made[0].output = str(shown)
    else:
        job.result, shown = job.folder / "result.zip", first
        zip_files(out, [Path(entry.output) for entry in made], job.result)
    rows = [asdict(entry) for entry in job.results]
    conversion_report(rows, job.folder / "report.html", notes=[f"Model: {job.model}.", NOTE, *_folders(job)])
    scan, output = (to_canonical(read_volume(path)) for path in (Path(made[0].input), shown))
    if not same_grid(scan.geometry, output.geometry):  # a model that restores thick slices
        scan = output.replaced(resample_like(scan, output))
    volumes = [scan, output]
    for name, volume in zip(IMAGES, volumes, strict=True):
        np.save(job.folder / f"{name}.npy", volume.data)
    job.shape, job.spacing = list(volumes[0].data.shape), [float(side) for side in volumes[0].spacing]

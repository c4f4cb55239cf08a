"""A case on its way through a conversion, and what became of it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen.errors import InputError, reason
from medgen.inference.deidentified_output import Private
from medgen.inference.inputs import Scan
from medgen.io.names import shown
from medgen.io.volume import Volume
from medgen.qa.run import Checks

FORMATS = {"nifti": ".nii.gz", "mha": ".mha", "nrrd": ".nrrd", "dicom": ""}  # a series is a folder


@dataclass
class Converted:
    """What became of one case. ``status``: converted, skipped (done before) or failed (``error`` says why).

    ``input`` and ``output`` are the first contrast's files; the hashes are over all. ``verdict``: pass, review or fail,
    None where it was not checked; ``reasons`` belong to it, ``findings`` are the same with their places (see ``judge``)
    and ``checks`` tells by which limits and segmenter; ``limits`` holds those that differ from the defaults, while
    ``warnings`` were known before the conversion; ``notes`` are no reason to doubt it. ``contrasts``: folders of the
    outputs, where there are several. ``picked`` is the series of ``input`` that was read. ``deidentified`` says what
    became of dates, ``changes`` how often which attribute was changed.
    """

    case: str
    input: str
    output: str
    status: str = "failed"
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    verdict: str | None = None
    reasons: list[str] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)
    checks: str | None = None
    limits: dict[str, Any] | None = None
    contrasts: list[str] = field(default_factory=list)
    seconds: float = 0.0
    input_sha256: str = ""
    output_sha256: str = ""
    series: str | None = None
    picked: str | None = None
    deidentified: str | None = None
    changes: dict[str, int] = field(default_factory=dict)


@dataclass
class Job:
    """A case on its way: what is read, then made, and dropped once written. ``key`` is its place in the manifest,
    ``number`` its place among the cases of the run."""

    scan: Scan
    entry: Converted
    targets: list[Path]
    key: str
    number: int = 0
    states: dict[Path, tuple[int, ...]] = field(default_factory=dict)  # of its files, before they are read
    volumes: list[Volume] = field(default_factory=list)
    outputs: list[Volume] = field(default_factory=list)

    @property
    def pending(self) -> bool:
        """Whether the case is still to be converted: it has not failed and was not converted before."""
        return self.entry.error is None and self.entry.status != "skipped"

    @property
    def needs_verdict(self) -> bool:
        """Whether the case was converted before, but checked against other limits than this run's."""
        return self.entry.status == "skipped" and bool(self.volumes)


@dataclass(frozen=True)
class Options:
    """How each case of a run is converted, see ``convert``."""

    format: str | None = None
    series: str | None = None
    memory_gb: float | None = None
    checks: Checks | None = None
    qa_report_sr: bool = False
    private: Private | None = None


@contextmanager
def errors_recorded(job: Job) -> Iterator[None]:
    """Record an error of the block in the job's entry, so that the other cases go on, and the time that it takes."""
    started, entry, path = time.monotonic(), job.entry, job.scan.files[0]
    try:
        yield
    except InputError as error:
        named = any(name in str(error) for file in job.scan.files for name in (file.name, shown(file.name)))
        entry.error = str(error) if named or job.scan.fault else f"{path}: {error}"
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
            entry.error = f"{path}: not enough memory for this scan; lower --memory-gb"
        else:
            entry.error = f"{path}: medgen did not expect this scan ({reason(error)}); please report it"
    finally:
        entry.seconds += time.monotonic() - started
        if entry.error:
            job.volumes, job.outputs, entry.status = [], [], "failed"
            entry.verdict, entry.reasons, entry.findings, entry.checks, entry.limits = None, [], [], None, None

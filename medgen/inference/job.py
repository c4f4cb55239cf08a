"""The data of one case: the job with its volumes, its result, and the options of the run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen.errors import InputError, reason
from medgen.inference.deidentified_output import Private
from medgen.inference.inputs import Scan
from medgen.io.names import one_line
from medgen.io.volume import Volume
from medgen.qa.run import Checks

FORMATS = {"nifti": ".nii.gz", "mha": ".mha", "nrrd": ".nrrd", "dicom": ""}  # a DICOM series is a folder


@dataclass
class Converted:
    """The result of one case, as recorded in the manifest.

    Attributes:
        input, output: files of the first contrast; the hashes are over the files of all contrasts.
        status: converted, skipped (converted by an earlier run) or failed.
        error: why the case failed; None: it did not.
        warnings: problems of the input, known before the conversion.
        notes: information that gives no reason to doubt the result.
        verdict: pass, review or fail; None: not checked.
        reasons: sentences that explain the verdict.
        findings: the reasons with their locations, see ``qa.run.judge``.
        checks: identity of the thresholds and the segmenter of the check.
        limits: thresholds that differ from the defaults.
        contrasts: output folders of a model with several target contrasts.
        series: the ``--series`` option.
        picked: the series of ``input`` that was read.
        deidentified: whether dates were shifted or removed.
        samples: with --samples, their number ("count") and what varies between them ("from"), see ``uncertainty``.
        changes: number of changes per DICOM attribute by the de-identification.
        patient: pseudonyms of a de-identified patient, see ``deidentified_output.Private.check_images``.
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
    samples: dict[str, Any] | None = None
    changes: dict[str, int] = field(default_factory=dict)
    patient: dict[str, str] = field(default_factory=dict)


@dataclass
class Job:
    """A case during its conversion. The volumes are freed once the case is written.

    ``key``: its key in the manifest. ``number``: its position among the cases of the run.
    """

    scan: Scan
    entry: Converted
    targets: list[Path]
    key: str
    number: int = 0
    states: dict[Path, tuple[int, ...]] = field(default_factory=dict)  # of its files, see ``file_states``
    volumes: list[Volume] = field(default_factory=list)
    outputs: list[Volume] = field(default_factory=list)
    deviations: list[Volume] = field(default_factory=list)  # of the outputs, with --samples

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
    """Options of a run that apply to each case, see ``cohort.run.convert``."""

    format: str | None = None
    series: str | None = None
    memory_gb: float | None = None
    checks: Checks | None = None
    qa_report_sr: bool = False
    private: Private | None = None
    samples: int | None = None  # translations of a case, see ``uncertainty``


@contextmanager
def errors_recorded(job: Job) -> Iterator[None]:
    """Record an exception of the block in the job's entry instead of raising it, and add the time of the block."""
    started, entry, path = time.monotonic(), job.entry, job.scan.files[0]
    try:
        yield
    except InputError as error:
        named = any(name in str(error) for file in job.scan.files for name in (file.name, one_line(file.name)))
        entry.error = str(error) if named or job.scan.fault else f"{path}: {error}"
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
            entry.error = f"{path}: not enough memory for this scan; lower --memory-gb"
        else:
            entry.error = f"{path}: unexpected error, likely a bug in medgen ({reason(error)}); please report it"
    finally:
        entry.seconds += time.monotonic() - started
        if entry.error:
            job.volumes, job.outputs, job.deviations, entry.status = [], [], [], "failed"
            entry.verdict, entry.reasons, entry.findings, entry.checks, entry.limits = None, [], [], None, None

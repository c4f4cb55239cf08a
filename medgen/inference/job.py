"""A case on its way through a conversion, and what became of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen.inference.deidentified_output import Private
from medgen.inference.inputs import Scan
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
    made: list[Volume] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.entry.error is None and self.entry.status != "skipped"

    @property
    def unjudged(self) -> bool:
        """Done before, but to be held against other limits than then."""
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

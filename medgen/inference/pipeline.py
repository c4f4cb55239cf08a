"""The stages of a conversion: a case is named, read, translated, checked and written, and what goes wrong is told."""

import math
import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from medgen.checkpoint import Model
from medgen.errors import InputError, reason
from medgen.inference.cohort.manifest import Manifest
from medgen.inference.cohort.prefetch import overlapped
from medgen.inference.cohort.verdict import verdict
from medgen.inference.inputs import Scan, file_states, frames_apart, read_scan, scan_grids, scan_hash
from medgen.inference.job import FORMATS, Converted, Job, Options
from medgen.inference.output import (
    VERDICTS,
    check_modality,
    check_outputs,
    check_units,
    clear,
    sheared,
    verdict_file,
    write_outputs,
    write_verdicts,
)
from medgen.inference.predict import translate_case
from medgen.io.claim import remove
from medgen.io.dicom.write import check_derivable
from medgen.io.hashes import sha256
from medgen.io.names import checked_name, folded, shown
from medgen.io.paths import ENDINGS, has_ending
from medgen.io.read import read_volume
from medgen.qa.carried import input_findings
from medgen.qa.check import coarse_factor
from medgen.qa.out_of_distribution import out_of_distribution

WRITERS = 16
SMALL_GB = 1 / 16  # a scan of this much is read whatever the bound
JUDGED = ("verdict", "reasons", "findings", "checks", "limits")  # of a record, by the checks of its run


class Cases:
    """The stages of every case of a run, in threads of their own; several cases may be written at once."""

    def __init__(self, model: Model, manifest: Manifest, output: Path, folders: list[Path], options: Options) -> None:
        self.model, self.manifest, self.output, self.folders = model, manifest, output, folders
        self.options, self.private, self.checks = options, options.private, options.checks
        memory_gb = options.memory_gb
        self.bound_gb = model.settings.inference.memory_gb if memory_gb is None else memory_gb
        self.made_of: dict[str, Path] = {}  # output as any file system may have it: its input
        self.keys: dict[str, str] = {}  # place in the manifest, likewise: output
        self.count = 0
        self.recorded: dict[int, Job] = {}  # by number; who takes a job takes it out, so that an interrupt leaves none
        # A verdict takes a core for seconds, longer than a GPU or many cores take for the network. A segmenter in it
        # takes the device.
        alone = self.checks is None or self.checks.segmenter is not None
        self.writers = 1 if alone else max(1, min(WRITERS, _cores() // 2))

    def clear(self) -> None:
        """Remove what a killed run or worker left half-written."""
        for folder in self.folders:
            clear(folder)
            clear(folder / VERDICTS)

    def converted(self, scans: Iterable[Scan | None]) -> Generator[Job, None, None]:
        self.clear()
        most = int(self.bound_gb * 2**30 / 4)
        keys: list[str] = []

        def jobs() -> Iterator[Job | None]:
            for scan in self.folding(scans):
                job = None if scan is None else self.named(scan)
                keys.extend([] if job is None else [job.key])
                yield job

        def write(job: Job) -> None:
            self.write(job)
            self.recorded[job.number] = job

        try:
            stages = self.read, self.translate, write
            with closing(overlapped(jobs(), *stages, self.held, self.beside, most, self.writers)) as done:
                yield from done
        finally:
            self.manifest.order(keys)  # several writers end in any order

    def folding(self, scans: Iterable[Scan | None]) -> Iterator[Scan | None]:
        """While nothing arrives the manifest is made whole."""
        for scan in scans:
            yield scan
            if scan is None:  # what was under way is written by now
                with suppress(InputError):  # a full disk: the journal has it, and the end of the run tells
                    self.manifest.fold()

    def beside(self, job: Job) -> int:
        """Bytes that judging and writing take beside the case, as measured: mostly copies on the verdict's own grid."""
        if not job.volumes:
            return 0
        volume, copies = job.volumes[0], 3.5  # values are unscaled in double precision
        if self.checks is not None:
            copies = max(copies, 4 + 24 / math.prod(coarse_factor(volume.spacing, volume.data.shape)))
        return int(volume.data.nbytes * copies)

    def held(self, job: Job) -> int:
        """Bytes of a case once translated."""
        outputs = len(self.model.settings.data.targets)
        return sum(v.data.nbytes for v in job.volumes) + outputs * sum(v.data.nbytes for v in job.volumes[:1])

    def named(self, scan: Scan) -> Job:
        """What a case will be called; of two of one name the first has it."""
        if self.private is not None:
            scan = self.private.named(scan)
        path = scan.files[0]
        name = scan.case + _ending(path, self.options.format)
        targets = [folder / name for folder in self.folders] or [self.output]
        contrasts = self.model.settings.data.targets
        entry = Converted(
            scan.case,
            str(path),
            str(targets[0]),
            series=self.options.series,
            picked=None if scan.series is None else scan.series.key,
            contrasts=[*contrasts] if len(contrasts) > 1 else [],
        )
        if self.private is not None:
            entry.deidentified = self.private.dates
        key = scan.case if self.keys.setdefault(folded(scan.case), entry.output) == entry.output else str(path)
        self.count += 1
        job = Job(scan, entry, targets, key, self.count)
        with _faults(job):
            if scan.fault:
                if self.made_of.get(folded(entry.output), path) != path:
                    job.key = str(path)
                raise InputError("input-scan-faulty", scan.fault)
            checked_name(scan.case, path)
            if self.made_of.setdefault(folded(entry.output), path) != path:
                job.key = str(path)  # the record of the other stays
                raise InputError(
                    "folder-case-twice", f"{path}: another scan of this folder is named {scan.case} too; rename one"
                )
        return job

    def read(self, job: Job) -> Job:
        if not job.open:
            return job
        scan, entry = job.scan, job.entry
        with _faults(job):
            self._check(job)
            job.states = file_states(scan)
            entry.input_sha256 = scan_hash(scan)
            told = {k: getattr(entry, k) for k in ("input_sha256", "output", "series", "deidentified")}
            if self.manifest.holds(job.key, told, job.targets):
                self._skip(job, self.manifest.cases[job.key])
                return job
            self._check_size(scan)
            job.volumes = read_scan(scan, self.options.series)
            check_units(job.volumes, self.model)
            if not has_ending(job.targets[0], ENDINGS):
                check_modality(job.volumes[0], self.model)
                check_derivable(job.volumes)
            if self.private is not None:
                self.private.check_pixels(job.volumes)
            odd = out_of_distribution(self.model, job.volumes)
            said = [text for volume in job.volumes for text in volume.warnings]
            said = [*scan.warnings, *said, *sheared(job.targets, job.volumes[0])]
            entry.warnings = [*said, *frames_apart(job.volumes), *odd]
            entry.notes = [*scan.notes, *(text for volume in job.volumes for text in volume.notes)]
        return job

    def _skip(self, job: Job, old: dict[str, Any]) -> None:
        """Take over what was told; a verdict by other limits than the run's is not."""
        entry = job.entry
        entry.status, entry.output_sha256 = "skipped", old["output_sha256"]
        entry.warnings, entry.notes, entry.changes = (
            old.get("warnings", []),
            old.get("notes", []),
            old.get("changes", {}),
        )
        if self.checks is None:
            return
        reported = all(verdict_file(target).exists() for target in job.targets if self.options.qa_report_sr)
        if reported and old.get("checks") == self.checks.identity and all(name in old for name in JUDGED):
            for name in JUDGED:
                setattr(entry, name, old[name])
        else:
            self._check_size(job.scan)
            job.volumes = read_scan(job.scan, self.options.series)

    def _check(self, job: Job) -> None:
        for target in job.targets:
            if target.exists() and any(target.samefile(file) for file in job.scan.files):
                raise InputError(
                    "output-is-input", f"{target.resolve()} is input and output at once; choose another output"
                )
            if self.options.qa_report_sr and (has_ending(target, ENDINGS) or target.name == VERDICTS):
                raise InputError(
                    "output-report-not-possible",
                    f"{target} can have no structured report beside it; leave --qa-report-sr out",
                )
        if self.private is not None:
            self.private.check(job.targets)
        check_outputs(job.targets, job.scan.files)

    def _check_unchanged(self, job: Job) -> None:
        """A series takes patient and study from its source's headers, which are read only now."""
        now = file_states(job.scan)
        changed = [file for file, state in job.states.items() if now.get(file) != state] or [*now.keys() - job.states]
        if changed:
            raise InputError(
                "input-changed-meanwhile",
                f"{changed[0]} was changed while it was converted; start again once it is complete",
            )

    def _check_size(self, scan: Scan) -> None:
        """Refuse what a header claims before memory is taken for it."""
        grids = scan_grids(scan, self.options.series)
        gb = sum(math.prod(grid.shape) for grid in grids) * 4 / 2**30
        if self.model.settings.inference.spacing == "resample":
            resampled = [math.prod(grid.spacing) / math.prod(self.model.info.spacing) for grid in grids]
            gb *= max(1.0, *resampled)
        if gb > max(self.bound_gb / 2, SMALL_GB):
            raise InputError(
                "input-memory-exceeded",
                f"{scan.files[0]} claims {grids[0].describe()}: {gb:.3g} GiB in memory at the model's spacing, above "
                f"half of --memory-gb {self.bound_gb:g}; raise that, or export the scan again if it is not so large",
            )

    def translate(self, job: Job) -> None:
        with _faults(job):
            if job.open:
                job.made = translate_case(self.model, job.volumes, memory_gb=self.options.memory_gb)

    def write(self, job: Job) -> None:
        with _faults(job):
            if job.unjudged:
                job.made = [read_volume(target) for target in job.targets]
                self._tell(job, self._judge(job))
            elif job.open:
                each = self._judge(job)
                self._check_unchanged(job)
                deidentifier = None if self.private is None else self.private.deidentifier
                changes = write_outputs(job.targets, job.made, job.volumes, self.model, deidentifier)
                self._tell(job, each)
                job.entry.changes = dict(changes)
                job.entry.output_sha256 = sha256(job.targets)
                job.entry.status = "converted"
        job.volumes, job.made = [], []
        job.entry.seconds = round(job.entry.seconds, 2)
        self.record(job.key, job.entry)

    def _judge(self, job: Job) -> list[dict[str, Any]]:
        if self.checks is None:
            return []
        entry, names = job.entry, self.model.settings.data.targets
        known = input_findings(entry.warnings)
        entry.verdict, entry.reasons, each = verdict(job.volumes, job.made, names, self.checks, known)
        entry.findings = [finding for one in each for finding in one["findings"]]
        entry.checks, entry.limits = self.checks.identity, self.checks.thresholds.recorded()
        return each

    def _tell(self, job: Job, verdicts: list[dict[str, Any]]) -> None:
        if self.options.qa_report_sr:
            write_verdicts(job.targets, verdicts, self.model)
            return
        for target in job.targets:  # one of another verdict, or of images that are there no more
            if not has_ending(target, ENDINGS):
                remove(verdict_file(target))

    def record(self, key: str, entry: Converted) -> None:
        """Into the manifest, where it has another verdict or nothing of a case that was skipped."""
        old = self.manifest.cases.get(key, {})
        if entry.status == "failed" and entry.output_sha256:
            return  # it could not be judged anew: what was made of it is still there
        if entry.status != "skipped":
            self.manifest.add(key, entry)
        elif entry.checks not in (None, old.get("checks")):
            self.manifest.add(key, replace(entry, status="converted", seconds=old.get("seconds", 0.0)))


@contextmanager
def _faults(job: Job) -> Iterator[None]:
    """What goes wrong with a case is told in its entry; the other cases go on. Counts the time it takes, too."""
    started, entry, path = time.monotonic(), job.entry, job.scan.files[0]
    try:
        yield
    except InputError as error:
        known = any(name in str(error) for file in job.scan.files for name in (file.name, shown(file.name)))
        entry.error = str(error) if known or job.scan.fault else f"{path}: {error}"
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
            entry.error = f"{path}: not enough memory for this scan; lower --memory-gb"
        else:
            entry.error = f"{path}: medgen did not expect this scan ({reason(error)}); please report it"
    finally:
        entry.seconds += time.monotonic() - started
        if entry.error:
            job.volumes, job.made, entry.status = [], [], "failed"
            entry.verdict, entry.reasons, entry.findings, entry.checks, entry.limits = None, [], [], None, None


def _cores() -> int:
    """That this process may use: a cluster's job has a share of its machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ending(path: Path, format: str | None) -> str:
    if format is not None:
        return FORMATS[format]
    known = [e for e in ENDINGS if path.is_file() and path.name.lower().endswith(e)]
    # header-and-data pairs come back as one file
    return {".mhd": ".mha", ".nhdr": ".nrrd"}.get(known[0], known[0]) if known else FORMATS["dicom"]

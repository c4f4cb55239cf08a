"""The cases of one run: plan them, convert them in threads, and record them in the manifest."""

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from medgen.checkpoint import Model
from medgen.errors import InputError
from medgen.inference import convert_case as case
from medgen.inference.cohort.manifest import Manifest
from medgen.inference.cohort.prefetch import overlapped
from medgen.inference.inputs import Scan
from medgen.inference.job import Job, Options
from medgen.inference.output import VERDICTS, clear
from medgen.inference.plan import Planner, memory_bound_gb
from medgen.qa.check import coarse_factor

WRITERS = 16


class Cases:
    """The cases of one run and their records in the manifest."""

    def __init__(
        self,
        model: Model,
        manifest: Manifest,
        output: Path,
        options: Options,
        stage: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.manifest, self.options, self.stage = model, manifest, options, stage
        self.planner = Planner(model, output, options)
        self.recorded: dict[int, Job] = {}  # by number: jobs in the manifest that are not reported to the caller yet

    def clear(self) -> None:
        """Remove partial files of a killed run or worker."""
        for folder in self.planner.folders:
            clear(folder)
            clear(folder / VERDICTS)

    def jobs(self, scans: Iterable[Scan | None]) -> Iterator[Job | None]:
        """Plan the scans one by one; None passes through. Merges the journal into the manifest while idle."""
        for scan in scans:
            yield None if scan is None else self.planner.plan(scan)
            if scan is None:  # all earlier cases are written by now
                with suppress(
                    InputError
                ):  # disk full: the journal keeps the records, and the end of the run reports it
                    self.manifest.fold()

    def converted(self, scans: Iterable[Scan | None]) -> Generator[Job, None, None]:
        """Convert the scans in threads: while one is translated, the next is read and earlier ones are written."""
        self.clear()
        keys: list[str] = []

        def planned() -> Iterator[Job | None]:
            for job in self.jobs(scans):
                keys.extend([] if job is None else [job.key])
                yield job

        def read(job: Job) -> Job:
            self.stage("reading")
            return case.read(job, self.model, self.options, self.manifest)

        def translate(job: Job) -> None:
            self.stage("translating")
            case.translate(job, self.model, self.options)

        def write(job: Job) -> None:
            self.stage("writing")
            case.write(job, self.model, self.options)
            self.record(job)

        bound = int(memory_bound_gb(self.model, self.options) * 2**30 / 4)
        try:
            stages = read, translate, write
            with closing(
                overlapped(planned(), *stages, self._held, self._writing_extra, bound, self._writers())
            ) as done:
                yield from done
        finally:
            self.manifest.order(keys)  # several writers finish in any order

    def record(self, job: Job) -> None:
        """Record a finished case, unless it was skipped and its record is still valid."""
        entry, old = job.entry, self.manifest.cases.get(job.key, {})
        if entry.status == "failed" and entry.output_sha256:
            pass  # only the new check failed; the output of the earlier run still exists
        elif entry.status != "skipped":
            self.manifest.add(job.key, entry)
        elif entry.checks not in (None, old.get("checks")):
            self.manifest.add(job.key, replace(entry, status="converted", seconds=old.get("seconds", 0.0)))
        self.recorded[job.number] = job

    def _held(self, job: Job) -> int:
        """Bytes that a translated case holds."""
        outputs = len(self.model.settings.data.targets) * (1 if self.options.samples is None else 2)
        return sum(v.data.nbytes for v in job.volumes) + outputs * sum(v.data.nbytes for v in job.volumes[:1])

    def _writing_extra(self, job: Job) -> int:
        """Additional bytes for checking and writing, from measurements: mostly copies on the grid of the check."""
        if not job.volumes:
            return 0
        volume, copies = job.volumes[0], 3.5  # values are unscaled in double precision
        if self.options.checks is not None:
            copies = max(copies, 4 + 24 / math.prod(coarse_factor(volume.spacing, volume.data.shape)))
        return int(volume.data.nbytes * copies)

    def _writers(self) -> int:
        """Number of writer threads. One without checks, and one with a segmenter, which uses the device.

        A check keeps one core busy for seconds, longer than a GPU or many cores need for the network.
        """
        checks = self.options.checks
        if checks is None or checks.segmenter is not None:
            return 1
        return max(1, min(WRITERS, _cores() // 2))


def _cores() -> int:
    """Number of cores that this process may use; a cluster job may use only some of its machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

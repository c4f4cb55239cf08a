"""Convert the cases of a cohort on the workers of a cluster; outputs and manifest are those of a single process.

This process plans the cases and is the only one to write the manifest. A worker reads, translates, checks and writes
one case at a time. No volumes are sent between processes.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch

from medgen.checkpoint import load_model
from medgen.cluster import Cluster, WorkerLost, WorkerResources, joined, spread
from medgen.errors import InputError
from medgen.inference.cohort.cases import Cases
from medgen.inference.cohort.manifest import Manifest, model_description
from medgen.inference.convert_case import convert_case
from medgen.inference.inputs import Scan
from medgen.inference.job import Converted, Job, Options
from medgen.inference.output import verdict_file
from medgen.io.claim import record_written

JobAndRecord = tuple[Job, dict[str, Any] | None]  # a case and its record of an earlier run


def converted_by(cluster: Cluster, cases: Cases, scans: Iterable[Scan | None]) -> Generator[Job, None, None]:
    """Yield the job of each case once it is written, in any order; the manifest ends in the order of the scans.

    Raises:
        InputError: the cluster cannot be used, the model has no folder, or the structure check uses a segmenter.
    """
    model = cases.model
    if model.folder is None:
        raise InputError(
            "cluster-model-without-folder",
            "cluster workers load the model from its folder, but this model has none; load it from a folder",
        )
    if cases.options.checks is not None and cases.options.checks.segmenter is not None:
        raise InputError(
            "option-segmenter-with-ray", "--segmenter cannot run on the workers of --ray; omit one of the two"
        )
    cases.clear()
    keys: dict[int, str] = {}

    def planned() -> Iterator[JobAndRecord | None]:
        for job in cases.jobs(scans):
            yield None if job is None else (job, cases.manifest.cases.get(job.key))

    try:
        with joined(cluster) as share:
            make = partial(_converter, model.folder, model.info.sha256, model.target, share, cases.options)
            with closing(spread(planned(), make, share)) as found:
                for (job, _), entry in found:
                    if isinstance(entry, WorkerLost):
                        job.entry.error = f"{job.scan.files[0]}: {entry}"
                    else:
                        job.entry = entry
                        _check_visible(job)
                        _claim_files(job)
                    cases.record(job)
                    keys[job.number] = job.key
                    yield job
    finally:
        cases.manifest.order(keys[number] for number in sorted(keys))
        cases.clear()


def _check_visible(job: Job) -> None:
    """Fail a job whose output is missing here: its node does not share the output folder."""
    missing = [target for target in job.targets if job.entry.status == "converted" and not target.exists()]
    if missing:
        job.entry.status, job.entry.output_sha256 = "failed", ""
        job.entry.error = (
            f"{missing[0]} was written by a cluster node but is missing here; use a folder that all nodes share"
        )


def _claim_files(job: Job) -> None:
    """Record the files that a worker wrote: the claim of the output folder is held by this process only."""
    for target in job.targets if job.entry.status == "converted" else ():
        for path in (target, verdict_file(target)):
            for file in path.iterdir() if path.is_dir() else [path] if path.is_file() else ():
                record_written(file, file)


def _converter(
    folder: Path, sha256: str, target: str | None, share: WorkerResources, options: Options
) -> Callable[[JobAndRecord], Converted]:
    """Load the model on a worker; returns the function that converts one case."""
    torch.set_num_threads(share.threads)
    model = load_model(folder, share.device, target=target, ensembles=True)
    if model.info.sha256 != sha256:  # training continued, or the path is another folder on this node
        raise InputError(
            "model-changed-during-run",
            f"{folder} holds another model than at the start of the run; use a copy that does not change",
        )
    manifest = Manifest(None, model_description(model))

    def convert(planned: JobAndRecord) -> Converted:
        job, old = planned
        manifest.cases = {} if old is None else {job.key: old}
        convert_case(job, model, options, manifest)
        return job.entry

    return convert

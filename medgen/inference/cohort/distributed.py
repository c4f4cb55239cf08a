"""A cohort's cases over the workers of a cluster, with the outputs and the manifest of one process.

This process finds and names the cases and alone holds the manifest; a worker reads, translates and writes one case at
a time. No volume passes between them.
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
from medgen.inference.cohort.manifest import Manifest, about
from medgen.inference.convert_case import convert_case
from medgen.inference.inputs import Scan
from medgen.inference.job import Converted, Job, Options
from medgen.inference.output import verdict_file
from medgen.io.claim import wrote

Given = tuple[Job, dict[str, Any] | None]  # a case and its old record


def converted_by(cluster: Cluster, cases: Cases, scans: Iterable[Scan | None]) -> Generator[Job, None, None]:
    """Each case's job, once written, as they come; the manifest ends in the order of the scans.

    Raises:
        InputError: the cluster cannot be used, the model has no folder to load, or checks by a segmenter.
    """
    model = cases.model
    if model.folder is None:
        raise InputError(
            "cluster-model-without-folder",
            "workers of a cluster load the model from its folder, and this one was not loaded from any",
        )
    if cases.options.checks is not None and cases.options.checks.segmenter is not None:
        raise InputError(
            "option-segmenter-with-ray", "--segmenter cannot be sent to the workers of --ray; leave one of the two out"
        )
    cases.clear()
    keys: dict[int, str] = {}

    def given() -> Iterator[Given | None]:
        for job in cases.jobs(scans):
            yield None if job is None else (job, cases.manifest.cases.get(job.key))

    try:
        with joined(cluster) as share:
            make = partial(_converter, model.folder, model.info.sha256, model.target, share, cases.options)
            with closing(spread(given(), make, share)) as found:
                for (job, _), entry in found:
                    if isinstance(entry, WorkerLost):
                        job.entry.error = f"{job.scan.files[0]}: {entry}"
                    else:
                        job.entry = entry
                        _seen(job)
                        _record(job)
                    cases.record(job)
                    keys[job.number] = job.key
                    yield job
    finally:
        cases.manifest.order(keys[number] for number in sorted(keys))
        cases.clear()


def _seen(job: Job) -> None:
    """A node that does not share the output folder wrote into one of its own."""
    unseen = [target for target in job.targets if job.entry.status == "converted" and not target.exists()]
    if unseen:
        job.entry.status, job.entry.output_sha256 = "failed", ""
        job.entry.error = (
            f"{unseen[0]} was written by a node of the cluster and is not here; use a folder all nodes share"
        )


def _record(job: Job) -> None:
    """A worker holds no claim; what it wrote is recorded by the process that does."""
    for target in job.targets if job.entry.status == "converted" else ():
        for path in (target, verdict_file(target)):
            for file in path.iterdir() if path.is_dir() else [path] if path.is_file() else ():
                wrote(file, file)


def _converter(
    folder: Path, sha256: str, target: str | None, share: WorkerResources, options: Options
) -> Callable[[Given], Converted]:
    """What a worker does with a case, its model loaded."""
    torch.set_num_threads(share.threads)
    model = load_model(folder, share.device, target=target)
    if model.info.sha256 != sha256:  # training goes on, or another machine has another folder there
        raise InputError(
            "model-changed-during-run", f"{folder} holds another model than when the run began; give a copy that stays"
        )
    manifest = Manifest(None, about(model))

    def convert(given: Given) -> Converted:
        job, old = given
        manifest.cases = {} if old is None else {job.key: old}
        convert_case(job, model, options, manifest)
        return job.entry

    return convert

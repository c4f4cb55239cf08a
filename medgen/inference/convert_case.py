"""Convert one case: plan and read it, translate it, check the result, write it.

`plan.Planner` names the case and its outputs. The steps here then call one module each: `plan` and `inputs`, `predict`
(volumes in, volumes out), `check`, `output`. `cohort` runs them over many scans: in threads of this process, or on the
workers of a cluster. What fails is recorded in the job's entry and raises nothing.
"""

from collections.abc import Sequence
from typing import Any

from medgen.checkpoint import Model
from medgen.inference.check import check_case
from medgen.inference.cohort.manifest import Manifest
from medgen.inference.inputs import check_unchanged, file_states, frame_of_reference_warnings, read_scan, scan_hash
from medgen.inference.job import Job, Options, errors_recorded
from medgen.inference.model_grid import other_grid_notes
from medgen.inference.output import (
    check_grid,
    check_modality,
    check_units,
    sheared_grid_warnings,
    write_deviations,
    write_outputs,
    write_reports,
)
from medgen.inference.plan import check_size, check_targets, done_already
from medgen.inference.predict import translate_case
from medgen.inference.uncertainty import translate_samples
from medgen.io.dicom.derived.write import check_derivable
from medgen.io.hashes import sha256
from medgen.io.paths import ENDINGS, has_ending
from medgen.io.read import read_volume
from medgen.qa.carried import without_input_texts
from medgen.qa.out_of_distribution import out_of_distribution


def convert_case(job: Job, model: Model, options: Options, manifest: Manifest) -> None:
    """Convert one case in one thread; ``manifest`` holds its record of an earlier run, if there is one."""
    read(job, model, options, manifest)
    translate(job, model, options)
    write(job, model, options)


def read(job: Job, model: Model, options: Options, manifest: Manifest) -> Job:
    """Read the volumes of a case, unless an earlier run converted it, and refuse what cannot be converted."""
    if not job.pending:
        return job
    scan, entry = job.scan, job.entry
    with errors_recorded(job):
        check_targets(job, options)
        check_grid(job.targets, model)
        job.states = file_states(scan)
        entry.input_sha256 = scan_hash(scan)
        done = done_already(job, options, manifest)
        if done and (options.checks is None or entry.checks is not None):
            return job
        check_size(scan, model, options)
        job.volumes = read_scan(scan, options.series)
        if not done:  # else the volumes serve a new verdict only
            _check_volumes(job, model, options)
            _add_warnings(job, model)
    return job


def translate(job: Job, model: Model, options: Options) -> None:
    """Translate the volumes that were read."""
    with errors_recorded(job):
        if job.pending:
            if options.samples is None:
                job.outputs = translate_case(model, job.volumes, memory_gb=options.memory_gb)
            else:
                count = options.samples
                job.outputs, job.deviations = translate_samples(model, job.volumes, count, memory_gb=options.memory_gb)


def write(job: Job, model: Model, options: Options) -> None:
    """Check the translated volumes, write them, and free the memory of the case."""
    with errors_recorded(job):
        if job.needs_verdict:
            job.outputs = [read_volume(target) for target in job.targets]
            _write_reports(job, model, options, check_case(job, model, options.checks))
        elif job.pending:
            verdicts = check_case(job, model, options.checks)
            check_unchanged(job.scan, job.states)
            deidentifier = None if options.private is None else options.private.deidentifier
            changes = write_outputs(job.targets, job.outputs, job.volumes, model, deidentifier)
            write_deviations(job.targets, job.deviations, model)
            _write_reports(job, model, options, verdicts)
            job.entry.changes = dict(changes)
            job.entry.output_sha256 = sha256(job.targets)
            job.entry.status = "converted"
    job.volumes, job.outputs, job.deviations = [], [], []
    job.entry.seconds = round(job.entry.seconds, 2)


def _write_reports(job: Job, model: Model, options: Options, verdicts: Sequence[dict[str, Any]]) -> None:
    """Write the verdicts beside the outputs; those of de-identified outputs quote nothing of the input."""
    shown = verdicts if options.private is None else [without_input_texts(found) for found in verdicts]
    write_reports(job.targets, shown, model, options.qa_report_sr)


def _check_volumes(job: Job, model: Model, options: Options) -> None:
    """Refuse units, modalities and pixels that must not reach the output. Raises InputError."""
    check_units(job.volumes, model)
    if not has_ending(job.targets[0], ENDINGS):
        check_modality(job.volumes[0], model)
        check_derivable(job.volumes)
    if options.private is not None:
        job.entry.patient = options.private.check_images(job.volumes)


def _add_warnings(job: Job, model: Model) -> None:
    """Record warnings and notes about the volumes that were read."""
    odd = out_of_distribution(model, job.volumes)
    texts = [text for volume in job.volumes for text in volume.warnings]
    texts = [*job.scan.warnings, *texts, *sheared_grid_warnings(job.targets, job.volumes[0])]
    job.entry.warnings = [*texts, *frame_of_reference_warnings(job.volumes), *odd]
    job.entry.notes = [*job.scan.notes, *(text for volume in job.volumes for text in volume.notes)]
    job.entry.notes += other_grid_notes(model, job.volumes[0])

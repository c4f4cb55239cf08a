"""Plan a conversion: refuse invalid outputs, name each case and its outputs, and find cases that are done already."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgen.checkpoint import Model
from medgen.errors import InputError
from medgen.inference.cohort.manifest import Manifest
from medgen.inference.inputs import Scan, scan_grids
from medgen.inference.job import FORMATS, Converted, Job, Options, errors_recorded
from medgen.inference.output import VERDICTS, check_outputs, deviation_file, verdict_file
from medgen.inference.passes import check_windows
from medgen.inference.uncertainty import source_of_samples
from medgen.io.bids import derivative
from medgen.io.names import checked_name, folded
from medgen.io.paths import ENDINGS, NIFTI_ENDINGS, has_ending

NAMES = {"nifti": NIFTI_ENDINGS, "mha": (".mha", ".mhd"), "nrrd": (".nrrd", ".nhdr"), "dicom": ()}
IMAGES = {".dcm", ".ima", ".img", ".hdr", ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".npz", ".zip", ".gz"}
NO_REPORT = "--qa-report-sr writes a DICOM report beside a DICOM series, and {what} is none; omit --qa-report-sr"
SMALL_GB = 1 / 16  # a scan of at most this size is read regardless of the memory limit
VERDICT_FIELDS = (
    "verdict",
    "reasons",
    "findings",
    "checks",
    "limits",
)  # fields of a record that the structure check fills


def check_run(model: Model, output: Path, options: Options) -> None:
    """Refuse a run whose options, output and model are incompatible. Raises InputError."""
    format = options.format
    if format is not None and format not in FORMATS:
        raise InputError("option-format-unknown", f"--format {format}: unknown; choose one of {', '.join(FORMATS)}")
    if format is not None and has_ending(output, ENDINGS) and not has_ending(output, NAMES[format]):
        raise InputError(
            "output-name-format-differs",
            f"{output} does not have the file ending of --format {format}; omit --format or change the name",
        )
    if output.suffix.lower() in IMAGES and not has_ending(output, ENDINGS) and not output.is_dir():
        raise InputError(
            "output-extension-unknown",
            f"{output}: {output.suffix} cannot be written; give a folder, or a name ending in {' '.join(ENDINGS)}",
        )
    if model.settings.label_source:
        raise InputError(
            "model-needs-label-maps", f"{model.folder} makes images from label maps; use medgen synthesize"
        )
    if options.qa_report_sr and options.checks is None:
        raise InputError(
            "option-verdict-without-checks",
            "--qa-report-sr writes the verdict, which --qa-limits none turns off; omit one of the two",
        )
    if options.qa_report_sr and (has_ending(output, ENDINGS) or format not in (None, "dicom")):
        what = f"--format {format}" if format else output
        raise InputError("output-report-not-possible", NO_REPORT.format(what=what))
    if options.samples is not None and options.private is not None:
        raise InputError(
            "option-samples-deidentified",
            "--deidentify writes DICOM and --samples volume files, so they cannot be combined; omit one of the two",
        )
    if options.samples is not None:
        source_of_samples(model, options.samples)
        if has_ending(output, ENDINGS) or format == "dicom":
            raise InputError(
                "option-samples-files",
                "--samples writes volume files, and their deviations to a folder beside them; give a folder as output, "
                "and for DICOM input --format nifti",
            )
    check_windows(model, options.memory_gb)


def check_count(model: Model, source: object, output: Path, count: int) -> None:
    """Refuse one file as the output of several scans or of several target contrasts. Raises InputError."""
    targets = model.settings.data.targets
    if not has_ending(output, ENDINGS):
        return
    if count > 1:
        raise InputError(
            "output-file-for-many-scans",
            f"{source} holds {count} scans but {output} is one file; give a folder as output",
        )
    if len(targets) > 1:
        raise InputError(
            "output-file-for-many-targets",
            f"{output} is one file but the model outputs {', '.join(targets)}; give a folder as output",
        )


class Planner:
    """Plans the cases of one run: a name, output paths and a manifest key for each scan."""

    def __init__(self, model: Model, output: Path, options: Options) -> None:
        self.output, self.options, self.contrasts = output, options, model.settings.data.targets
        single = has_ending(output, ENDINGS)
        several = len(self.contrasts) > 1
        self.folders = [] if single else [output / name for name in self.contrasts] if several else [output]
        count = options.samples
        self.samples = None if count is None else {"count": count, "from": source_of_samples(model, count)}
        self.inputs: dict[str, Path] = {}  # output path, folded like on case-insensitive file systems: its input
        self.outputs: dict[str, str] = {}  # manifest key, folded likewise: output
        self.count = 0

    def plan(self, scan: Scan) -> Job:
        """Name the case of a scan and its outputs. If two scans have the same name, the second fails."""
        private = self.options.private
        if private is not None:
            scan = private.named(scan)
        path = scan.files[0]
        name = scan.case + _ending(path, self.options.format)
        targets = [folder / name for folder in self.folders] or [self.output]
        if scan.place is not None and self.folders and private is None:
            ending = name.removeprefix(scan.case)
            places = [derivative(scan.place, contrast) for contrast in self.contrasts]
            targets = [self.output / place.with_name(place.name + ending) for place in places]
        entry = Converted(
            scan.case,
            str(path),
            str(targets[0]),
            series=self.options.series,
            picked=None if scan.series is None else scan.series.key,
            contrasts=[*self.contrasts] if len(self.contrasts) > 1 else [],
        )
        if private is not None:
            entry.deidentified = private.dates
        if self.samples is not None:
            entry.samples = self.samples
        key = scan.case if self.outputs.setdefault(folded(scan.case), entry.output) == entry.output else str(path)
        self.count += 1
        job = Job(scan, entry, targets, key, self.count)
        with errors_recorded(job):
            if scan.fault:
                if self.inputs.get(folded(entry.output), path) != path:
                    job.key = str(path)
                raise InputError("input-scan-faulty", scan.fault)
            checked_name(scan.case, path)
            first = self.inputs.setdefault(folded(entry.output), path)
            if first != path:
                job.key = str(path)  # so that the record of the first scan stays
                raise InputError(
                    "folder-case-twice",
                    f"{path} and {first} have the same case name, ignoring letter case and Unicode form; rename one",
                )
        return job


def check_targets(job: Job, options: Options) -> None:
    """Refuse outputs that would replace the input, cannot be written, or cannot have a report. Raises InputError."""
    for target in job.targets:
        if target.exists() and any(target.samefile(file) for file in job.scan.files):
            raise InputError("output-is-input", f"{target.resolve()} is both input and output; choose another output")
        if options.qa_report_sr and has_ending(target, ENDINGS):
            raise InputError("output-report-not-possible", NO_REPORT.format(what=target))
        if options.qa_report_sr and target.name == VERDICTS:
            raise InputError(
                "output-report-not-possible",
                f"{job.scan.files[0]}: a case named {VERDICTS} has no place beside the reports, whose folder has this "
                "name; rename the case, or omit --qa-report-sr",
            )
    if options.samples is not None and not all(has_ending(target, ENDINGS) for target in job.targets):
        raise InputError(
            "option-samples-files",
            f"{job.scan.files[0]} is DICOM, and --samples writes volume files only; add --format nifti",
        )
    if options.private is not None:
        options.private.check(job.targets)
    check_outputs(job.targets, job.scan.files)


def done_already(job: Job, options: Options, manifest: Manifest) -> bool:
    """Whether an earlier run converted the case; then its record is copied into the job's entry.

    The verdict is copied only if it was made with the thresholds and the segmenter of this run.

    Raises:
        InputError: the output exists and was made from another scan, at another path, for which it would be lost.
    """
    entry = job.entry
    expected = {k: getattr(entry, k) for k in ("input_sha256", "output", "series", "deidentified", "samples")}
    old = manifest.cases.get(job.key, {})
    if Path(str(old.get("output"))).name != Path(entry.output).name and old.get("input") not in (None, entry.input):
        job.key = entry.input  # a scan in another format has replaced one of this name, whose output and record stay
    deviations = all(deviation_file(target).exists() for target in job.targets if options.samples is not None)
    if not deviations or not manifest.holds(job.key, expected, job.targets):
        _check_same_scan(job, manifest.cases.get(job.key, {}))
        return False
    old = manifest.cases[job.key]
    entry.status, entry.output_sha256 = "skipped", old["output_sha256"]
    for name, empty in (("warnings", []), ("notes", []), ("changes", {}), ("patient", {})):
        setattr(entry, name, old.get(name, empty))
    if options.checks is None:
        return True
    reported = all(verdict_file(target).exists() for target in job.targets if options.qa_report_sr)
    if reported and old.get("checks") == options.checks.identity and all(name in old for name in VERDICT_FIELDS):
        for name in VERDICT_FIELDS:
            setattr(entry, name, old[name])
    return True


def _check_same_scan(job: Job, old: Mapping[str, Any]) -> None:
    """Refuse to replace the output of another scan of this name, e.g. after p1/CT was archived and p2/CT arrived."""
    entry, made_from = job.entry, str(old.get("input"))
    same_output = Path(str(old.get("output"))).name == Path(entry.output).name
    changed = old.get("input_sha256") != entry.input_sha256
    if same_output and changed and old.get("output_sha256") and made_from != entry.input and job.targets[0].exists():
        job.key = entry.input  # so that the record of the other scan stays
        raise InputError(
            "output-of-another-scan",
            f"{job.targets[0]} was made from another scan, {made_from}; rename the file or folder of this scan, choose "
            "another output, or delete that one",
        )


def memory_bound_gb(model: Model, options: Options) -> float:
    """The memory limit of a run, GiB: --memory-gb, else inference.memory_gb of the model."""
    return model.settings.inference.memory_gb if options.memory_gb is None else options.memory_gb


def check_size(scan: Scan, model: Model, options: Options) -> None:
    """Refuse, by its header only, a scan that is too large for the memory limit. Raises InputError."""
    bound_gb = memory_bound_gb(model, options)
    grids = scan_grids(scan, options.series)
    gb = sum(math.prod(grid.shape) for grid in grids) * 4 / 2**30
    if model.settings.inference.spacing == "resample":
        resampled = [math.prod(grid.spacing) / math.prod(model.info.spacing) for grid in grids]
        gb *= max(1.0, *resampled)
    if gb > max(bound_gb / 2, SMALL_GB):
        raise InputError(
            "input-memory-exceeded",
            f"{scan.files[0]} is {grids[0].describe()} by its header: {gb:.3g} GiB at the model's spacing, above "
            f"half of --memory-gb {bound_gb:g}; raise the limit, or export the scan again if the header is wrong",
        )


def _ending(path: Path, format: str | None) -> str:
    if format is not None:
        return FORMATS[format]
    endings = [e for e in ENDINGS if not path.is_dir() and path.name.lower().endswith(e)]
    # formats with separate header and data files are written as one file
    return {".mhd": ".mha", ".nhdr": ".nrrd"}.get(endings[0], endings[0]) if endings else FORMATS["dicom"]

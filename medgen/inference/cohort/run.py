"""Convert a cohort of scans. Finished cases are skipped, a killed run can resume, and a failed scan stops nothing.

`inference.convert_case` converts one case. This module handles what surrounds the cases: output folders, finding scans,
the manifest, de-identification, and reporting of results.
"""

import json
import logging
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

from medgen.checkpoint import Model
from medgen.cluster import Cluster
from medgen.data.cohort.layouts import shortened_list
from medgen.errors import InputError
from medgen.inference.cohort.cases import Cases
from medgen.inference.cohort.distributed import converted_by
from medgen.inference.cohort.manifest import Manifest, describes_other, is_manifest, model_description
from medgen.inference.cohort.watch import arrivals
from medgen.inference.deidentified_output import Private
from medgen.inference.inputs import Scan, find_scans, scan_of_file
from medgen.inference.job import Converted, Job, Options
from medgen.inference.kind import check_translates
from medgen.inference.plan import check_count, check_run
from medgen.inference.series import Rules
from medgen.io.atomic import write_text
from medgen.io.bids import IGNORED, TABLE, derivatives_description, is_bids
from medgen.io.claim import check_output_is_not_input, claimed, claimed_file
from medgen.io.formats.itk import data_file_of
from medgen.io.names import one_line
from medgen.io.paths import ENDINGS, has_ending, require_path
from medgen.qa.carried import manifest_of_file
from medgen.qa.run import Checks

Files = tuple[Path, ...]
log = logging.getLogger(__name__)


def convert(
    model: Model,
    source: Path | Sequence[Path | tuple[Path, ...]] | Iterator[Scan | None],
    output: Path,
    *,
    format: str | None = None,
    series: str | None = None,
    rules: Rules | None = None,
    memory_gb: float | None = None,
    watch: float | None = None,
    checks: Checks | None = None,
    qa_report_sr: bool = False,
    private: Private | None = None,
    cluster: Cluster | None = None,
    samples: int | None = None,
    overwrite: bool = False,
    done: Callable[[Converted, int, int], None] = lambda *_: None,
    stage: Callable[[str], None] = lambda _: None,
    finish: Callable[[list[Converted]], None] = lambda _: None,
) -> list[Converted]:
    """Translate a volume, a folder of volumes, a DICOM series folder, or a folder of such folders.

    While one scan is translated, the next is read and earlier ones are checked and written.

    Args:
        model: on the device to use.
        source: a path, or the scans themselves. A model with several source contrasts takes a folder with one folder
            per contrast, or tuples of files. An iterator yields scans as they arrive, and None while there are none.
        output: a volume file name (for one input), else a folder. The folder receives ``CASE.nii.gz`` (or the format of
            the input; for DICOM a folder CASE with a derived series) and ``manifest.json`` with hashes of inputs and
            outputs, which beside a single file is named ``CASE.manifest.json``. A model with several target contrasts
            writes into one folder per contrast.
        format: nifti, mha, nrrd or dicom (for DICOM input); None: the format of the input.
        series: which DICOM series to use if a folder holds several.
        rules: rules that select series in folders of mixed studies, see ``series.load_rules``.
        memory_gb: memory limit of a whole-volume pass, GiB; None: inference.memory_gb. Scans held in memory meanwhile
            may take a quarter of it, and a scan that takes more than half of it is refused.
        watch: watch the folder ``source`` until interrupted, and convert each scan whose files have not changed for
            this many seconds; failed scans are tried again, see ``watch.arrivals``. KeyboardInterrupt waits for the
            cases being written and reports them; a second one stops the waiting.
        checks: the structure check of each output, run in a writer thread, see ``check.checks_for``; None: no verdict.
            An output whose verdict is fail is still written.
        qa_report_sr: also write each verdict as a DICOM structured report, see ``output.verdict_file``. DICOM only.
        private: de-identify; files that name inputs (manifest, index of headers) are written to its folder, and
            ``deidentification.csv`` to ``output``. DICOM only.
        cluster: convert on the machines of this cluster, which need access to the same files; None: in this process.
        samples: translate each scan this often: the outputs are means, and their standard deviations are written to
            ``output``/deviation; see ``uncertainty``. None: once.
        overwrite: replace the result of another run in ``output`` (see ``io.claim``), or an existing output file.
        done: called after each scan with its result, its number and the number of scans (0: unknown); not called if a
            scan fails again with the same error.
        stage: called when a case starts to be read, translated or written (its check and files), with this word; not
            called with a cluster.
        finish: called once at the end with the returned results, while the folders are still locked.

    Returns:
        One entry per scan, failures included; for a scan that was converted several times, the last one.

    Raises:
        InputError: there is nothing to convert, or the output cannot be written.
    """
    options = Options(format, series, memory_gb, checks, qa_report_sr, private, samples)
    check_translates(model)
    check_run(model, output, options)
    source = require_path(source) if isinstance(source, Path) and watch is None else source
    single, record = has_ending(output, ENDINGS), output if private is None else private.folder
    failed: set[Files] = set()
    with ExitStack() as stack:
        for claim in _claims(model, source, output, options, rules, overwrite):
            stack.enter_context(claim)
        if watch is not None:
            scans, count = _arriving(model, source, output, rules, watch, failed), 0
        else:
            scans, count = _found(model, source, output, options, rules)
        check_count(model, source, output, count)
        with Manifest(None if single else record, model_description(model)) as manifest:
            if isinstance(source, Path) and not single and private is None and is_bids(source):
                write_text(output / TABLE, derivatives_description(source, model.info.sha256[:12]))
                write_text(output / ".bidsignore", IGNORED)
            cases = Cases(model, manifest, output, options, stage)
            jobs = cases.converted(scans) if cluster is None else converted_by(cluster, cases, scans)
            results = _collected(jobs, cases, failed, count, watch is not None, done)
            if private is not None and not single:
                private.write_changes(output, manifest.cases.values())
            if private is not None:
                private.warn_of_shared_ids(manifest.cases.values())
            if isinstance(source, Path) and not single and watch is None:
                _warn_of_earlier(output, manifest, results, source)
            if single and private is None and all(result.error is None for result in results):
                manifest.write(manifest_of_file(output))
        finish(results)
        return results


def _arriving(
    model: Model, source: object, output: Path, rules: Rules | None, watch: float, failed: set[Files]
) -> Iterator[Scan | None]:
    """The scans that arrive in a watched folder; ``failed``: files of scans to try again after a pause."""
    if has_ending(output, ENDINGS) or not isinstance(source, Path):
        raise InputError(
            "option-watch-not-folders",
            f"--watch needs a folder as input and a folder as output, not {source} and {output}",
        )
    if rules is not None:
        raise InputError(
            "option-watch-with-rules",
            "--watch converts every series that arrives and cannot apply --rules; omit one of the two",
        )
    if source.is_dir() and is_bids(source):
        raise InputError(
            "option-watch-with-bids",
            f"{source} is a BIDS data set, and --watch converts every volume that arrives, whatever its contrast; omit "
            "--watch, and run translate again when images were added",
        )
    return arrivals(source, output, model.settings.data.sources, watch, failed)


def _found(
    model: Model,
    source: Path | Sequence[Path | Files] | Iterator[Scan | None],
    output: Path,
    options: Options,
    rules: Rules | None,
) -> tuple[Iterator[Scan | None], int]:
    """The scans to convert and their number; 0: unknown."""
    if isinstance(source, Iterator):
        return source, 0
    if isinstance(source, Path):
        record = output if options.private is None else options.private.folder
        index = None if has_ending(output, ENDINGS) else record / "dicom_index.sqlite"
        found = find_scans(source, model.settings.data.sources, series=options.series, rules=rules, index=index)
        if not found:
            raise InputError(
                "rules-choose-nothing",
                f"{source} holds no series that the rules select; see docs/how-to/choose_series.md",
            )
    else:
        found = [_scan_of(files) for files in source]
    return _one_by_one(found), len(found)


def _one_by_one(scans: list[Scan]) -> Iterator[Scan]:
    """Yield scans one by one and free each: the headers of a large cohort would fill memory."""
    scans.reverse()
    while scans:
        yield scans.pop()


def _scan_of(files: Path | Files) -> Scan:
    first, *others = (files,) if isinstance(files, Path) else files
    return Scan(scan_of_file(first).case, tuple(path.resolve() for path in (first, *others)))


def _collected(
    jobs: Generator[Job, None, None],
    cases: Cases,
    failed: set[Files],
    count: int,
    watching: bool,
    done: Callable[[Converted, int, int], None],
) -> list[Converted]:
    """Run the jobs, report each result to ``done``, and return them in the order of the scans.

    While watching, a scan that comes again replaces its earlier result, and KeyboardInterrupt ends the run.
    """
    results: dict[int, Converted] = {}
    numbers: dict[str, int] = {}  # manifest key: number of the first result

    def report(job: Job) -> None:
        number = numbers.setdefault(job.key, job.number) if watching else job.number
        before, results[number] = results.get(number), job.entry
        cases.recorded.pop(job.number, None)
        if job.entry.error:
            failed.add(job.scan.files)
        else:
            failed.discard(job.scan.files)
        if before is None or before.error is None or before.error != job.entry.error:
            done(job.entry, len(results), count)

    try:
        with closing(jobs):
            for job in jobs:
                report(job)
    except KeyboardInterrupt:
        if not watching:
            raise
        for number in sorted(cases.recorded):
            report(cases.recorded[number])
    return [results[number] for number in sorted(results)]


def _warn_of_earlier(output: Path, manifest: Manifest, results: Sequence[Converted], source: Path) -> None:
    """Log a warning that names the outputs of earlier runs whose scans are not in the input folder any more."""
    now = {Path(result.output).name for result in results}
    earlier = []
    for record in manifest.cases.values():
        place = Path(str(record.get("output", "")))
        places = [place, *(output / folder / place.name for folder in record.get("contrasts") or [""])]  # as moved
        if place.name not in now and any(each.exists() for each in places):
            earlier.append(place.name)
    if earlier:
        log.warning(
            "warning: %s also holds %d result(s) of earlier runs whose scans are not in %s (%s); delete them if these "
            "scans were withdrawn",
            *(output, len(earlier), source, one_line(shortened_list(earlier))),
        )


def _claims(
    model: Model, source: object, output: Path, options: Options, rules: Rules | None, overwrite: bool
) -> Iterator[AbstractContextManager[object]]:
    """Claim the folders of a run. In a de-identified run, only the claim of the private folder names inputs."""
    check_output_is_not_input(output, source if isinstance(source, Path) else None, model.folder)
    if has_ending(output, ENDINGS):
        data, manifest = data_file_of(output), manifest_of_file(output)
        beside = [] if data is None else [data]
        if options.private is None and not (is_manifest(manifest) and not describes_other(manifest, output)):
            beside.append(manifest)
        yield claimed_file(output, *beside, overwrite=overwrite)
        return
    about: dict[str, object] = {"command": "translate", "model": model.info.sha256, "target": model.target}
    about |= {"format": options.format, "series": options.series}
    if options.samples is not None:
        about["samples"] = options.samples
    about["rules"] = rules and rules.model_dump_json(exclude_defaults=True)
    if isinstance(source, Path):
        about["input"] = source
    private = options.private
    if private is not None:
        about["deidentified"] = private.dates
        yield claimed(private.folder, about, overwrite=overwrite, besides=["key"], free=())
        place = source if isinstance(source, Path) else output
        settings = json.dumps({**about, "input": os.path.relpath(os.path.realpath(place), os.path.realpath(output))})
        about = {
            "command": "translate --deidentify",
            "input or settings": private.deidentifier.pseudonym("run", settings),
        }
    yield claimed(output, about, overwrite=overwrite)

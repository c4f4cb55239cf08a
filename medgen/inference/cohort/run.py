"""A whole cohort through a model: skips what is done, survives a kill, and one bad scan never stops it."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

from medgen.checkpoint import Model
from medgen.cluster import Cluster
from medgen.errors import InputError
from medgen.inference.cohort.manifest import Manifest, about
from medgen.inference.cohort.watch import arrivals
from medgen.inference.deidentified_output import Private
from medgen.inference.inputs import Scan, find_scans, named
from medgen.inference.job import FORMATS, Converted, Job, Options
from medgen.inference.pipeline import Cases
from medgen.inference.predict import check_windows
from medgen.inference.series import Rules
from medgen.io.claim import apart, claimed, claimed_file
from medgen.io.paths import ENDINGS, NIFTI_ENDINGS, has_ending, require_path
from medgen.qa.carried import beside
from medgen.qa.run import Checks

NAMES = {"nifti": NIFTI_ENDINGS, "mha": (".mha", ".mhd"), "nrrd": (".nrrd", ".nhdr"), "dicom": ()}
IMAGES = {".dcm", ".ima", ".img", ".hdr", ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npy", ".npz", ".zip", ".gz"}


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
    overwrite: bool = False,
    done: Callable[[Converted, int, int], None] = lambda *_: None,
    finish: Callable[[list[Converted]], None] = lambda _: None,
) -> list[Converted]:
    """Translate a volume, a folder of volumes, a DICOM series folder, or a folder of such folders.

    While one scan is translated, the next is read and those before are checked and written.

    Args:
        model: on the device to use.
        source: the path, or the scans themselves. A model of several source contrasts takes a folder that holds a
            folder for each, or tuples of their files. An iterator gives scans as they come, None while there are none.
        output: a volume's file name (one input only), else a folder that gets ``CASE.nii.gz`` (or the input's
            own format; for DICOM a folder CASE with a derived series) and ``manifest.json`` with hashes of inputs
            and outputs; beside one file it is named ``CASE.manifest.json``. A model of several target contrasts
            writes into a folder for each.
        format: nifti, mha, nrrd or dicom (for DICOM input); None keeps the input's.
        series: which DICOM series, where a folder holds several.
        rules: the same by rules, for folders of mixed studies, see ``series.load_rules``.
        memory_gb: bound on a whole-volume pass, GiB; scans held beside it take a quarter of it or wait, and one that
            alone takes more than half of it is refused. None: the settings' one.
        watch: convert what arrives in the folder ``source`` once its files have not changed for so many seconds, and
            again what failed, see ``watch.arrivals``, until interrupted. KeyboardInterrupt ends it well: what is being
            written is waited for and told like the rest; a second one ends the waiting.
        checks: how each conversion is held against its source, in a writer's thread, see ``verdict.checks_for``;
            None: it gets no verdict. One that fails is written all the same, and told.
        qa_report_sr: write each verdict as a DICOM structured report, too, see ``output.verdict_file``. DICOM only.
        private: de-identify; what names the inputs (the manifest, the index of headers) goes there and ``output``
            gets ``deidentification.csv``. DICOM only.
        cluster: convert on its machines, which have to see the same files; None: in this process.
        overwrite: replace the result of another run in ``output`` (see ``io.claim``), or a file of that name.
        done: called after each scan with its result, its number and the count (0: unknown); not where a scan fails
            again as it did before.
        finish: called once at the end with what is returned, while the folders are still held.

    Returns:
        One entry a scan, failures included; of one that came several times, the last.

    Raises:
        InputError: nothing to convert, or an output that cannot be.
    """
    if format is not None and format not in FORMATS:
        raise InputError("option-format-unknown", f"--format {format}: unknown; choose one of {', '.join(FORMATS)}")
    if format is not None and has_ending(output, ENDINGS) and not has_ending(output, NAMES[format]):
        raise InputError(
            "output-name-format-differs",
            f"{output} is not named as --format {format} is; leave the option out or name it otherwise",
        )
    if output.suffix.lower() in IMAGES and not has_ending(output, ENDINGS) and not output.is_dir():
        raise InputError(
            "output-extension-unknown",
            f"{output}: {output.suffix} is not written; give a folder, or a name in {' '.join(ENDINGS)}",
        )
    if model.settings.label_source:
        raise InputError("model-needs-label-maps", f"{model.folder} makes images of label maps; use medgen synthesize")
    if qa_report_sr and checks is None:
        raise InputError(
            "option-verdict-without-checks",
            "--qa-report-sr writes down the verdict, and --qa-limits none gives none; leave one of the two out",
        )
    check_windows(model, memory_gb)
    options = Options(format, series, memory_gb, checks, qa_report_sr, private)
    given = require_path(source) if isinstance(source, Path) and watch is None else source
    with ExitStack() as stack:
        for claim in _claims(model, given, output, options, rules, overwrite):
            stack.enter_context(claim)
        results = _converted(model, given, output, options, rules, watch, cluster, done)
        finish(results)
        return results


def _converted(
    model: Model,
    source: Path | Sequence[Path | tuple[Path, ...]] | Iterator[Scan | None],
    output: Path,
    options: Options,
    rules: Rules | None,
    watch: float | None,
    cluster: Cluster | None,
    done: Callable[[Converted, int, int], None],
) -> list[Converted]:
    """``convert``, once its folders are claimed."""
    data, series, private = model.settings.data, options.series, options.private
    single = has_ending(output, ENDINGS)
    kept = output if private is None else private.folder
    scans: Iterable[Scan | None]
    failed: set[tuple[Path, ...]] = set()
    count = 0
    if watch is not None:
        if single or not isinstance(source, Path):
            raise InputError(
                "option-watch-not-folders",
                f"--watch converts what arrives in a folder into a folder, not {source} into {output}",
            )
        if rules is not None:
            raise InputError(
                "option-watch-with-rules",
                "--watch converts every series that arrives, --rules choose some; leave one of the two out",
            )
        scans = arrivals(source, output, data.sources, watch, failed)
    elif isinstance(source, Iterator):
        scans = source
    else:
        if isinstance(source, Path):
            index = None if single else kept / "dicom_index.sqlite"
            found = find_scans(source, data.sources, series=series, rules=rules, index=index)
            if not found:
                raise InputError(
                    "rules-choose-nothing",
                    f"{source} holds no series that the rules choose; see docs/how-to/choose_series.md",
                )
        else:
            found = [_given(scan) for scan in source]
        scans, count = _taken(found), len(found)
    if single and count > 1:
        raise InputError(
            "output-file-for-many-scans",
            f"{source} holds {count} scans but {output} is one file; give a folder as output",
        )
    if single and len(data.targets) > 1:
        raise InputError(
            "output-file-for-many-targets",
            f"{output} is one file but the model makes {', '.join(data.targets)}; give a folder as output",
        )
    if cluster is not None:
        from medgen.inference.cohort.distributed import converted_by
    folders = [output / target for target in data.targets] if len(data.targets) > 1 else [output]
    with Manifest(None if single else kept, about(model)) as manifest:
        cases = Cases(model, manifest, output, [] if single else folders, options)
        results: dict[int, Converted] = {}
        numbers: dict[str, int] = {}  # place in the manifest: number of the first result

        def tell(job: Job) -> None:
            number = job.number if watch is None else numbers.setdefault(job.key, job.number)
            before, results[number] = results.get(number), job.entry
            cases.recorded.pop(job.number, None)
            if job.entry.error:
                failed.add(job.scan.files)
            else:
                failed.discard(job.scan.files)
            if before is None or before.error is None or before.error != job.entry.error:
                done(job.entry, len(results), count)

        jobs = cases.converted(scans) if cluster is None else converted_by(cluster, cases, scans)
        try:
            with closing(jobs):
                for job in jobs:
                    tell(job)
        except KeyboardInterrupt:
            if watch is None:
                raise
            for number in sorted(cases.recorded):
                tell(cases.recorded[number])
        if private is not None and not single:
            private.tell(output, manifest.cases.values())
        if single and private is None and all(result.error is None for result in results.values()):
            manifest.write(beside(output))
    return [results[number] for number in sorted(results)]


def _taken(scans: list[Scan]) -> Iterator[Scan]:
    """Each once, and not held longer: of a large cohort the headers alone fill memory."""
    scans.reverse()
    while scans:
        yield scans.pop()


def _claims(
    model: Model, source: object, output: Path, options: Options, rules: Rules | None, overwrite: bool
) -> Iterator[AbstractContextManager[object]]:
    """The folders that a run writes. What names its input stands in the private one of a run that has one."""
    if isinstance(source, Path):
        apart(output, source)
    if has_ending(output, ENDINGS):
        yield claimed_file(output, overwrite=overwrite)
        return
    about: dict[str, object] = {"command": "translate", "model": model.info.sha256, "target": model.target}
    about |= {"format": options.format, "series": options.series}
    about["rules"] = rules and rules.model_dump_json(exclude_defaults=True)
    if isinstance(source, Path):
        about["input"] = source
    private = options.private
    if private is not None:
        about["deidentified"] = private.dates
        yield claimed(private.folder, about, overwrite=overwrite, besides=["key"], free=())
        given = source if isinstance(source, Path) else output
        named = json.dumps({**about, "input": os.path.relpath(os.path.realpath(given), os.path.realpath(output))})
        about = {"command": "translate --deidentify", "input or settings": private.deidentifier.pseudonym("run", named)}
    yield claimed(output, about, overwrite=overwrite)


def _given(scan: Path | tuple[Path, ...]) -> Scan:
    first, *others = (scan,) if isinstance(scan, Path) else scan
    return Scan(named(first).case, tuple(path.resolve() for path in (first, *others)))

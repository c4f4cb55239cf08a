"""A whole cohort through a model: skips what is done, survives a kill, and one bad scan never stops it."""

import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from medgen.checkpoint import Model
from medgen.data.codecs import fit_range
from medgen.data.fingerprint import describe, strangeness
from medgen.inference.inputs import Scan, find_scans, named, read_scan, scan_grids, scan_hash, sha256
from medgen.inference.manifest import Manifest
from medgen.inference.output import check_outputs, write_outputs
from medgen.inference.overlap import overlapped
from medgen.inference.predict import translate_case
from medgen.inference.series import Rules
from medgen.inference.watch import arrivals
from medgen.io.names import checked_name
from medgen.io.volume import (
    ENDINGS,
    Volume,
    has_ending,
    to_canonical,
)
from medgen.types import InputError

SMALL_GB = 1 / 16  # a scan of this much is read whatever the bound
FORMATS = {"nifti": ".nii.gz", "mha": ".mha", "nrrd": ".nrrd", "dicom": ""}  # a series is a folder


@dataclass
class Converted:
    """What became of one case. ``status``: converted, skipped (done before) or failed (``error`` says why).

    ``input`` and ``output`` are the first contrast's files; the hashes are over all.
    """

    case: str
    input: str
    output: str
    status: str = "failed"
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    input_sha256: str = ""
    output_sha256: str = ""
    series: str | None = None


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
    done: Callable[[Converted, int, int], None] = lambda *_: None,
) -> list[Converted]:
    """Translate a volume, a folder of volumes, a DICOM series folder, or a folder of such folders.

    While one scan is translated, the next is read and the one before is written.

    Args:
        model: on the device to use.
        source: the path, or the scans themselves. A model of several source contrasts takes a folder that holds a
            folder for each, or tuples of their files. An iterator gives scans as they come, None while there are none.
        output: a volume's file name (one input only), else a folder that gets ``CASE.nii.gz`` (or the input's
            own format; for DICOM a folder CASE with a derived series) and ``manifest.json`` with hashes of inputs
            and outputs. A model of several target contrasts writes into a folder for each.
        format: nifti, mha, nrrd or dicom (for DICOM input); None keeps the input's.
        series: which DICOM series, where a folder holds several.
        rules: the same by rules, for folders of mixed studies, see ``series.load_rules``.
        memory_gb: bound on a whole-volume pass, GiB; scans held beside it take a quarter of it or wait, and one that
            alone takes more than half of it is refused. None: the settings' one.
        watch: convert what arrives in the folder ``source`` once its files have not changed for so many seconds,
            until interrupted (KeyboardInterrupt ends it well).
        done: called after each scan with its result, its number and the count (0: unknown).

    Returns:
        One entry a scan, failures included.

    Raises:
        InputError: nothing to convert, or an output that cannot be.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"--format {format}: unknown; choose one of {', '.join(FORMATS)}")
    if model.settings.label_source:
        raise InputError(f"{model.folder} makes images of label maps; use medgen synthesize")
    data = model.settings.data
    single = has_ending(output, ENDINGS)
    scans: Iterable[Scan | None]
    count = 0
    if watch is not None:
        if single or not isinstance(source, Path):
            raise InputError(f"--watch converts what arrives in a folder into a folder, not {source} into {output}")
        scans = arrivals(source, output, data.sources, watch)
    elif isinstance(source, Iterator):
        scans = source
    else:
        if isinstance(source, Path):
            index = None if single else output / "dicom_index.sqlite"
            found = find_scans(source, data.sources, series=series, rules=rules, index=index)
        else:
            found = [_given(scan) for scan in source]
        scans, count = found, len(found)
    if single and count > 1:
        raise InputError(f"{source} holds {count} scans but {output} is one file; give a folder as output")
    if single and len(data.targets) > 1:
        raise InputError(f"{output} is one file but the model makes {', '.join(data.targets)}; give a folder as output")
    folders = [output / target for target in data.targets] if len(data.targets) > 1 else [output]
    with Manifest(None if single else output, model) as manifest:
        cases = _Cases(model, manifest, output, [] if single else folders, format, series, memory_gb)
        results = []
        try:
            for job in cases.converted(scans):
                results.append(job.entry)
                done(job.entry, len(results), count)
        except KeyboardInterrupt:
            if watch is None:
                raise
    return results


def _given(scan: Path | tuple[Path, ...]) -> Scan:
    first, *others = (scan,) if isinstance(scan, Path) else scan
    return Scan(named(first).case, tuple(path.resolve() for path in (first, *others)))


@dataclass
class _Job:
    """A case on its way: what is read, then made, and dropped once written. ``key`` is its place in the manifest."""

    scan: Scan
    entry: Converted
    targets: list[Path]
    key: str
    volumes: list[Volume] = field(default_factory=list)
    made: list[Volume] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.entry.error is None and self.entry.status != "skipped"


class _Cases:
    """The stages of every case of a run. Each runs in a thread of its own, one case at a time."""

    def __init__(
        self,
        model: Model,
        manifest: Manifest,
        output: Path,
        folders: list[Path],
        format: str | None,
        series: str | None,
        memory_gb: float | None,
    ) -> None:
        self.model, self.manifest, self.output, self.folders = model, manifest, output, folders
        self.format, self.series, self.memory_gb = format, series, memory_gb
        self.bound_gb = model.settings.inference.memory_gb if memory_gb is None else memory_gb
        self.made_of: dict[str, Path] = {}  # output: its input
        self.keys: dict[str, str] = {}  # place in the manifest: output
        for folder in folders:
            _clear(folder)

    def converted(self, scans: Iterable[Scan | None]) -> Iterator[_Job]:
        most = int(self.bound_gb * 2**30 / 4)
        return overlapped(self._folding(scans), self.read, self.translate, self.write, self.held, most)

    def _folding(self, scans: Iterable[Scan | None]) -> Iterator[Scan | None]:
        """While nothing arrives the manifest is made whole."""
        for scan in scans:
            yield scan
            if scan is None:  # what was under way is written by now
                with suppress(InputError):  # a full disk: the journal has it, and the end of the run tells
                    self.manifest.fold()

    def held(self, job: _Job) -> int:
        """Bytes of a case once translated."""
        outputs = len(self.model.settings.data.targets)
        return sum(v.data.nbytes for v in job.volumes) + outputs * sum(v.data.nbytes for v in job.volumes[:1])

    def read(self, scan: Scan) -> _Job:
        path = scan.files[0]
        name = scan.case + _ending(path, self.format)
        targets = [folder / name for folder in self.folders] or [self.output]
        entry = Converted(scan.case, str(path), str(targets[0]), series=self.series)
        key = scan.case if self.keys.setdefault(scan.case, entry.output) == entry.output else path.name
        job = _Job(scan, entry, targets, key)
        with _faults(job):
            self._check(job)
            entry.input_sha256 = scan_hash(scan)
            told = {k: getattr(entry, k) for k in ("input_sha256", "output", "series")}
            if self.manifest.holds(key, told, targets):
                old = self.manifest.cases[key]
                entry.status, entry.warnings, entry.output_sha256 = (
                    "skipped",
                    old.get("warnings", []),
                    old["output_sha256"],
                )
                return job
            self._check_size(scan)
            job.volumes = read_scan(scan, self.series)
            entry.warnings = out_of_distribution(self.model, job.volumes)
        return job

    def _check(self, job: _Job) -> None:
        scan, output = job.scan, job.entry.output
        if scan.fault:
            raise InputError(scan.fault)
        checked_name(scan.case, scan.files[0])
        if self.made_of.setdefault(output, scan.files[0]) != scan.files[0]:
            job.key = scan.files[0].name
            raise InputError(f"{scan.files[0]}: another scan of this folder is named {scan.case} too; rename one")
        for target in job.targets:
            if target.exists() and target.resolve() in [file.resolve() for file in scan.files]:
                raise InputError(f"{target.resolve()} is input and output at once; choose another output")
        check_outputs(job.targets, scan.files)

    def _check_size(self, scan: Scan) -> None:
        """Refuse what a header claims before memory is taken for it."""
        grids = scan_grids(scan, self.series)
        gb = sum(math.prod(grid.shape) for grid in grids) * 4 / 2**30
        if self.model.settings.inference.spacing == "resample":
            resampled = [math.prod(grid.spacing) / math.prod(self.model.info.spacing) for grid in grids]
            gb *= max(1.0, *resampled)
        if gb > max(self.bound_gb / 2, SMALL_GB):
            raise InputError(
                f"{scan.files[0]} claims {grids[0].describe()}: {gb:.3g} GiB in memory at the model's spacing, above "
                f"half of --memory-gb {self.bound_gb:g}; raise that, or export the scan again if it is not so large"
            )

    def translate(self, job: _Job) -> None:
        with _faults(job):
            if job.open:
                job.made = translate_case(self.model, job.volumes, memory_gb=self.memory_gb)

    def write(self, job: _Job) -> None:
        with _faults(job):
            if job.open:
                write_outputs(job.targets, job.made, job.volumes, self.model)
                job.entry.output_sha256 = sha256(job.targets)
                job.entry.status = "converted"
        job.volumes, job.made = [], []
        job.entry.seconds = round(job.entry.seconds, 2)
        if job.entry.status != "skipped":
            self.manifest.add(job.key, job.entry)


@contextmanager
def _faults(job: _Job) -> Iterator[None]:
    """What goes wrong with a case is told in its entry; the other cases go on. Counts the time it takes, too."""
    started, entry, path = time.monotonic(), job.entry, job.scan.files[0]
    try:
        yield
    except InputError as error:
        known = any(file.name in str(error) for file in job.scan.files)
        entry.error = str(error) if known or job.scan.fault else f"{path}: {error}"
    except Exception as error:
        if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error)):
            entry.error = f"{path}: not enough memory for this scan; lower --memory-gb"
        else:
            at = traceback.extract_tb(error.__traceback__)[-1]
            what = (
                f"{type(error).__name__} in {Path(at.filename).name}, line {at.lineno}: {' '.join(str(error).split())}"
            )
            entry.error = f"{path}: medgen did not expect this scan ({what}); please report it"
    finally:
        entry.seconds += time.monotonic() - started
        if entry.error:
            job.volumes, job.made = [], []


def _clear(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in folder.glob(".part-*"):
        path.unlink(missing_ok=True)
    for path in folder.glob(".medgen-*"):
        shutil.rmtree(path, ignore_errors=True)


def out_of_distribution(model: Model, volumes: Sequence[Volume]) -> list[str]:
    """Why a case lies outside what the model was trained on; empty when it does not.

    Args:
        volumes: one a contrast, in the order of data.sources.
    """
    codec = model.settings.codec.source.model_dump(exclude={"follow"})
    one_grid = model.settings.data.spacing is not None  # then every voxel size is meant to be brought to it
    names = model.settings.data.sources
    sentences: list[str] = []
    for name, volume, scans in zip(names, volumes, model.info.training_scans, strict=False):
        upright = to_canonical(volume)
        look = describe(upright.data, upright.spacing, fit_range(upright.data, **codec))
        where = f"{name}: " if len(names) > 1 else ""
        for reason in strangeness(look, [scan.model_dump() for scan in scans], check_spacing=not one_grid):
            sentences.append(f"{where}outside the training distribution: {reason}")
    return sentences


def _ending(path: Path, format: str | None) -> str:
    if format is not None:
        return FORMATS[format]
    known = [e for e in ENDINGS if path.is_file() and path.name.lower().endswith(e)]
    # header-and-data pairs come back as one file
    return {".mhd": ".mha", ".nhdr": ".nrrd"}.get(known[0], known[0]) if known else FORMATS["dicom"]

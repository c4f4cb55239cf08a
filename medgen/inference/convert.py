"""A whole cohort through a model: skips what is done, survives a kill, and one bad scan never stops it."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medgen.checkpoint import Model
from medgen.data.codecs import fit_range
from medgen.data.fingerprint import describe, strangeness
from medgen.inference.predict import translate_volume
from medgen.io.volume import (
    ENDINGS,
    Volume,
    case_name,
    find_volumes,
    has_ending,
    read_volume,
    to_canonical,
    write_volume,
    written_aside,
)
from medgen.types import InputError

FORMATS = {"nifti": ".nii.gz", "mha": ".mha", "nrrd": ".nrrd"}


@dataclass
class Converted:
    """What became of one scan. ``status``: converted, skipped (done before) or failed (``error`` says why)."""

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
    source: Path | Sequence[Path],
    output: Path,
    *,
    format: str | None = None,
    series: str | None = None,
    memory_gb: float | None = None,
    done: Callable[[Converted, int, int], None] = lambda *_: None,
) -> list[Converted]:
    """Translate a volume, a folder of volumes, a DICOM series folder, or a folder of such folders.

    Args:
        model: on the device to use.
        source: the path, or the scans themselves.
        output: a volume's file name (one input only), else a folder that gets ``CASE.nii.gz`` (or the input's
            own format) and ``manifest.json`` with hashes of inputs and outputs.
        format: nifti, mha or nrrd; None keeps the input's (NIfTI for DICOM).
        series: which DICOM series, where a folder holds several.
        memory_gb: bound on a whole-volume pass.
        done: called after each scan with its result, its number and the count.

    Returns:
        One entry a scan, failures included.

    Raises:
        InputError: nothing to convert, or an output that cannot be.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"--format {format}: unknown; choose one of {', '.join(FORMATS)}")
    inputs = find_inputs(source) if isinstance(source, Path) else list(source)
    inputs = [path.resolve() for path in inputs]  # so that "." has a name
    single = has_ending(output, ENDINGS)
    if single and len(inputs) > 1:
        raise InputError(f"{source} holds {len(inputs)} scans but {output} is one file; give a folder as output")
    manifest = Manifest(None if single else output, model)
    results: list[Converted] = []
    for i, path in enumerate(inputs):
        target = output if single else output / (case_name(path) + _ending(path, format))
        entry = Converted(case_name(path), str(path), str(target), series=series)
        _convert_one(model, path, target, entry, manifest, results, series=series, memory_gb=memory_gb)
        results.append(entry)
        if entry.status != "skipped":
            manifest.add(entry)
        done(entry, i + 1, len(inputs))
    return results


def _convert_one(
    model: Model,
    path: Path,
    target: Path,
    entry: Converted,
    manifest: "Manifest",
    earlier: list[Converted],
    **options: Any,
) -> None:
    started = time.monotonic()
    try:
        if any(other.output == entry.output for other in earlier):
            raise InputError(f"{path}: another scan of this folder is named {entry.case} too; rename one")
        if target.exists() and target.resolve() == path.resolve():
            raise InputError(f"{path} is input and output at once; choose another output")
        entry.input_sha256 = sha256(path)
        if manifest.holds(entry):
            entry.status, entry.warnings = "skipped", manifest.cases[entry.case]["warnings"]
            return
        volume = read_volume(path, series=options["series"])
        entry.warnings = out_of_distribution(model, volume)
        write_volume(target, translate_volume(model, volume, memory_gb=options["memory_gb"]))
        entry.output_sha256 = sha256(target)
        entry.status = "converted"
    except InputError as error:
        entry.error = str(error) if path.name in str(error) else f"{path}: {error}"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        entry.error = f"{path}: not enough memory for this scan; lower --memory-gb"
    entry.seconds = round(time.monotonic() - started, 2)


class Manifest:
    """``manifest.json`` of an output folder, whole on disk after every scan."""

    def __init__(self, folder: Path | None, model: Model) -> None:
        self.path = None if folder is None else folder / "manifest.json"
        self.model = {"folder": str(model.folder), "sha256": model.info.sha256, "step": model.info.step}
        self.cases: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            try:
                old = json.loads(self.path.read_text())
                if old["model"]["sha256"] == model.info.sha256:
                    self.cases = dict(old["cases"])
            except (ValueError, KeyError, TypeError, OSError):
                raise InputError(
                    f"{self.path} is not a manifest of medgen; move it away or choose another output"
                ) from None

    def holds(self, entry: Converted) -> bool:
        """Whether this input was converted by this model before and its output is still the same."""
        old = self.cases.get(entry.case)
        if not old or old.get("status") != "converted" or old.get("input_sha256") != entry.input_sha256:
            return False
        output = Path(entry.output)
        if old.get("output") != entry.output or old.get("series") != entry.series:
            return False
        if not output.is_file() or sha256(output) != old.get("output_sha256"):
            return False
        entry.output_sha256 = old["output_sha256"]
        return True

    def add(self, entry: Converted) -> None:
        if self.path is None:
            return
        self.cases[entry.case] = asdict(entry)
        with written_aside(self.path) as aside:
            aside.write_text(json.dumps({"model": self.model, "cases": self.cases}, indent=1))


def find_inputs(source: Path) -> list[Path]:
    """The scans that a path stands for: itself, the volumes in it, its DICOM series, or its subfolders' ones.

    Raises:
        InputError: the path does not exist, or there is nothing in it.
    """
    source = Path(source)
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise InputError(f"{source} does not exist; give a volume, a folder of volumes or a DICOM series folder")
    volumes = find_volumes(source)
    if volumes:
        return volumes
    if any(p.is_file() and not p.name.startswith(".") for p in source.iterdir()):
        return [source]
    folders = sorted({p.parent for p in source.rglob("*") if p.is_file() and not p.name.startswith(".")})
    if not folders:
        raise InputError(f"{source} is empty: it holds no volumes ({' '.join(ENDINGS)}) and no DICOM series")
    return folders


def out_of_distribution(model: Model, volume: Volume) -> list[str]:
    """Why the scan lies outside what the model was trained on; empty when it does not."""
    upright = to_canonical(volume)
    code = fit_range(upright.data, **model.settings.codec.source.model_dump(exclude={"follow"}))
    training = [scan.model_dump() for scan in model.info.training_scans]
    one_grid = model.settings.data.spacing is not None  # then every voxel size is meant to be brought to it
    look = describe(upright.data, upright.spacing, code)
    reasons = strangeness(look, training, check_spacing=not one_grid)
    return [f"outside the training distribution: {reason}" for reason in reasons]


def sha256(path: Path) -> str:
    """Hash of a volume's file, or of a DICOM folder's files in order of their paths."""
    digest = hashlib.sha256()
    for file in _files(path):
        try:
            with open(file, "rb") as stream:
                while block := stream.read(2**20):
                    digest.update(block)
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror}); check its permissions") from None
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir() or not has_ending(path, ENDINGS):  # one DICOM file stands for the series around it
        yield from sorted(p for p in (path if path.is_dir() else path.parent).rglob("*") if p.is_file())
    else:
        yield path


def _ending(path: Path, format: str | None) -> str:
    if format is not None:
        return FORMATS[format]
    known = [e for e in ENDINGS if path.is_file() and path.name.lower().endswith(e)]
    # header-and-data pairs come back as one file
    return {".mhd": ".mha", ".nhdr": ".nrrd"}.get(known[0], known[0]) if known else ".nii.gz"

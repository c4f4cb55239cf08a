"""A whole cohort through a model: skips what is done, survives a kill, and one bad scan never stops it."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medgen.checkpoint import Model
from medgen.data.codecs import fit_range
from medgen.data.fingerprint import describe, strangeness
from medgen.inference.inputs import Scan, find_scans, named, read_scan, scan_hash, sha256
from medgen.inference.output import check_outputs, write_outputs
from medgen.inference.predict import translate_case
from medgen.inference.series import Rules
from medgen.io.volume import (
    ENDINGS,
    Volume,
    has_ending,
    to_canonical,
    written_aside,
)
from medgen.types import InputError

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
    source: Path | Sequence[Path | tuple[Path, ...]],
    output: Path,
    *,
    format: str | None = None,
    series: str | None = None,
    rules: Rules | None = None,
    memory_gb: float | None = None,
    done: Callable[[Converted, int, int], None] = lambda *_: None,
) -> list[Converted]:
    """Translate a volume, a folder of volumes, a DICOM series folder, or a folder of such folders.

    Args:
        model: on the device to use.
        source: the path, or the scans themselves. A model of several source contrasts takes a folder that holds a
            folder for each, or tuples of their files.
        output: a volume's file name (one input only), else a folder that gets ``CASE.nii.gz`` (or the input's
            own format; for DICOM a folder CASE with a derived series) and ``manifest.json`` with hashes of inputs
            and outputs. A model of several target contrasts writes into a folder for each.
        format: nifti, mha, nrrd or dicom (for DICOM input); None keeps the input's.
        series: which DICOM series, where a folder holds several.
        rules: the same by rules, for folders of mixed studies, see ``series.load_rules``.
        memory_gb: bound on a whole-volume pass.
        done: called after each scan with its result, its number and the count.

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
    if isinstance(source, Path):
        index = None if single else output / "dicom_index.sqlite"
        scans = find_scans(source, data.sources, series=series, rules=rules, index=index)
    else:
        scans = [_given(scan) for scan in source]
    if single and len(scans) > 1:
        raise InputError(f"{source} holds {len(scans)} scans but {output} is one file; give a folder as output")
    if single and len(data.targets) > 1:
        raise InputError(f"{output} is one file but the model makes {', '.join(data.targets)}; give a folder as output")
    manifest = Manifest(None if single else output, model)
    results: list[Converted] = []
    for i, scan in enumerate(scans):
        name = scan.case + _ending(scan.files[0], format)
        folders = [output / target for target in data.targets] if len(data.targets) > 1 else [output]
        targets = [output] if single else [folder / name for folder in folders]
        entry = Converted(scan.case, str(scan.files[0]), str(targets[0]), series=series)
        _convert_one(model, scan, targets, entry, manifest, results, series=series, memory_gb=memory_gb)
        results.append(entry)
        if entry.status != "skipped":
            manifest.add(entry)
        done(entry, i + 1, len(scans))
    return results


def _given(scan: Path | tuple[Path, ...]) -> Scan:
    first, *others = (scan,) if isinstance(scan, Path) else scan
    return Scan(named(first).case, tuple(path.resolve() for path in (first, *others)))


def _convert_one(
    model: Model,
    scan: Scan,
    targets: list[Path],
    entry: Converted,
    manifest: "Manifest",
    earlier: list[Converted],
    **options: Any,
) -> None:
    started = time.monotonic()
    path = scan.files[0]
    try:
        if scan.fault:
            raise InputError(scan.fault)
        if any(other.output == entry.output for other in earlier):
            raise InputError(f"{path}: another scan of this folder is named {entry.case} too; rename one")
        for target in targets:
            if target.exists() and target.resolve() in scan.files:
                raise InputError(f"{target.resolve()} is input and output at once; choose another output")
        check_outputs(targets, scan.files)
        entry.input_sha256 = scan_hash(scan)
        if manifest.holds(entry, targets):
            entry.status, entry.warnings = "skipped", manifest.cases[entry.case]["warnings"]
            return
        volumes = read_scan(scan, options["series"])
        entry.warnings = out_of_distribution(model, volumes)
        made = translate_case(model, volumes, memory_gb=options["memory_gb"])
        write_outputs(targets, made, volumes, model)
        entry.output_sha256 = sha256(targets)
        entry.status = "converted"
    except InputError as error:
        known = any(file.name in str(error) for file in scan.files)
        entry.error = str(error) if known or scan.fault else f"{path}: {error}"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        entry.error = f"{path}: not enough memory for this scan; lower --memory-gb"
    entry.seconds = round(time.monotonic() - started, 2)


class Manifest:
    """``manifest.json`` of an output folder, whole on disk after every scan."""

    def __init__(self, folder: Path | None, model: Model) -> None:
        self.path = None if folder is None else folder / "manifest.json"
        told = ("sha256", "step", "weights_sha256", "training_data", "health", "versions", "commit")
        self.model: dict[str, Any] = {
            "folder": str(model.folder),
            "target": model.target,
            "method": model.settings.method["name"],
            **{name: getattr(model.info, name) for name in told},
        }
        self.cases: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            try:
                old = json.loads(self.path.read_text())
                if old["model"]["sha256"] == model.info.sha256 and old["model"].get("target") == model.target:
                    self.cases = dict(old["cases"])
            except (ValueError, KeyError, TypeError, OSError):
                raise InputError(
                    f"{self.path} is not a manifest of medgen; move it away or choose another output"
                ) from None

    def holds(self, entry: Converted, outputs: list[Path]) -> bool:
        """Whether this input was converted by this model before and its outputs are still the same."""
        told = {k: getattr(entry, k) for k in ("input_sha256", "output", "series")}
        if not self.unchanged(entry.case, told, outputs):
            return False
        entry.output_sha256 = self.cases[entry.case]["output_sha256"]
        return True

    def unchanged(self, case: str, told: dict[str, Any], outputs: list[Path]) -> bool:
        """Whether a case is recorded with these values, did not fail, and its outputs are still the same."""
        old = self.cases.get(case)
        if not old or old.get("status") == "failed" or any(old.get(k) != value for k, value in told.items()):
            return False
        return all(path.exists() for path in outputs) and sha256(outputs) == old.get("output_sha256")

    def add(self, entry: Any) -> None:
        """Record a case: a dataclass with its name as ``case``, a ``status`` and ``output_sha256``."""
        if self.path is None:
            return
        self.cases[entry.case] = asdict(entry)
        with written_aside(self.path) as aside:
            aside.write_text(json.dumps({"model": self.model, "cases": self.cases}, indent=1))


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

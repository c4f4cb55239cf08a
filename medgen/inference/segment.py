"""Segment a cohort: write a label map for each scan, or a DICOM segmentation for DICOM input."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medgen import __version__
from medgen.errors import InputError
from medgen.inference.cohort.manifest import Manifest
from medgen.inference.inputs import Scan, find_scans, read_scan, scan_hash
from medgen.inference.output import clear
from medgen.inference.series import Rules
from medgen.io.atomic import write_text
from medgen.io.claim import check_output_is_not_input, claimed
from medgen.io.dicom.derived.segmentation import write_seg
from medgen.io.hashes import sha256_of
from medgen.io.names import checked_name, folded, short_reason
from medgen.io.paths import ENDINGS, has_ending, require_path
from medgen.io.write import write_volume
from medgen.segmentation.load import NamedSegmenter

FORMATS = {"nifti": ".nii.gz", "mha": ".mha", "nrrd": ".nrrd", "dicom": ".dcm"}


@dataclass
class Segmented:
    """Result of one scan. ``status``: segmented, skipped (segmented by an earlier run) or failed (see ``error``)."""

    case: str
    input: str
    output: str
    status: str = "failed"
    error: str | None = None
    warnings: list[str] = field(default_factory=list)
    input_sha256: str = ""
    output_sha256: str = ""
    series: str | None = None


def segment_cohort(
    segmenter: NamedSegmenter,
    source: Path,
    output: Path,
    *,
    format: str | None = None,
    series: str | None = None,
    rules: Rules | None = None,
    overwrite: bool = False,
    done: Callable[[Segmented, int, int], None] = lambda *_: None,
) -> list[Segmented]:
    """Write ``CASE.nii.gz`` (mha, nrrd) or ``CASE.dcm`` for each scan, and ``labels.json`` if label names are known.

    ``segmentations.json`` records hashes of inputs, segmenter and outputs, and recorded scans are skipped. nnU-Net has
    no hash of its weights, so its scans are segmented again.

    Args:
        source, series, rules: see ``inference.cohort.run.convert``.
        output: a folder.
        format: nifti, mha, nrrd or dicom; None: dicom for DICOM input, else nifti.
        overwrite: replace the result of another run in ``output``, see ``io.claim``.
        done: called after each scan with its result, its number and the number of scans.

    Returns:
        One entry per scan, failures included.

    Raises:
        InputError: no scans, an unknown format, or an output that cannot be written.
    """
    if format is not None and format not in FORMATS:
        raise InputError("option-format-unknown", f"--format {format}: unknown; choose one of {', '.join(FORMATS)}")
    require_path(source)
    check_output_is_not_input(output, source, segmenter.text)
    results: list[Segmented] = []
    taken: dict[str, Path] = {}
    about = {"command": "segment", "segmenter": segmenter.text, "weights": segmenter.sha256, "input": source}
    about |= {"format": format, "series": series, "rules": rules and rules.model_dump_json(exclude_defaults=True)}
    with claimed(output, about, overwrite=overwrite):
        scans = find_scans(source, ["image"], series=series, rules=rules, index=output / "dicom_index.sqlite")
        with Manifest(output, {"segmenter": segmenter.text, "sha256": segmenter.sha256}, "segmentations") as manifest:
            clear(output)
            for scan in scans:
                entry = _segmented(segmenter, scan, output, format, series, taken, manifest)
                results.append(entry)
                done(entry, len(results), len(scans))
        if segmenter.names and any(entry.error is None for entry in results):
            table = {name: value for value, name in segmenter.names.items()}
            write_text(output / "labels.json", json.dumps(table, indent=1))
    return results


def _segmented(
    segmenter: NamedSegmenter,
    scan: Scan,
    output: Path,
    format: str | None,
    series: str | None,
    taken: dict[str, Path],
    manifest: Manifest,
) -> Segmented:
    """Segment one scan and record the result; ``taken``: outputs of this run and their inputs."""
    file = scan.files[0]
    kind = format or ("nifti" if has_ending(file, ENDINGS) else "dicom")
    target = output / f"{scan.case}{FORMATS[kind]}"
    entry = Segmented(scan.case, str(file), str(target), series=series)
    key = target.name
    try:
        if scan.fault:
            raise InputError("input-scan-faulty", scan.fault)
        checked_name(scan.case, file)
        if taken.setdefault(folded(entry.output), file) != file:
            key = str(file)
            raise InputError(
                "folder-case-twice", f"{file}: another scan has the same case name, {scan.case}; rename one"
            )
        if target.exists() and target.resolve() == file.resolve():
            raise InputError("output-is-input", f"{file} is both input and output; choose another output")
        entry.input_sha256 = scan_hash(scan)
        expected = {name: getattr(entry, name) for name in ("input_sha256", "output", "series")}
        if segmenter.sha256 and manifest.holds(key, expected, [target], sha256_of):
            old = manifest.cases[key]
            entry.status, entry.output_sha256, entry.warnings = "skipped", old["output_sha256"], old.get("warnings", [])
            return entry
        (volume,) = read_scan(scan, series)
        entry.warnings = [*scan.warnings, *scan.notes, *volume.warnings]
        if kind == "dicom" and volume.frames is None:
            raise InputError(
                "output-source-not-dicom",
                f"{file} is not DICOM, so a DICOM segmentation cannot reference it; use --format nifti",
            )
        values = segmenter.segment(volume)
        labels = replace(volume.replaced(values.astype(np.float32), dtype=_smallest_dtype(values)), header=None)
        if kind == "dicom":
            name = Path(segmenter.text).name or segmenter.text
            write_seg(labels, segmenter.names, file, target, algorithm=name, version=f"medgen {__version__}")
        else:
            write_volume(target, labels)
        entry.output_sha256, entry.status = sha256_of([target]), "segmented"
    except InputError as error:
        entry.error = str(error) if file.name in str(error) else f"{file}: {error}"
    except Exception as error:  # a third-party network may raise anything
        entry.error = f"{file}: the segmenter failed ({type(error).__name__}: {short_reason(error)})"
    manifest.add(key, entry)
    return entry


def _smallest_dtype(values: np.ndarray) -> np.dtype:
    return np.dtype(np.uint8 if values.max() < 256 else np.int32)

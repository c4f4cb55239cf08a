"""Write a converted case as a volume file or a derived DICOM series, and refuse outputs that must not be written."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgen import __version__
from medgen.checkpoint import Model, removes_contrast
from medgen.errors import InputError
from medgen.io.atomic import recover
from medgen.io.claim import remove
from medgen.io.deidentification.deidentify import Changes, Deidentifier
from medgen.io.dicom.derived.references import NOTICE, Derivation
from medgen.io.dicom.derived.write import is_foreign_dicom, write_derived
from medgen.io.dicom.header import read_header
from medgen.io.dicom.units import HU
from medgen.io.names import of_system
from medgen.io.paths import ENDINGS, NIFTI_ENDINGS, UNREAD_ENDINGS, has_ending
from medgen.io.volume import Volume
from medgen.io.write import write_volume
from medgen.model_info import RangeInfo
from medgen.terminology import is_native

DERIVED_FILE_NAME = re.compile(r"\d{5}\.dcm")
LOWEST_HU, AIR_HU = -3100, -200  # HU padding is at least -3072; a range that includes air starts at or below -200
DEVIATIONS = "deviation"  # folder beside the outputs, for their standard deviations
VERDICTS = "verdicts"  # folder beside the series, for the structured reports of their verdicts


def write_outputs(
    targets: Sequence[Path],
    made: Sequence[Volume],
    volumes: Sequence[Volume],
    model: Model,
    deidentifier: Deidentifier | None = None,
) -> Changes:
    """Write the translations of a case: a path with a volume file ending as a volume, any other as a DICOM series.

    Args:
        targets: output paths, one per target contrast.
        made: translated volumes, one per target contrast.
        volumes: the source volumes, in the order of data.sources; a series is derived from the first one.
        deidentifier: de-identifies the series.

    Returns:
        The changes of the deidentifier, over all targets.

    Raises:
        InputError: a series is requested but the source is not DICOM, or has another modality than the output.
    """
    changes = Changes()
    for i, (path, volume) in enumerate(zip(targets, made, strict=True)):
        if has_ending(path, ENDINGS):
            write_volume(path, volume, description=f"{NOTICE}: {derivation(model, i).target}, medgen {__version__}")
        else:
            changes += write_derived(path, volume, derivation(model, i), volumes[1:], deidentifier)
    return changes


def deviation_file(target: Path) -> Path:
    """Path of the standard deviation of an output, with --samples: of the same name in a folder beside it."""
    return target.parent / DEVIATIONS / target.name


def write_deviations(targets: Sequence[Path], deviations: Sequence[Volume], model: Model) -> None:
    """Write the standard deviation of each output, if there are any, to ``deviation_file``. Raises InputError."""
    for i, (target, volume) in enumerate(zip(targets, deviations, strict=False)):
        text = f"{NOTICE}: deviation of {derivation(model, i).target}, medgen {__version__}"
        write_volume(deviation_file(target), volume, description=text)


def verdict_file(series: Path) -> Path:
    """Path of the structured report of a derived series' verdict."""
    return series.parent / VERDICTS / f"{series.name}.dcm"


def write_verdicts(targets: Sequence[Path], verdicts: Sequence[Mapping[str, Any]], model: Model) -> None:
    """Write a structured report of the verdict of each derived series to ``verdict_file``. Raises InputError."""
    from medgen.io.dicom.derived.report import write_qa_report_sr

    for i, (series, verdict) in enumerate(zip(targets, verdicts, strict=True)):
        write_qa_report_sr(verdict, series, verdict_file(series), derivation=derivation(model, i))


def write_reports(targets: Sequence[Path], verdicts: Sequence[Mapping[str, Any]], model: Model, enabled: bool) -> None:
    """Write the structured reports of verdicts if ``enabled``, else remove those of earlier runs. Raises InputError."""
    if enabled:
        write_verdicts(targets, verdicts, model)
        return
    for target in targets:
        if not has_ending(target, ENDINGS):
            remove(verdict_file(target))


def derivation(model: Model, i: int = 0) -> Derivation:
    """DICOM description of how the ``i``-th target of a model is derived."""
    data = model.settings.data
    target, native = model.target or data.targets[i], removes_contrast(model, model.target or data.targets[i])
    if native and not is_native(target):
        target = (
            f"noncontrast ({target})" if len(data.targets) > 1 else "noncontrast"
        )  # tells readers that contrast was removed
    name = model.settings.method.name
    if model.folder is not None:
        folder = model.folder.resolve()
        name = f"{name} {folder.parent.name}/{folder.name}"
    return Derivation(name, model.info.sha256, target, __version__, native)


def check_outputs(targets: Sequence[Path], files: Sequence[Path]) -> None:
    """Refuse, before any work, a DICOM series that cannot be derived from ``files`` or would replace other data.

    Raises:
        InputError: the input is a volume file, a target lies inside its input or contains it, or a target folder
            holds anything but a derived series.
    """
    for target in (t for t in targets if not has_ending(t, ENDINGS)):
        if has_ending(files[0], UNREAD_ENDINGS):
            continue  # reading it gives the reason
        if has_ending(files[0], ENDINGS):
            raise InputError(
                "output-source-not-dicom",
                f"{files[0]} is not DICOM, so no DICOM series can be derived from it; use --format nifti",
            )
        place = target.resolve()
        for file in files:
            folder = Path(os.path.realpath(file if file.is_dir() else file.parent))
            if place.is_relative_to(folder) or folder.is_relative_to(place):
                raise InputError(
                    "output-inside-input", f"{place} is inside its input folder or contains it; choose another output"
                )
        if target.exists() and not target.is_dir():
            raise InputError(
                "output-is-file", f"{target} is a file, but a DICOM series needs a folder; choose another output"
            )
        inside = sorted(target.iterdir()) if target.is_dir() else []
        existing = [path for path in inside if not of_system(path.name)]
        foreign = next((path for path in existing if not DERIVED_FILE_NAME.fullmatch(path.name)), None)
        if foreign:
            raise InputError(
                "output-folder-foreign",
                f"{foreign} is not part of a series written by medgen; move this file away, or choose another output",
            )
        if is_foreign_dicom(existing):
            raise InputError(
                "output-folder-foreign",
                f"{target} holds a DICOM series not written by medgen; move it away or choose another output",
            )


def check_grid(targets: Sequence[Path], model: Model) -> None:
    """Refuse a DICOM series for a model whose outputs lie on another grid than its input. Raises InputError."""
    if model.settings.inference.grid == "model" and not all(has_ending(target, ENDINGS) for target in targets):
        raise InputError(
            "output-dicom-other-grid",
            f"{model.folder} writes volumes on its own grid, and a derived DICOM series keeps that of its source; use "
            "--format nifti",
        )


def sheared_grid_warnings(targets: Sequence[Path], volume: Volume) -> list[str]:
    """A warning if a sheared grid (tilted gantry) is written as NIfTI, which ITK-based programs refuse to read."""
    axes = volume.affine[:3, :3] / volume.spacing
    if not has_ending(targets[0], NIFTI_ENDINGS) or np.abs(axes.T @ axes - np.eye(3)).max() < 1e-3:
        return []
    other = "mha" if volume.frames is None else "dicom or mha"
    return [
        "the grid is sheared (tilted gantry): NIfTI stores this in the sform, which nibabel reads and ITK-based "
        f"programs refuse; use --format {other}, or resample the scan first"
    ]


def clear(folder: Path) -> None:
    """Remove partial files of a killed run from an output folder. Files not written by medgen are kept."""
    for path in folder.glob(".part-*"):
        if path.is_file():
            path.unlink(missing_ok=True)
    for path in folder.glob(".medgen-*"):
        if path.is_dir() and all(has_ending(file, (*ENDINGS, ".raw", ".zraw", ".gz")) for file in path.iterdir()):
            shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(".*.old"):
        if _of_series(path):
            recover(path.with_name(path.name[1:-4]))
    for path in folder.glob(".*.tmp"):
        if _of_series(path):
            shutil.rmtree(path, ignore_errors=True)


def _of_series(folder: Path) -> bool:
    return folder.is_dir() and all(DERIVED_FILE_NAME.fullmatch(file.name) for file in folder.iterdir())


def check_units(volumes: Sequence[Volume], model: Model) -> None:
    """Refuse, before any work, DICOM whose values are not in HU if the model needs HU. Raises InputError.

    Otherwise an iodine map, a perfusion map or an MR image would be read as CT numbers, and the output written as HU.
    """
    intensity, info = model.settings.intensity, model.info
    sides = ((intensity.source.kind, info.source_range), (intensity.target.kind, info.target_range))
    ranges = [(kind, found.low) for kind, side in sides for found in side if isinstance(found, RangeInfo)]
    hounsfield = any(_is_hu(kind, low, _same_window(model)) for kind, low in ranges)
    takes = ranges[0][0] == "window" and _is_hu(*ranges[0], same=False)
    for volume in volumes:
        if volume.unit in (None, HU) or not volume.frames:
            continue
        file = volume.frames[0][0]
        modality = (read_header(file) or {}).get("Modality", "no modality")
        if takes or (hounsfield and modality == "CT"):
            unit = f"values in {volume.unit}" if volume.unit else f"modality {modality} and values without a unit"
            raise InputError("dicom-not-hu", f"{file} has {unit}, but the model takes CT in HU; choose another series")


def check_modality(volume: Volume, model: Model) -> None:
    """Refuse, before any work, DICOM of a modality that does not match the model's output. Raises InputError.

    The derived series keeps the modality of the source: HU in an MR or PET object would be read as signal, and signal
    in a CT object as HU.

    Args:
        volume: the first source.
    """
    file = volume.frames[0][0] if volume.frames else None
    modality = (read_header(file) or {}).get("Modality") if file else None
    for target in model.info.target_range:
        kind, low = model.settings.intensity.target.kind, target.low
        hounsfield = _is_hu(kind, low, _same_window(model))
        if modality == "CT" and not hounsfield:
            raise InputError(
                "output-ct-without-hu",
                f"{file} is CT but the model output is not in HU, as a CT series must be; use --format nifti",
            )
        if modality in ("MR", "PT") and hounsfield and low <= AIR_HU:
            raise InputError(
                "output-hu-without-ct",
                f"{file} is {modality} but the model output is in HU, which needs a CT series; use --format nifti",
            )


def _same_window(model: Model) -> bool:
    source, target = model.settings.intensity.source, model.settings.intensity.target
    return (source.kind, source.low, source.high) == (target.kind, target.low, target.high)


def _is_hu(kind: str, low: float, same: bool) -> bool:
    """Whether a range that starts at ``low`` can be in HU.

    That is so for a window that starts below water or is the ``same`` for source and target, and for percentiles that
    reach air. No CT number is as low as the phase of MR (-4096).
    """
    if low < LOWEST_HU:
        return False
    return (low < 0 or same) if kind == "window" else low <= AIR_HU and kind == "percentile"

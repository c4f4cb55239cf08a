"""Folders of volumes → an `Evaluation`: every case against its truth, the unconverted source beside it.

One case is in memory at a time. A case that cannot be measured (unreadable, other grid, missing) is a failure
with its reason, and the others go on; `medgen.evaluation.summary` writes what came out.
"""

import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.body import body_mask, looks_like_hu
from medgen.evaluation import fidelity
from medgen.evaluation.consistency import relative_slice_jump
from medgen.evaluation.summary import CaseResult, Evaluation, Failure, write_results
from medgen.io.volume import GRID_TOLERANCE, Volume, case_name, find_volumes, read_volume, same_geometry, to_canonical
from medgen.types import InputError

HU_RANGE = 4095.0
HU_ORIGIN = "profile generic, range of HU in 12 bits; nothing is clipped"
# Words in the names of structures that take up contrast medium: vessels, kidneys, liver, spleen,
# hypervascular lesions; and words of those that carry one of these and do not enhance.
ENHANCING = (
    "aorta",
    "vena_cava",
    "portal",
    "vessel",
    "arter",
    "vein",
    "kidney",
    "renal",
    "collecting",
    "liver",
    "spleen",
    "hyper",
)
NOT_ENHANCING = ("adrenal", "cyst", "stone", "hypovascular", "lesion_hypo")

Progress = Callable[[int, int, str], None]  # (cases done, cases in all, name of the case just done)


def evaluate(
    reference: Path,
    prediction: Path,
    out: Path,
    *,
    source: Path | None = None,
    labels: Path | None = None,
    mask: Path | None = None,
    data_range: float | None = None,
    cases: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure converted volumes against the truth and write ``cases.csv``, ``regions.csv``, ``summary.json``.

    Args:
        reference, prediction: folders of volumes matched by case name (file name without ending), or a file
            each.
        out: folder for the results; made if absent.
        source: the unconverted images, same names and grids; measured like the predictions, as the baseline.
        labels: label volumes, named by ``labels.json`` = {structure: value} beside them or one folder above.
        mask: where ``mae``, ``psnr`` and ``ssim`` count (non-zero voxels); default the whole volume.
        data_range: span of possible values for PSNR and SSIM; default 4095 for CT in HU.
        cases: names of the reference cases that count, such as a test split; None for all.
        progress: called after each case.

    Returns:
        The `Evaluation`; ``failures`` is empty only if every reference case was measured.

    Raises:
        InputError: no case in common, a path that does not exist, a ``labels.json`` that is not one, images
            not in HU without ``data_range``, or an ``out`` that cannot be written.
    """
    run = _match(reference, prediction, cases, data_range, source=source, labels=labels, mask=mask)
    out = Path(out)
    _make_folder(out)
    results: list[CaseResult] = []
    failures: list[Failure] = []
    started = time.monotonic()
    for done, case in enumerate(run.cases, start=1):
        try:
            results.append(_evaluate_case(case, run))
        except _NeedsRange as error:
            if not results:  # a matter of the settings, not of this case: say so before hours are spent
                raise
            failures.append(Failure(case, str(error)))
        except InputError as error:
            failures.append(Failure(case, str(error)))
        if progress is not None:
            progress(done, len(run.cases), case)

    extra = [path for name, path in run.predictions.items() if name not in run.cases]
    evaluation = Evaluation(
        cases=results,
        failures=failures,
        warnings=[f"prediction {path} has no reference and was not measured" for path in extra]
        + [f"{result.name}: {text}" for result in results for text in result.warnings],
        data_range=run.data_range or HU_RANGE,
        data_range_origin=HU_ORIGIN if run.data_range is None else "given by the user",
        settings={
            "reference": str(reference),
            "prediction": str(prediction),
            **{role: None if path is None else str(path) for role, path in run.given.items()},
            "structures_that_take_up_contrast": [n for n in run.names.values() if takes_up_contrast(n)],
        },
        seconds=time.monotonic() - started,
        out=out,
    )
    write_results(evaluation)
    return evaluation


def takes_up_contrast(structure: str) -> bool:
    """Whether a structure's name says that intravenous contrast medium brightens it."""
    name = structure.lower().replace(" ", "_").replace("-", "_")
    return any(word in name for word in ENHANCING) and not any(word in name for word in NOT_ENHANCING)


class _NeedsRange(InputError):
    """The images are not in HU, so the user has to give the data range."""


@dataclass(frozen=True)
class _Run:
    """What is to be measured: files by case name for every role, structure names by label value."""

    cases: Mapping[str, Path]
    predictions: Mapping[str, Path]
    given: Mapping[str, Path | None]  # source, labels and mask as the user named them
    optional: Mapping[str, Mapping[str, Path]]  # those that were given: role → case → file
    names: Mapping[int, str]
    data_range: float | None


def _match(
    reference: Path,
    prediction: Path,
    wanted: Collection[str] | None,
    data_range: float | None,
    **given: Path | None,
) -> _Run:
    """Find the files of every case; InputError for paths and settings that allow no measurement."""
    if data_range is not None and not (np.isfinite(data_range) and data_range > 0):
        raise InputError(f"--data-range must be a number above 0, not {data_range}")
    cases = _files(reference, {})
    if wanted is not None:
        missing = sorted(set(wanted) - set(cases))
        if missing:
            raise InputError(f"{reference} holds no case named {missing[0]}; it has {_first(cases)}, ...")
        cases = {name: file for name, file in cases.items() if name in wanted}
    if Path(prediction).is_file() and len(cases) > 1:
        raise InputError(f"{prediction} is one file but {reference} holds {len(cases)} cases: give a folder")
    predictions = _files(prediction, cases)
    if not set(cases) & set(predictions):
        raise InputError(
            f"no volume in {prediction} has the name of one in {reference} (the first there is "
            f"{_first(predictions)}, the reference's {_first(cases)}): rename the files to match"
        )
    optional = {role: _files(path, cases) for role, path in given.items() if path is not None}
    for role, files in optional.items():
        if not set(cases) & set(files):
            raise InputError(
                f"no volume in {given[role]} ({role}) has the name of one in {reference} (the first there is "
                f"{_first(files)}, the reference's {_first(cases)}): rename the files to match"
            )
    return _Run(cases, predictions, given, optional, _label_names(given["labels"]), data_range)


def _evaluate_case(case: str, run: _Run) -> CaseResult:
    """Find, read and measure one case; InputError says why it cannot be."""
    if case not in run.predictions:
        raise InputError(f"no prediction for the reference {run.cases[case]}")
    files = {"reference": run.cases[case], "prediction": run.predictions[case]}
    files |= {role: found[case] for role, found in run.optional.items() if case in found}
    if "mask" in run.optional and "mask" not in files:
        raise InputError(f"no mask for the reference {run.cases[case]} in {run.given['mask']}")
    warnings = [f"no {role} file for this case in {run.given[role]}" for role in run.optional if role not in files]

    volumes = _read(files)
    reference = volumes["reference"].data
    hu = looks_like_hu(reference)
    if run.data_range is None and not hu:
        raise _NeedsRange(
            f"{files['reference']} is not in HU (no value at or below -200): PSNR and SSIM need "
            "--data-range, the span of values that such images can take"
        )
    if hu and not looks_like_hu(volumes["prediction"].data):
        warnings.append("the prediction has no air at or below -200 HU although the reference has: is it in HU?")
    masks = {"mask": volumes["mask"].data > 0} if "mask" in volumes else {}
    if "mask" in masks and not masks["mask"].any():
        raise InputError(f"the mask {files['mask']} is empty: there is no voxel to measure in")
    if hu:
        masks["body"] = body_mask(reference)
    try:
        regions = _regions(volumes, masks, run.names)
    except InputError as error:  # all that can be wrong by now is what the label file holds
        raise InputError(f"{files.get('labels', case)}: {error}") from error
    metrics = _metrics(volumes, masks, run.names, run.data_range or HU_RANGE)
    return CaseResult(case, files, metrics, regions, warnings, hu)


def _read(files: Mapping[str, Path]) -> dict[str, Volume]:
    """The volumes of a case in closest RAS order, refused unless they share one grid and are finite."""
    stored = {role: read_volume(path) for role, path in files.items()}
    volumes = {role: to_canonical(volume) for role, volume in stored.items()}
    # The tolerance of training pairs: a prediction has its source's affine, not the truth's to the last digit.
    tolerance = GRID_TOLERANCE * min(volumes["reference"].spacing)
    for role, volume in volumes.items():
        if not same_geometry(volumes["reference"].geometry, volume.geometry, tolerance):
            raise InputError(
                f"{files[role]} ({stored[role].geometry.describe()}) is not on the grid of the reference "
                f"{files['reference']} ({stored['reference'].geometry.describe()}): "
                "resample or register it first"
            )
        if not np.isfinite(volume.data.sum(dtype=np.float64)):
            raise InputError(f"{files[role]} holds voxels that are NaN or infinite")
    return volumes


def _metrics(
    volumes: Mapping[str, Volume],
    masks: Mapping[str, np.ndarray],
    names: Mapping[int, str],
    data_range: float,
) -> dict[str, float]:
    """The columns of ``cases.csv`` for one case: prediction first, then the source under ``source_``."""
    truth = volumes["reference"].data
    where = {"": masks.get("mask"), "body_": masks.get("body")}
    wanted = [value for value, name in names.items() if takes_up_contrast(name)]
    enhancing = np.isin(volumes["labels"].data, wanted) if "labels" in volumes and wanted else None
    metrics: dict[str, float] = {}
    for role, prefix in (("prediction", ""), ("source", "source_")):
        if role not in volumes:
            continue
        image = volumes[role].data
        similarity = fidelity.ssim_map(truth, image, data_range=data_range)
        for part, mask in where.items():
            if part and mask is None:
                continue
            metrics[f"{prefix}{part}mae"] = fidelity.mae(truth, image, mask)
            metrics[f"{prefix}{part}rmse"] = fidelity.rmse(truth, image, mask)
            metrics[f"{prefix}{part}psnr"] = fidelity.psnr(truth, image, data_range=data_range, mask=mask)
            metrics[f"{prefix}{part}ssim"] = fidelity.mean_ssim(similarity, mask)
        if enhancing is not None and enhancing.any():
            metrics[f"{prefix}enhancing_mae"] = fidelity.mae(truth, image, enhancing)
        metrics[f"{prefix}slice_jump"] = relative_slice_jump(image, truth, masks.get("body", masks.get("mask")))
    return metrics


def _regions(
    volumes: Mapping[str, Volume],
    masks: Mapping[str, np.ndarray],
    names: Mapping[int, str],
) -> list[dict[str, Any]]:
    """The rows of ``regions.csv`` for one case: mask and body first, then every label that has voxels."""
    truth, prediction = volumes["reference"].data, volumes["prediction"].data
    images = {"mean_prediction": prediction, "mean_reference": truth, "mae": np.abs(prediction - truth)}
    if "source" in volumes:
        source = volumes["source"].data
        images |= {"mean_source": source, "source_mae": np.abs(source - truth)}
    rows = {name: fidelity.label_means(mask.astype(np.uint8), images)[1] for name, mask in masks.items()}
    if "labels" in volumes:
        means = fidelity.label_means(volumes["labels"].data, images)
        rows |= {names.get(value, f"label_{value}"): row for value, row in means.items()}
    return [
        {"region": name, **row, "error": row["mean_prediction"] - row["mean_reference"]} for name, row in rows.items()
    ]


def _files(path: Path, cases: Mapping[str, Path]) -> dict[str, Path]:
    """{case name: file} of a folder; a single file stands for the only case whatever its name."""
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.is_file():
        return {next(iter(cases)) if len(cases) == 1 else case_name(path): path}
    found: dict[str, Path] = {}
    for file in find_volumes(path):
        if case_name(file) in found:
            raise InputError(f"{found[case_name(file)]} and {file} are the same case twice: remove one")
        found[case_name(file)] = file
    if not found:
        raise InputError(f"{path} holds no volumes (.nii.gz, .nii, .mha, .nrrd, ...)")
    return found


def _label_names(labels: Path | None) -> dict[int, str]:
    """{value: structure} from ``labels.json`` beside the labels or one folder above; else empty."""
    if labels is None:
        return {}
    folder = Path(labels) if Path(labels).is_dir() else Path(labels).parent
    for file in (folder / "labels.json", folder.parent / "labels.json"):
        if file.is_file():
            return _read_label_names(file)
    return {}


def _read_label_names(file: Path) -> dict[int, str]:
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(table, dict) or not all(type(value) is int for value in table.values()):
        raise InputError(f'{file} must map structures to whole numbers, such as {{"liver": 1}}')
    names: dict[int, str] = {}
    for name, value in table.items():
        if value in names:
            raise InputError(f"{file} gives {names[value]} and {name} the same value {value}")
        names[value] = name
    return names


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made for the results: {error.strerror or error}") from error


def _first(files: Mapping[str, Path]) -> str:
    return next(iter(files.values())).name

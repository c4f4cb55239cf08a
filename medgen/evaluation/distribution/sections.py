"""Report sections over all volumes: their distribution compared with real ones, and copies of training images."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgen.data.body_mask import body_mask, looks_like_hu
from medgen.errors import InputError
from medgen.evaluation.distribution.feature_set import FeatureSet, collect, load_features, save_features
from medgen.evaluation.distribution.memorisation import Memorisation, memorisation_test, volume_descriptor
from medgen.evaluation.distribution.scores import compare_distributions
from medgen.evaluation.features.extractor import Extractor
from medgen.evaluation.features.slices import Window
from medgen.evaluation.summary import Failure
from medgen.io.hashes import file_states
from medgen.io.paths import case_name
from medgen.io.read import find_volumes, read_volume
from medgen.io.volume import Volume, to_canonical

HU_WINDOW = (-200.0, 300.0)  # HU: soft tissue with and without contrast medium, fat and the edges of lung and bone
RELATIVE = (
    "the images are CT in HU, but the extractor normalises the intensities of each volume, so an offset or gain in HU "
    "has no effect on this distance"
)
OTHER_UNIT = (
    "the {0} are not in HU (no value at or below -200), the {1} are: check that both have the same unit, because "
    "intensities that are normalised for each volume hide an offset"
)
SAME_PATIENTS = (
    "the reference images are of the same patients, so the values are lower than against real scans of other patients; "
    "give --real-cohort to compare with other patients"
)


def distribution_section(
    real: Sequence[Path],
    prediction: Sequence[Path],
    source: Sequence[Path],
    extractor: Extractor,
    *,
    same_patients: bool,
    failures: list[Failure],
    cache: Path | None = None,
) -> list[dict[str, Any]]:
    """Return rows of `compare_distributions` of the predictions, each with ``source_value`` of the unconverted source.

    Volumes that cannot be read are added to ``failures`` and skipped. ``cache``: see `reference_features`.
    """
    reference = reference_features(real, extractor, failures, cache)
    predicted = collect(_volumes(prediction, failures), extractor)
    rows = compare_distributions(reference, predicted, extractor)
    before = compare_distributions(reference, _volumes(source, failures), extractor) if source else [{}] * len(rows)
    notes = [SAME_PATIENTS] if same_patients else []
    if not same_patients and (copies := _copies(predicted, reference)):
        notes.append(
            f"{copies} of {predicted.volumes} predictions have exactly the features of real volumes: they are the same "
            "images, so the distance says nothing about them; give other volumes as --real-cohort"
        )
    in_hu = [default_window(files) is not None for files in (real, prediction)]
    if getattr(extractor, "relative", False) and in_hu[0]:
        notes.append(RELATIVE)
    if in_hu[0] != in_hu[1]:
        notes.append(
            OTHER_UNIT.format(*(("real images", "predictions") if in_hu[1] else ("predictions", "real images")))
        )
    return [
        {**row, "source_value": source_row.get("value"), "notes": [*row["notes"], *notes]}
        for row, source_row in zip(rows, before, strict=True)
    ]


def _copies(predicted: FeatureSet, real: FeatureSet) -> int:
    """Number of predictions whose rows are all rows of the real volumes."""
    known = {row.tobytes() for row in real.rows}
    shared = np.array([row.tobytes() in known for row in predicted.rows], bool)
    return sum(bool(shared[predicted.groups == group].all()) for group in np.unique(predicted.groups))


def reference_features(
    real: Sequence[Path], extractor: Extractor, failures: list[Failure], cache: Path | None = None
) -> FeatureSet:
    """Return the features of real volumes, from the folder ``cache`` if it has those of these files and extractor.

    Several systems are often compared with the same real volumes, whose features take as long as those of a system.
    """
    if cache is None:
        return collect(_volumes(real, failures), extractor)
    files = [file_states(path) for path in real]
    identity = repr((extractor.name, extractor.weights, extractor.preprocessing, files))
    file = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npz"
    if file.exists():
        try:
            return load_features(file, extractor)
        except InputError:
            file.unlink()  # a damaged cache file is computed again
    before = len(failures)
    features = collect(_volumes(real, failures), extractor)
    if len(failures) == before:  # else the failures would not be reported for the next system
        cache.mkdir(parents=True, exist_ok=True)
        save_features(features, file)
    return features


def memorisation_section(
    training: Sequence[Path], prediction: Sequence[Path], held_out: Sequence[Path], failures: list[Failure]
) -> dict[str, Any]:
    """Run `memorisation_test` on converted or generated volumes against the training images of the target domain.

    ``held_out``: real images not used in training. Those that repeat training images are excluded; if too few remain,
    the training images are compared with each other.
    """
    training_rows, prediction_rows, held_out_rows = (
        _descriptors(paths, failures) for paths in (training, prediction, held_out)
    )
    result = memorisation_test(
        np.stack(list(training_rows.values())) if training_rows else np.zeros((0, 1)),
        np.stack(list(prediction_rows.values())) if prediction_rows else np.zeros((0, 1)),
        held_out=np.stack(list(held_out_rows.values())) if held_out_rows else None,
        training_names=list(training_rows),
        synthetic_names=list(prediction_rows),
    )
    closest = [
        {
            "synthetic": case_name(Path(pair.synthetic)),
            "training": case_name(Path(pair.training)),
            "distance": pair.distance,
            "p_value": pair.p_value,
            "flagged": pair.copy,
            "files": {"synthetic": pair.synthetic, "training": pair.training},
        }
        for pair in result.pairs
    ]
    return {
        "p_value": result.p_value,
        "flagged": result.memorised,
        "closest": closest,
        "note": _memorisation_note(result, len(prediction_rows), len(training_rows)),
    }


def _memorisation_note(result: Memorisation, prediction_rows: int, training_rows: int) -> str:
    baseline = f"{result.held_out} real volumes not used in training" if result.held_out else "the training volumes"
    parts = [f"{prediction_rows} volumes against {training_rows} training volumes; baseline distances from {baseline}"]
    if result.dropped:
        parts.append(f"{result.dropped} real volumes excluded because they repeat training volumes")
    if result.repeated:
        pairs = [f"{case_name(Path(a))} (repeats {case_name(Path(b))})" for a, b in result.repeated]
        more = ", ..." if len(pairs) > 5 else ""
        parts.append(f"{len(pairs)} training volumes excluded because they repeat others: {', '.join(pairs[:5])}{more}")
    return "; ".join(parts)


def default_window(paths: Sequence[Path]) -> Window:
    """Return the default feature window: soft tissue if the first readable volume is in HU, else None."""
    first = next(_volumes(paths, []), None)
    return HU_WINDOW if first is not None and looks_like_hu(first.data) else None


def volume_files(folder: Path | None) -> list[Path]:
    """Return the volumes of a folder, or the given file; raise InputError if there are none."""
    if folder is None:
        return []
    if folder.is_file():
        return [folder]
    files = find_volumes(folder)
    if not files:
        raise InputError("folder-no-volumes", f"{folder} holds no volumes; give the folder that contains the files")
    return files


def _volumes(paths: Iterable[Path], failures: list[Failure]) -> Iterator[Volume]:
    for path in paths:
        try:
            volume = to_canonical(read_volume(path))
        except InputError as error:
            failure = Failure(case_name(path), str(error))
            if failure not in failures:
                failures.append(failure)
            continue
        yield volume


def _descriptors(paths: Sequence[Path], failures: list[Failure]) -> dict[str, np.ndarray]:
    return {
        str(volume.path): volume_descriptor(volume.data, volume.spacing, mask=body_mask(volume.data))
        for volume in _volumes(paths, failures)
    }

"""What is measured of all volumes together: their distribution beside real ones, and whether training was copied."""

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
from medgen.io.paths import case_name
from medgen.io.read import find_volumes, read_volume
from medgen.io.volume import Volume, to_canonical

HU_WINDOW = (-200.0, 300.0)  # HU: soft tissue with and without contrast medium, fat and the edges of lung and bone
RELATIVE = (
    "the images are CT in HU, but the features see each volume by its own range of intensities, so that an offset or "
    "gain in HU is invisible"
)
SAME_PATIENTS = (
    "the reference is the truth of the same patients, so the values are lower than beside real scans of others; "
    "give --real-cohort for those"
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
    """Rows of `compare_distributions` of the predictions, each with ``source_value``: that of the unconverted sources.

    A volume that cannot be read is added to ``failures`` and left out. ``cache``: see `reference_features`.
    """
    reference = reference_features(real, extractor, failures, cache)
    rows = compare_distributions(reference, _volumes(prediction, failures), extractor)
    before = compare_distributions(reference, _volumes(source, failures), extractor) if source else [{}] * len(rows)
    notes = [SAME_PATIENTS] if same_patients else []
    if getattr(extractor, "relative", False) and default_window(real) is not None:
        notes.append(RELATIVE)
    return [
        {**row, "source_value": old.get("value"), "notes": [*row["notes"], *notes]}
        for row, old in zip(rows, before, strict=True)
    ]


def reference_features(
    real: Sequence[Path], extractor: Extractor, failures: list[Failure], cache: Path | None = None
) -> FeatureSet:
    """The features of real volumes, from a file in the folder ``cache`` if it is of these files and this extractor.

    Several systems are measured against one set of real volumes, whose features take as long as a system's.
    """
    if cache is None:
        return collect(_volumes(real, failures), extractor)
    files = [(str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in real]
    identity = repr((extractor.name, extractor.weights, extractor.preprocessing, files))
    file = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npz"
    if file.exists():
        return load_features(file, extractor)
    before = len(failures)
    features = collect(_volumes(real, failures), extractor)
    if len(failures) == before:  # else the next system would not learn of them
        cache.mkdir(parents=True, exist_ok=True)
        save_features(features, file)
    return features


def memorisation_section(
    training: Sequence[Path], prediction: Sequence[Path], held_out: Sequence[Path], failures: list[Failure]
) -> dict[str, Any]:
    """`memorisation_test` of converted or generated volumes against the training images of their domain.

    ``held_out``: real images that training never saw; those that it did see are left out, and with too few the
    training images are measured against each other.
    """
    known, made, others = (_descriptors(paths, failures) for paths in (training, prediction, held_out))
    found = memorisation_test(
        np.stack(list(known.values())) if known else np.zeros((0, 1)),
        np.stack(list(made.values())) if made else np.zeros((0, 1)),
        held_out=np.stack(list(others.values())) if others else None,
        training_names=list(known),
        synthetic_names=list(made),
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
        for pair in found.pairs
    ]
    return {
        "p_value": found.p_value,
        "flagged": found.memorised,
        "closest": closest,
        "note": _memorisation_note(found, len(made), len(known)),
    }


def _memorisation_note(found: Memorisation, made: int, known: int) -> str:
    usual = f"{found.held_out} real volumes that training never saw" if found.held_out else "the training volumes"
    parts = [f"{made} volumes against {known} training volumes; usual distances by {usual}"]
    if found.dropped:
        parts.append(f"{found.dropped} of the real volumes left out: they are among the training volumes")
    if found.repeated:
        pairs = [f"{case_name(Path(a))} (as {case_name(Path(b))})" for a, b in found.repeated]
        more = ", ..." if len(pairs) > 5 else ""
        parts.append(f"{len(pairs)} training volumes repeat others and were left out: {', '.join(pairs[:5])}{more}")
    return "; ".join(parts)


def default_window(paths: Sequence[Path]) -> Window:
    """What features should see of volumes where the user does not say: soft tissue if the first is in HU, else None."""
    first = next(_volumes(paths, []), None)
    return HU_WINDOW if first is not None and looks_like_hu(first.data) else None


def volume_files(folder: Path | None) -> list[Path]:
    """The volumes of a folder, or the one file that is given; InputError where there are none."""
    if folder is None:
        return []
    if folder.is_file():
        return [folder]
    files = find_volumes(folder)
    if not files:
        raise InputError("folder-no-volumes", f"{folder} holds no volumes; name the folder that the files lie in")
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

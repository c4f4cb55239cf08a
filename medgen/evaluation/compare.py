"""Two sets of volumes → the numbers of their likeness, each with all that it depends on."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen.data.body import body_mask
from medgen.evaluation.distribution import density_coverage, inception_score, kernel_distance, kid, precision_recall
from medgen.evaluation.feature_set import LIMIT, FeatureSet, collect
from medgen.evaluation.features.extractor import Extractor
from medgen.evaluation.frechet import few_rows_warning, frechet_distance
from medgen.io.volume import Volume
from medgen.types import InputError

SPACING_TOLERANCE = 0.1  # of a voxel side; beyond, textures differ by sampling alone

Array = NDArray[Any]


def compare_distributions(
    reference: Iterable[Volume] | FeatureSet,
    prediction: Iterable[Volume] | FeatureSet,
    extractor: Extractor,
    *,
    limit: int = LIMIT,
    seed: int = 0,
    mask_of: Callable[[Array], Array] = body_mask,
) -> list[dict[str, Any]]:
    """Fréchet and kernel distances, precision, recall, density, coverage and, where there are classes, the
    Inception Score.

    Args:
        reference: real volumes (``feature_set.volumes_in(folder)``), or a `FeatureSet` of this extractor.
        prediction: converted or generated volumes, or their `FeatureSet`.
        extractor: see ``medgen.evaluation.features``.
        limit, seed, mask_of: see ``feature_set.collect``.

    Returns:
        One dict a number: metric, value (None where it cannot be had, with the reason among the notes),
        standard_error (None where unknown), extractor, weights, preprocessing, reference_rows, prediction_rows,
        reference_volumes, prediction_volumes, notes. A Fréchet distance is called FID only with the standard
        Inception weights.

    Raises `InputError` for what ``collect`` refuses and for a `FeatureSet` of another extractor.
    """
    sides = [
        given if isinstance(given, FeatureSet) else collect(given, extractor, limit=limit, seed=seed, mask_of=mask_of)
        for given in (reference, prediction)
    ]
    _check_same(sides, extractor)
    common = {
        "extractor": extractor.name,
        "weights": extractor.weights,
        "preprocessing": extractor.preprocessing,
        "reference_rows": sides[0].statistics.count,
        "prediction_rows": sides[1].statistics.count,
        "reference_volumes": sides[0].volumes,
        "prediction_volumes": sides[1].volumes,
    }
    r, g = [side.standardised(sides[0]) for side in sides] if extractor.standardised else sides
    notes = _notes(r, g)
    made = [_number(name, call, [*notes, *own(r, g)]) for name, call, own in _metrics(r, g, extractor)]
    return [{**number, **common} for number in made]


Values = tuple[float, float | None]


def _metrics(
    r: FeatureSet, g: FeatureSet, extractor: Extractor
) -> list[tuple[str, Callable[[], Values], Callable[[FeatureSet, FeatureSet], list[str]]]]:
    x, y = r.rows, g.rows
    of = "" if extractor.standard else f" ({extractor.name})"
    metrics: list[tuple[str, Callable[[], Values], Callable[[FeatureSet, FeatureSet], list[str]]]] = [
        (frechet_name(extractor), lambda: (frechet_distance(r.statistics, g.statistics), None), _few_rows),
        (
            "KID" if extractor.standard else f"kernel distance{of}",
            lambda: kid(x, y, groups=(r.groups, g.groups)),
            _chosen,
        ),
        (f"MMD, Gaussian{of}", lambda: (kernel_distance(x, y), None), _chosen),
        (f"precision{of}", lambda: (precision_recall(x, y)[0], None), _chosen),
        (f"recall{of}", lambda: (precision_recall(x, y)[1], None), _chosen),
        (f"density{of}", lambda: (density_coverage(x, y)[0], None), _chosen),
        (f"coverage{of}", lambda: (density_coverage(x, y)[1], None), _chosen),
    ]
    probabilities = getattr(extractor, "probabilities", None)
    if probabilities is not None:
        splits = min(10, len(y))
        metrics.append((f"Inception Score{of}", lambda: inception_score(probabilities(y), splits=splits), _score))
    return metrics


def frechet_name(extractor: Extractor) -> str:
    """FID with the standard Inception weights; else the name says what it is of."""
    if extractor.standard:
        return "FID"
    if extractor.name == "radiomics":
        return "Fréchet radiomics distance"
    return f"Fréchet distance ({extractor.name}, weights {extractor.weights[:8]})"


def _number(name: str, call: Callable[[], Values], notes: list[str]) -> dict[str, Any]:
    try:
        value, error = call()
    except InputError as reason:
        return {"metric": name, "value": None, "standard_error": None, "notes": [*notes, str(reason)]}
    return {"metric": name, "value": value, "standard_error": error, "notes": notes}


def _few_rows(r: FeatureSet, g: FeatureSet) -> list[str]:
    warning = few_rows_warning(r.statistics.count, g.statistics.count, len(r.statistics.mean))
    return [warning] if warning else []


def _chosen(r: FeatureSet, g: FeatureSet) -> list[str]:
    sides = (("reference", r), ("prediction", g))
    return [
        f"of {len(side.rows)} rows chosen at random from the {side.statistics.count} of the {name}"
        for name, side in sides
        if len(side.rows) < side.statistics.count
    ]


def _score(r: FeatureSet, g: FeatureSet) -> list[str]:
    return ["error is the deviation between splits; classes are those of photographs, so this says little here"]


def _notes(r: FeatureSet, g: FeatureSet) -> list[str]:
    if np.all(np.abs(r.spacing / g.spacing - 1) <= SPACING_TOLERANCE):
        return []
    sizes = [" × ".join(f"{s:.3g}" for s in side.spacing) for side in (r, g)]
    return [f"voxels are {sizes[0]} mm in the reference and {sizes[1]} mm in the prediction: resample to one size"]


def _check_same(sides: list[FeatureSet], extractor: Extractor) -> None:
    for side in sides:
        for key, own in (("extractor", extractor.name), ("weights", extractor.weights)):
            if getattr(side, key) != own:
                raise InputError(f"features have the {key} {getattr(side, key)!r}, not {own!r}: gather them anew")
        if side.preprocessing != extractor.preprocessing:
            raise InputError(f"features were preprocessed otherwise ({side.preprocessing}): gather them anew")

"""Compare two sets of volumes with distribution metrics, each reported with its extractor, weights and counts."""

from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen.data.body_mask import body_mask
from medgen.errors import InputError
from medgen.evaluation.distribution.feature_set import LIMIT, FeatureSet, collect
from medgen.evaluation.distribution.frechet import few_rows_warning, frechet_distance
from medgen.evaluation.distribution.kernel import inception_score, kernel_distance, kid
from medgen.evaluation.distribution.precision_recall import NeighbourScores, neighbour_scores
from medgen.evaluation.features.extractor import Extractor
from medgen.io.volume import Volume

SPACING_TOLERANCE = 0.1  # relative; beyond it, textures differ because of the sampling alone
NARROW, WIDE = 3, 5  # number of neighbours for precision and recall, and for density and coverage, as in the papers

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
    """Compute Fréchet and kernel distances, precision, recall, density, coverage and the Inception Score.

    The Inception Score is computed only for extractors with class probabilities.

    Args:
        reference: real volumes (``feature_set.volumes_in(folder)``), or a `FeatureSet` of this extractor.
        prediction: converted or generated volumes, or their `FeatureSet`.
        extractor: see ``medgen.evaluation.features``.
        limit, seed, mask_of: see ``feature_set.collect``.

    Returns:
        One dict per metric: metric, value (None if it cannot be computed, with the reason in the notes), standard_error
        (None if unknown), deviation (Inception Score only, between its splits), extractor, weights, preprocessing,
        reference_rows, prediction_rows, reference_volumes, prediction_volumes, notes. A Fréchet distance is called FID
        only with the standard Inception weights.

    Raises `InputError` for errors of ``collect`` and for a `FeatureSet` of another extractor.
    """
    sides = [
        side_volumes
        if isinstance(side_volumes, FeatureSet)
        else collect(side_volumes, extractor, limit=limit, seed=seed, mask_of=mask_of)
        for side_volumes in (reference, prediction)
    ]
    _check_same_extractor(sides, extractor)
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
    notes = _spacing_notes(r, g)
    computed = [_result_row(name, call, [*notes, *own(r, g)]) for name, call, own in _metrics(r, g, extractor)]
    return [{**number, **common} for number in computed]


Values = dict[str, float]  # "value", and "standard_error" or "deviation" if known
Metric = tuple[str, Callable[[], Values], Callable[[FeatureSet, FeatureSet], list[str]]]


def _metrics(r: FeatureSet, g: FeatureSet, extractor: Extractor) -> list[Metric]:
    x, y, groups = r.rows, g.rows, (r.groups, g.groups)
    suffix = "" if extractor.standard else f" ({extractor.name})"
    neighbours = cache(lambda: neighbour_scores(x, y, groups=groups, narrow=NARROW, wide=WIDE)._asdict())
    metrics: list[Metric] = [
        (frechet_name(extractor), lambda: {"value": frechet_distance(r.statistics, g.statistics)}, _few_rows_note),
        (
            "KID" if extractor.standard else f"kernel distance{suffix}",
            lambda: dict(zip(("value", "standard_error"), kid(x, y, groups=groups), strict=True)),
            _subset_note,
        ),
        (f"MMD, Gaussian{suffix}", lambda: {"value": kernel_distance(x, y, groups=groups)}, _subset_note),
        *((f"{name}{suffix}", partial(_neighbour, neighbours, name), _subset_note) for name in NeighbourScores._fields),
    ]
    probabilities = getattr(extractor, "probabilities", None)
    if probabilities is not None:
        metrics.append((f"Inception Score{suffix}", lambda: _inception_score(probabilities(y)), _inception_note))
    return metrics


def _neighbour(scores: Callable[[], Values], name: str) -> Values:
    value = scores()[name]
    if np.isnan(value):
        k = NARROW if name in ("precision", "recall") else WIDE
        raise InputError("metric-neighbours-too-many", f"k {k} must be below the number of volumes of each side")
    return {"value": value}


def _inception_score(probabilities: Array) -> Values:
    value, deviation = inception_score(probabilities, splits=min(10, len(probabilities)))
    return {"value": value, "deviation": deviation}


def frechet_name(extractor: Extractor) -> str:
    """Return "FID" for the standard Inception weights, else a name that includes the extractor."""
    if extractor.standard:
        return "FID"
    if extractor.name == "radiomics":
        return "Fréchet radiomics distance"
    return f"Fréchet distance ({extractor.name}, weights {extractor.weights[:8]})"


def _result_row(name: str, call: Callable[[], Values], notes: list[str]) -> dict[str, Any]:
    empty = {"metric": name, "value": None, "standard_error": None}
    try:
        return {**empty, **{key: v if np.isfinite(v) else None for key, v in call().items()}, "notes": notes}
    except InputError as reason:
        return {**empty, "notes": [*notes, str(reason)]}


def _few_rows_note(r: FeatureSet, g: FeatureSet) -> list[str]:
    counts = r.statistics.count, g.statistics.count
    warning = few_rows_warning(counts, len(r.statistics.mean), volumes=(r.volumes, g.volumes))
    return [warning] if warning else []


def _subset_note(r: FeatureSet, g: FeatureSet) -> list[str]:
    sides = (("reference", r), ("prediction", g))
    return [
        f"computed from {len(side.rows)} random rows out of {side.statistics.count} of the {name}"
        for name, side in sides
        if len(side.rows) < side.statistics.count
    ]


def _inception_note(r: FeatureSet, g: FeatureSet) -> list[str]:
    return ["its classes are those of photographs, so it has little meaning for medical images"]


def _spacing_notes(r: FeatureSet, g: FeatureSet) -> list[str]:
    if np.all(np.abs(r.spacing / g.spacing - 1) <= SPACING_TOLERANCE):
        return []
    sizes = [" × ".join(f"{s:.3g}" for s in side.spacing) for side in (r, g)]
    return [f"voxels are {sizes[0]} mm in the reference and {sizes[1]} mm in the prediction; resample to one spacing"]


def _check_same_extractor(sides: list[FeatureSet], extractor: Extractor) -> None:
    for side in sides:
        for key, own in (("extractor", extractor.name), ("weights", extractor.weights)):
            if getattr(side, key) != own:
                raise InputError(
                    "features-settings-differ",
                    f"features have the {key} {getattr(side, key)!r}, not {own!r}; compute them again",
                )
        if side.preprocessing != extractor.preprocessing:
            raise InputError(
                "features-preprocessing-differs",
                f"features have another preprocessing ({side.preprocessing}); compute them again",
            )

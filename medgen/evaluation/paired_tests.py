"""Compare systems case by case: wins and losses, mean difference with interval, corrected p-value, effect sizes."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from medgen.errors import InputError
from medgen.evaluation.statistics import (
    RESAMPLES,
    Interval,
    bootstrap_interval,
    by_patient,
    differences,
    finite_pairs,
    holm,
    known_pairs,
    mean_difference,
    settled,
    wilcoxon,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Comparison of two systems a and b on the cases they share.

    ``difference`` (mean with interval), ``rank_biserial`` and ``cohens_dz`` refer to a - b, whether higher or lower is
    better; ``wins`` counts the cases in which a is better. ``dropped``: cases that only one system has or whose value
    is NaN. Infinite values (distance to a missed organ) take part in wins, losses and ranks; ``difference`` and
    ``cohens_dz`` use the cases that are finite in both systems, and ``infinite_a``, ``infinite_b`` count the infinite
    values. ``p_holm``: p corrected for all comparisons reported together.
    """

    metric: str
    a: str
    b: str
    n: int
    patients: int
    dropped: int
    difference: Interval
    p: float
    p_holm: float
    smallest_p: float
    rank_biserial: float
    cohens_dz: float
    wins: int
    ties: int
    losses: int
    infinite_a: int
    infinite_b: int


def compare_systems(
    systems: Mapping[str, Mapping[str, float]],
    *,
    higher_is_better: bool,
    metric: str = "",
    patients: Mapping[str, Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[Comparison]:
    """Compare every pair of systems on the cases that both have; one `Comparison` per pair.

    The interval of the mean difference comes from `bootstrap_interval`. The test and the effect sizes use one
    difference per patient, the mean over the patient's cases. ``p_holm`` is corrected for these pairs; for several
    metrics, join the lists and pass them to `correct`.

    Args:
        systems: {system: {case: value}}.
        higher_is_better: direction of the metric, for wins and losses.
        metric: its name, copied into the result.
        patients: {case: patient}; None: each case is its own patient.
        confidence, resamples, seed: see `bootstrap_interval`.

    Raises:
        InputError: a case that is missing in ``patients``.
    """
    rows = []
    for a, b in combinations(systems, 2):
        shared = [case for case in systems[a] if case in systems[b]]
        missing = len(set(systems[a]) ^ set(systems[b]))
        rows.append(
            _compare(
                (metric, a, b),
                np.array([systems[a][case] for case in shared], np.float64),
                np.array([systems[b][case] for case in shared], np.float64),
                _patients_of(shared, patients),
                missing,
                higher_is_better,
                {"confidence": confidence, "resamples": resamples, "seed": seed},
            )
        )
    return correct(rows)


def correct(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct ``p_holm`` for all given comparisons, that is for every pair and metric reported together."""
    corrected = holm([row.p for row in comparisons])
    return [replace(row, p_holm=p) for row, p in zip(comparisons, corrected, strict=True)]


def _compare(
    names: tuple[str, str, str],
    a: Array,
    b: Array,
    patients: list[Hashable],
    missing: int,
    higher_is_better: bool,
    settings: Mapping[str, Any],
) -> Comparison:
    x, y, patient_ids, dropped = known_pairs(a, b, patients)
    # Average the differences instead of subtracting two means, so that equal cases give exactly 0.
    case_differences = differences(x, y)
    patient_differences = np.array([mean_difference(group) for group in by_patient(case_differences, patient_ids)])
    patient_differences = settled(patient_differences, x, y)
    zeros = np.zeros_like(patient_differences)
    test = wilcoxon(patient_differences, zeros)
    better = (x > y) if higher_is_better else (x < y)
    ties = int((x == y).sum())
    return Comparison(
        *names,
        n=len(x),
        patients=len(patient_differences),
        dropped=dropped + missing,
        difference=_finite_difference(x, y, patient_ids, settings),
        p=test.p,
        p_holm=test.p,
        smallest_p=test.smallest_p,
        rank_biserial=rank_biserial(patient_differences, zeros),
        cohens_dz=cohens_dz(patient_differences, zeros),
        wins=int(better.sum()),
        ties=ties,
        losses=len(x) - ties - int(better.sum()),
        infinite_a=int(np.isinf(x).sum()),
        infinite_b=int(np.isinf(y).sum()),
    )


def _finite_difference(x: Array, y: Array, patient_ids: list[Hashable], settings: Mapping[str, Any]) -> Interval:
    finite = np.isfinite(x) & np.isfinite(y)
    kept_patients = [patient_id for patient_id, is_finite in zip(patient_ids, finite, strict=True) if is_finite]
    return bootstrap_interval(x[finite] - y[finite], patients=kept_patients, **settings)


def _patients_of(cases: Sequence[str], patients: Mapping[str, Hashable] | None) -> list[Hashable]:
    if patients is None:
        return list(cases)
    unknown = next((case for case in cases if case not in patients), None)
    if unknown is not None:
        raise InputError(
            "evaluation-patient-missing", f"patients names no patient for the case {unknown}; name one for every case"
        )
    return [patients[case] for case in cases]


def rank_biserial(a: ArrayLike, b: ArrayLike) -> float:
    """Matched-pairs rank-biserial correlation, (R+ - R-) / (R+ + R-), in [-1, 1]: Kerby 2014 (10.2466/11.IT.3.1).

    R+ and R-: sums of the ranks of |a - b| where a - b is above and below 0. 1: a is larger in every pair; 0 if no
    pair differs. An infinite difference has the largest rank.
    """
    x, y, *_ = known_pairs(a, b)
    difference = settled(differences(x, y), x, y)
    difference = difference[difference != 0]
    if not len(difference):
        return 0.0
    ranks = stats.rankdata(np.abs(difference))
    return float((ranks * np.sign(difference)).sum() / ranks.sum())


def cohens_dz(a: ArrayLike, b: ArrayLike) -> float:
    """Mean of a - b over its standard deviation (n - 1): Cohen 1988, section 2.3.5, unbounded.

    Uses finite pairs only. NaN for fewer than two of them. If all differences are equal: 0 if they are 0, else
    infinite.
    """
    x, y, *_ = finite_pairs(a, b)
    difference = x - y
    if len(difference) < 2:
        return float("nan")
    if np.ptp(difference) == 0:
        return float(np.copysign(np.inf, difference[0])) if difference[0] else 0.0
    return float(difference.mean() / difference.std(ddof=1))

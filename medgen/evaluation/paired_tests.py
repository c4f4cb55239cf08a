"""Systems compared case by case: wins and losses, mean difference with its interval, corrected p, effect sizes."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen.errors import InputError
from medgen.evaluation.statistics import (
    RESAMPLES,
    Interval,
    bootstrap_interval,
    by_patient,
    cohens_dz,
    differences,
    holm,
    known_pairs,
    mean_difference,
    rank_biserial,
    wilcoxon,
)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Two systems over the cases they share.

    ``difference`` (its mean with interval), ``rank_biserial`` and ``cohens_dz`` are of a - b in the metric's own
    direction; ``wins`` counts the cases where a is better. ``dropped``: cases that only one has or that are NaN. An
    infinite value (the distance to a missed organ) wins, loses and ranks like any other; ``difference`` and
    ``cohens_dz`` are of the cases that both have finite, and ``infinite_a``, ``infinite_b`` count the others.
    ``p_holm``: corrected for all comparisons made together.
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
    """Every pair of systems over the cases that both have: {system: {case: value}} → one `Comparison` a pair.

    The interval of the mean difference is `bootstrap_interval`'s. Test and effect sizes take one difference a
    patient, the mean over the patient's cases. ``p_holm`` corrects for the pairs here; over several metrics, join
    the lists and give them to `correct`. Raises `InputError` for a case that ``patients`` does not name.
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
    """The same comparisons, ``p_holm`` corrected for all of them: every pair and metric that is reported together."""
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
    x, y, owners, dropped = known_pairs(a, b, patients)
    # Of the differences themselves, not of two means: equal cases give exactly 0.
    each = differences(x, y)
    change = np.array([mean_difference(group) for group in by_patient(each, owners)])
    nothing = np.zeros_like(change)
    test = wilcoxon(change, nothing)
    better = (x > y) if higher_is_better else (x < y)
    ties = int((x == y).sum())
    return Comparison(
        *names,
        n=len(x),
        patients=len(change),
        dropped=dropped + missing,
        difference=_finite_difference(x, y, owners, settings),
        p=test.p,
        p_holm=test.p,
        smallest_p=test.smallest_p,
        rank_biserial=rank_biserial(change, nothing),
        cohens_dz=cohens_dz(change, nothing),
        wins=int(better.sum()),
        ties=ties,
        losses=len(x) - ties - int(better.sum()),
        infinite_a=int(np.isinf(x).sum()),
        infinite_b=int(np.isinf(y).sum()),
    )


def _finite_difference(x: Array, y: Array, owners: list[Hashable], settings: Mapping[str, Any]) -> Interval:
    finite = np.isfinite(x) & np.isfinite(y)
    kept = [owner for owner, good in zip(owners, finite, strict=True) if good]
    return bootstrap_interval(x[finite] - y[finite], patients=kept, **settings)


def _patients_of(cases: Sequence[str], patients: Mapping[str, Hashable] | None) -> list[Hashable]:
    if patients is None:
        return list(cases)
    unknown = next((case for case in cases if case not in patients), None)
    if unknown is not None:
        raise InputError(
            "evaluation-patient-missing", f"patients names no patient for the case {unknown}: name one for every case"
        )
    return [patients[case] for case in cases]

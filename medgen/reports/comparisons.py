"""Paired statistical tests between the systems of a report."""

from collections.abc import Hashable, Sequence
from dataclasses import asdict
from typing import Any

from medgen.data.cohort.patients import merge_sets, set_root
from medgen.evaluation.metrics.catalogue import headline
from medgen.evaluation.paired_tests import Comparison, compare_systems, correct
from medgen.reports.metric_display import measure
from medgen.reports.results import System

SPANNED = ("psnr", "ssim")  # depend on the data range, so that other ranges make other values


def _patients(systems: Sequence[System]) -> dict[str, str]:
    """{case: patient}: cases are of one patient if any of the evaluations says so."""
    parents: dict[Hashable, Hashable] = {}
    for k, system in enumerate(systems):
        for case in system.summary.cases:
            merge_sets(parents, ("case", case.case), (k, case.patient or case.case))
    return {case.case: str(set_root(parents, ("case", case.case))) for s in systems for case in s.summary.cases}


def compare(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Compare every pair of systems in every headline metric that both have; p values are corrected over all tests.

    PSNR and SSIM are left out if the systems were evaluated with different data ranges.
    """
    found: list[Comparison] = []
    patients = _patients(systems)
    spans = {system.summary.data_range for system in systems}
    for name in headline():
        if name.endswith(SPANNED) and len(spans) > 1:
            continue
        values = {s.name: {c.name: c.metrics[name] for c in s.cases if name in c.metrics} for s in systems}
        values = {system: cases for system, cases in values.items() if cases}
        higher = measure(name, systems[0]).higher
        if len(values) > 1 and higher is not None:
            found += compare_systems(values, higher_is_better=higher, metric=name, patients=patients)
    return [
        {
            **{key: value for key, value in asdict(row).items() if key != "difference"},
            "mean_difference": row.difference.value,
            "interval": [row.difference.low, row.difference.high],
            "effect": row.rank_biserial,
        }
        for row in correct(found)
    ]

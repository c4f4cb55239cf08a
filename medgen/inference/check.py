"""Check a converted case: the verdict of the structure check (pass, review or fail), with reasons."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medgen.checkpoint import Model, removes_contrast
from medgen.errors import InputError
from medgen.inference.job import Job
from medgen.io.volume import Volume, to_canonical
from medgen.qa.carried import input_findings
from medgen.qa.case import Reason
from medgen.qa.check import RANK
from medgen.qa.limits import AUTO
from medgen.qa.run import Checks, judge, named_checks

NONE = "none"


def checks_for(model: Model, limits: str = AUTO, segmenter: str | None = None, device: str = "cpu") -> Checks | None:
    """How conversions of a model are checked.

    Args:
        limits: auto (those of contrast removal for a model that removes contrast medium, else those of any
            translation), none, or as ``named_checks`` takes them.
        segmenter: see ``named_checks``.

    Returns:
        None for none.

    Raises:
        InputError: unknown limits or segmenter; a segmenter without checks.
    """
    if limits == NONE:
        if segmenter is not None:
            raise InputError(
                "option-segmenter-without-checks",
                "--segmenter serves the checks, and --qa-limits none has none; leave one of the two out",
            )
        return None
    if limits == AUTO:
        limits = "ct_contrast" if removes_contrast(model) else "general"
    return named_checks(limits, segmenter, device)


def check_case(job: Job, model: Model, checks: Checks | None) -> list[dict[str, Any]]:
    """Check the outputs of a job against its sources, and record the verdict in its entry.

    Returns:
        What ``verdict`` returns for each contrast; empty without checks.
    """
    if checks is None:
        return []
    entry, names = job.entry, model.settings.data.targets
    known = input_findings(entry.warnings)
    entry.verdict, entry.reasons, each = verdict(job.volumes, job.outputs, names, checks, known)
    entry.findings = [finding for one in each for finding in one["findings"]]
    entry.checks, entry.limits = checks.identity, checks.thresholds.recorded()
    return each


def verdict(
    volumes: Sequence[Volume],
    made: Sequence[Volume],
    names: Sequence[str],
    checks: Checks,
    known: Sequence[Reason] = (),
) -> tuple[str, list[str], list[dict[str, Any]]]:
    """The worst status over the contrasts made, each against the first source, all reasons, and what each got.

    Args:
        volumes: the sources, on one grid with what was ``made`` of them.
        names: of the contrasts made, which reasons begin with where there are several.
        known: what was odd about the input, see `carried.input_findings`.

    Returns:
        Status (pass, review or fail), reasons, and of each contrast what `judge` says; where there are several, the
        texts of ``findings`` begin as those of all reasons do and tell their ``contrast``.
    """
    source, each = to_canonical(volumes[0]), []
    for volume in map(_as_stored, made):
        try:
            found, _ = judge({"source": source, "prediction": to_canonical(volume)}, {}, checks, known)
        except InputError as error:
            text = f"The structure check could not be done: {error}"
            found = {"status": "review", "reasons": [text], "values": {}, "findings": []}
        each.append(found)
    worst = max((one["status"] for one in each), key=lambda status: RANK[status])
    where = [f"{name}: " if len(names) > 1 else "" for name in names]
    if len(names) > 1:
        for name, one in zip(names, each, strict=True):
            told = [{**finding, "text": f"{name}: {finding['text']}", "contrast": name} for finding in one["findings"]]
            one["findings"] = told
    return worst, [begin + text for begin, one in zip(where, each, strict=True) for text in one["reasons"]], each


def _as_stored(volume: Volume) -> Volume:
    """With the values that its file will have: where these are whole numbers, a median falls on one or the other."""
    return volume.replaced(np.rint(volume.data)) if np.issubdtype(volume.dtype, np.integer) else volume

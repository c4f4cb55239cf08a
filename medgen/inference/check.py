"""Check a converted case: the verdict of the structure check (pass, review or fail) with reasons."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from medgen.checkpoint import Model, removes_contrast
from medgen.data.grid import resample_like
from medgen.errors import InputError
from medgen.inference.job import Job
from medgen.io.volume import Volume, same_geometry, to_canonical
from medgen.qa.carried import NOT_CHECKED, input_findings
from medgen.qa.case import Reason
from medgen.qa.check import RANK
from medgen.qa.limits import AUTO
from medgen.qa.run import Checks, judge, named_checks

NONE = "none"


def checks_for(model: Model, limits: str = AUTO, segmenter: str | None = None, device: str = "cpu") -> Checks | None:
    """Thresholds and segmenter for the structure check of a model's conversions.

    Args:
        limits: auto (``ct_contrast`` for a model that removes contrast medium, else ``general``), none, or any value
            of ``named_checks``.
        segmenter: see ``named_checks``.

    Returns:
        None if ``limits`` is none.

    Raises:
        InputError: unknown limits or segmenter, or a segmenter with ``limits`` none.
    """
    if limits == NONE:
        if segmenter is not None:
            raise InputError(
                "option-segmenter-without-checks",
                "--segmenter is used by the structure check, which --qa-limits none turns off; omit one of the two",
            )
        return None
    if limits == AUTO:
        limits = "ct_contrast" if removes_contrast(model) else "general"
    return named_checks(limits, segmenter, device)


def check_case(job: Job, model: Model, checks: Checks | None) -> list[dict[str, Any]]:
    """Check the outputs of a job against its sources, and record the verdict in its entry.

    Returns:
        The result of ``judge`` for each target contrast; empty without checks.
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
    """Check each translated contrast against the first source; the verdict is the worst status of all.

    Args:
        volumes: the sources; only the first is used.
        made: the translated volumes. Where they lie on another grid than the first source (inference.grid), it is
            interpolated linearly to theirs.
        names: names of the target contrasts; with several, each reason starts with the name.
        known: findings about the input, see `carried.input_findings`.

    Returns:
        Status (pass, review or fail), reasons, and the result of `judge` for each contrast. With several contrasts, the
        text of each finding starts with the name of its contrast, which is also its key ``contrast``.
    """
    source, each = to_canonical(volumes[0]), []
    for volume in map(_as_stored, made):
        try:
            output = to_canonical(volume)
            shown = source if same_geometry(source.geometry, output.geometry) else _on_grid_of(output, source)
            found, _ = judge({"source": shown, "prediction": output}, {}, checks, known)
        except InputError as error:
            text = f"{NOT_CHECKED}: {error}"
            found = {"status": "review", "reasons": [text], "values": {}, "findings": []}
        each.append(found)
    worst = max((one["status"] for one in each), key=lambda status: RANK[status])
    prefixes = [f"{name}: " if len(names) > 1 else "" for name in names]
    if len(names) > 1:
        for name, one in zip(names, each, strict=True):
            named = [{**finding, "text": f"{name}: {finding['text']}", "contrast": name} for finding in one["findings"]]
            one["findings"] = named
    return worst, [prefix + text for prefix, one in zip(prefixes, each, strict=True) for text in one["reasons"]], each


def _on_grid_of(output: Volume, source: Volume) -> Volume:
    return output.replaced(resample_like(source, output))


def _as_stored(volume: Volume) -> Volume:
    """Round to the integers that an integer file will store, because rounding changes a median."""
    return volume.replaced(np.rint(volume.data)) if np.issubdtype(volume.dtype, np.integer) else volume

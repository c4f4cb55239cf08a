"""Measure the cases of an evaluation, in this process or on a cluster; each gives its results or an error."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from medgen.cluster import Cluster, WorkerLost, WorkerResources, in_order, joined, spread
from medgen.errors import InputError, reason
from medgen.evaluation.folders import Folders
from medgen.evaluation.measure import Measures, measure_case
from medgen.evaluation.summary import CaseResult
from medgen.segmentation.load import named_segmenter

Outcome = tuple[CaseResult, list[str]] | InputError  # the strings warn of optional files that are missing


def outcomes(folders: Folders, measures: Measures, cluster: Cluster | None = None) -> Iterator[Outcome]:
    """Yield the outcome of each case, in the order of ``folders.cases``; a ``cluster`` measures them on its workers.

    Raises:
        InputError: the cluster cannot be used.
    """
    if cluster is None:
        for case in folders.cases:
            yield outcome(case, folders, measures)
        return
    checks = measures.checks
    text = checks.segmenter.text if checks and checks.segmenter else None
    serialisable = replace(measures, checks=checks and replace(checks, segmenter=None))
    with joined(replace(cluster, device=cluster.device if text else "cpu")) as share:
        finished = spread(folders.cases, partial(_worker_task, folders, serialisable, text, share), share)
        for result in in_order(folders.cases, finished):
            yield InputError("cluster-task-lost", str(result)) if isinstance(result, WorkerLost) else result


def outcome(case: str, folders: Folders, measures: Measures) -> Outcome:
    """Measure one case; return any error, so that the other cases are still measured."""
    try:
        missing = _missing_files(case, folders)
        return measure_case(case, folders.cases[case], measures), missing
    except InputError as error:
        return error
    except Exception as error:
        return InputError("evaluation-unexpected-failure", f"unexpected error ({reason(error)}); please report it")


def _worker_task(
    folders: Folders, measures: Measures, segmenter: str | None, share: WorkerResources
) -> Callable[[str], Outcome]:
    """Load the segmenter on a worker and return the function that measures one case."""
    torch.set_num_threads(share.threads)
    if segmenter is not None and measures.checks is not None:
        loaded = named_segmenter(segmenter, device=share.device)
        measures = replace(measures, checks=replace(measures.checks, segmenter=loaded))
    return partial(outcome, folders=folders, measures=measures)


def _missing_files(case: str, folders: Folders) -> list[str]:
    """Return warnings of missing optional files; raise InputError if a required file is missing."""
    files = folders.cases[case]
    if "prediction" not in files:
        raise InputError(
            "evaluation-prediction-missing",
            f"the reference {files['reference']} has no prediction; add it or leave the reference out",
        )
    if "mask" in folders.inputs_by_role and "mask" not in files:
        raise InputError(
            "evaluation-mask-missing",
            f"{case} has no mask in {folders.inputs_by_role['mask']}; add it or leave the case out",
        )
    return [
        f"no {role} file for this case in {path}" for role, path in folders.inputs_by_role.items() if role not in files
    ]

"""What became of each case of an evaluation: its numbers, or why there are none; here or on a cluster's machines."""

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

Outcome = tuple[CaseResult, list[str]] | InputError  # with warnings of the files that the case lacks


def outcomes(folders: Folders, measures: Measures, cluster: Cluster | None = None) -> Iterator[Outcome]:
    """Each case's, in the order of ``folders.cases``; with a ``cluster`` measured by its workers.

    Raises:
        InputError: the cluster cannot be used.
    """
    if cluster is None:
        for case in folders.cases:
            yield outcome(case, folders, measures)
        return
    checks = measures.checks
    text = checks.segmenter.text if checks and checks.segmenter else None
    bare = replace(measures, checks=checks and replace(checks, segmenter=None))
    with joined(replace(cluster, device=cluster.device if text else "cpu")) as share:
        found = spread(folders.cases, partial(_measurer, folders, bare, text, share), share)
        for result in in_order(folders.cases, found):
            yield InputError("cluster-task-lost", str(result)) if isinstance(result, WorkerLost) else result


def outcome(case: str, folders: Folders, measures: Measures) -> Outcome:
    """One case's: whatever goes wrong with its files is its own failure, never the end of the others."""
    try:
        missing = _missing(case, folders)
        return measure_case(case, folders.cases[case], measures), missing
    except InputError as error:
        return error
    except Exception as error:
        return InputError(
            "evaluation-unexpected-failure", f"medgen did not expect these images ({reason(error)}); please report it"
        )


def _measurer(
    folders: Folders, measures: Measures, segmenter: str | None, share: WorkerResources
) -> Callable[[str], Outcome]:
    """What a worker does with a case, the segmenter loaded."""
    torch.set_num_threads(share.threads)
    if segmenter is not None and measures.checks is not None:
        loaded = named_segmenter(segmenter, device=share.device)
        measures = replace(measures, checks=replace(measures.checks, segmenter=loaded))
    return partial(outcome, folders=folders, measures=measures)


def _missing(case: str, folders: Folders) -> list[str]:
    """Warnings of optional files that this case lacks; InputError where one is needed."""
    files = folders.cases[case]
    if "prediction" not in files:
        raise InputError("evaluation-prediction-missing", f"no prediction for the reference {files['reference']}")
    if "mask" in folders.given and "mask" not in files:
        raise InputError("evaluation-mask-missing", f"no mask for {case} in {folders.given['mask']}")
    return [f"no {role} file for this case in {path}" for role, path in folders.given.items() if role not in files]

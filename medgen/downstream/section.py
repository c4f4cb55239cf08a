"""The downstream protocols of an evaluation: its references and predictions, each with the case's labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen.downstream.protocols import run_protocols
from medgen.downstream.summary import Row, summarise
from medgen.errors import InputError
from medgen.evaluation.summary import CaseResult, Failure, describe
from medgen.segmentation.train import Example

SHOWN = ("hd95", "assd", "surface_dice", "infinite", "distances", "gain", "gain_interval", "gain_p", "sd_of_runs")


@dataclass(frozen=True)
class Protocols:
    """Folds of patients, seeds of every segmenter, and arguments of ``train_segmenter`` such as minutes and device.

    ``shared``: folder of the segmenters trained on real images alone, for several systems; None: each its own.
    """

    folds: int = 5
    seeds: Sequence[int] = (0,)
    training: Mapping[str, Any] = field(default_factory=lambda: {"minutes": 10.0})
    shared: Path | None = None

    def __call__(
        self, cases: Sequence[CaseResult], names: Mapping[int, str], out: Path, **given: Any
    ) -> dict[str, Any]:
        """The section of an evaluation, see `downstream_section`."""
        return downstream_section(cases, names, out, self, **given)


def protocols(minutes: float, folds: int, seeds: int, device: str = "cpu", shared: Path | None = None) -> Protocols:
    """Protocols as the command line gives them: ``minutes`` a segmenter, ``seeds`` counted from 0."""
    return Protocols(folds, tuple(range(seeds)), {"minutes": minutes, "device": device}, shared)


def downstream_section(
    cases: Sequence[CaseResult],
    names: Mapping[int, str],
    out: Path,
    protocols: Protocols,
    *,
    tolerance_mm: float,
    failures: list[Failure],
) -> dict[str, Any]:
    """Run the protocols in ``out`` and give the section: ``rows``, a protocol and label each, and what they rest on.

    Real images are the references, synthetic ones the predictions. What is finished in ``out`` is not done again.

    Args:
        cases: measured; those with a reference and labels count.
        names: {label: structure}.
        failures: what could not be used is added.

    Raises:
        InputError: no case with reference and labels, or fewer patients than folds.
    """
    real, synthetic = (_examples(cases, role) for role in ("reference", "prediction"))
    if not real:
        raise InputError(
            "evaluation-reference-labels-needed",
            "segmenters are trained on true volumes with labels: give --reference and --labels",
        )
    found = run_protocols(
        real,
        synthetic,
        out,
        folds=protocols.folds,
        seeds=protocols.seeds,
        tolerance_mm=tolerance_mm,
        training=protocols.training,
        shared=protocols.shared,
    )
    failures += found.failures
    return {
        "rows": [_shown(row, found.rows, names) for row in summarise(found.rows)],
        "folds": protocols.folds,
        "seeds": list(protocols.seeds),
        "training": dict(protocols.training),
    }


def _examples(cases: Sequence[CaseResult], role: str) -> list[Example]:
    return [
        Example(case.name, case.patient or case.name, case.files[role], case.files["labels"])
        for case in cases
        if role in case.files and "labels" in case.files
    ]


def _shown(row: Row, rows: Sequence[Row], names: Mapping[int, str]) -> dict[str, Any]:
    """A row of the report: mean Dice with its interval over patients, and the other means."""
    mine = [r for r in rows if r["protocol"] == row["protocol"] and row["label"] in (r["label"], "mean")]
    dice = describe([r["dice"] for r in mine], [r["patient"] for r in mine])
    label = row["label"] if row["label"] == "mean" else names.get(row["label"], f"label_{row['label']}")
    shown = {"protocol": row["protocol"], "label": label, "dice_mean": dice.mean, "interval": dice.mean_interval}
    return shown | {"n": row["cases"], **{key: row[key] for key in SHOWN}}

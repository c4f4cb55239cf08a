"""Run the downstream protocols in an evaluation, with its references, predictions and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen.downstream.protocols import run_protocols
from medgen.downstream.summary import Row, summarise
from medgen.errors import InputError
from medgen.evaluation.summary import CaseResult, Failure, describe
from medgen.segmentation.train import Example

REPORTED = ("hd95", "assd", "surface_dice", "infinite", "distances", "gain", "gain_interval", "gain_p", "sd_of_runs")


@dataclass(frozen=True)
class Protocols:
    """Settings of the downstream protocols.

    Attributes:
        folds: number of patient folds.
        seeds: training seeds of every segmenter.
        training: arguments of ``train_segmenter``, such as minutes and device.
        shared: folder of segmenters trained on real images only, shared by several systems; None: not shared.
    """

    folds: int = 5
    seeds: Sequence[int] = (0,)
    training: Mapping[str, Any] = field(default_factory=lambda: {"minutes": 10.0})
    shared: Path | None = None

    def __call__(
        self, cases: Sequence[CaseResult], names: Mapping[int, str], out: Path, **options: Any
    ) -> dict[str, Any]:
        """Return the section of an evaluation, see `downstream_section`."""
        return downstream_section(cases, names, out, self, **options)


def make_protocols(
    minutes: float, folds: int, seeds: int, device: str = "cpu", shared: Path | None = None
) -> Protocols:
    """Create `Protocols` from command line values: ``minutes`` per segmenter, ``seeds`` as a number of seeds."""
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
    """Run the protocols in ``out`` and return the section: ``rows``, one per protocol and label, and the settings.

    Real images are the references, synthetic images are the predictions. Finished results in ``out`` are reused.

    Args:
        cases: measured cases; only those with a reference and labels are used.
        names: {label: structure}.
        out: folder for results and segmenters.
        protocols: settings.
        tolerance_mm: of the surface Dice.
        failures: list to which failures are added.

    Raises:
        InputError: no case with reference and labels, or fewer patients than folds.
    """
    real, synthetic = (_examples(cases, role) for role in ("reference", "prediction"))
    if not real:
        raise InputError(
            "evaluation-reference-labels-needed",
            "segmenters are trained on reference volumes with labels; give --reference and --labels",
        )
    results = run_protocols(
        real,
        synthetic,
        out,
        folds=protocols.folds,
        seeds=protocols.seeds,
        tolerance_mm=tolerance_mm,
        training=protocols.training,
        shared=protocols.shared,
    )
    failures += results.failures
    return {
        "rows": [_report_row(row, results.rows, names) for row in summarise(results.rows)],
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


def _report_row(row: Row, rows: Sequence[Row], names: Mapping[int, str]) -> dict[str, Any]:
    """Return a row of the report: mean Dice with its interval over patients, and the other means."""
    matching_rows = [r for r in rows if r["protocol"] == row["protocol"] and row["label"] in (r["label"], "mean")]
    dice = describe([r["dice"] for r in matching_rows], [r["patient"] for r in matching_rows])
    label = row["label"] if row["label"] == "mean" else names.get(row["label"], f"label_{row['label']}")
    report_row = {"protocol": row["protocol"], "label": label, "dice_mean": dice.mean, "interval": dice.mean_interval}
    return report_row | {"n": row["cases"], **{key: row[key] for key in REPORTED}}

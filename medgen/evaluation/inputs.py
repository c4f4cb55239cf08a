"""What `evaluate` is given: the volumes, and how they are measured; both are checked before hours are spent."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen.cluster import Cluster
from medgen.errors import InputError
from medgen.evaluation.features.extractor import Extractor
from medgen.evaluation.metrics.challenges import PROFILES
from medgen.qa.run import Checks

Progress = Callable[[int, int, str], None]  # (cases done, cases in all, name of the case just done)
ROLES = ("reference", "prediction", "source", "labels", "mask", "prediction_labels", "lesions")


@dataclass(frozen=True)
class Inputs:
    """Folders of volumes matched by case name (file name without ending), or a file each.

    Attributes:
        prediction: the converted or generated volumes.
        reference: the truth. Without it the source is needed: means per region, smoothness and structure are then all
            there is to measure.
        source: the unconverted images, same names and grids; measured like the predictions, as the baseline.
        labels: label volumes, named by ``labels.json`` = {structure: value} beside them or one folder above.
        mask: where ``mae``, ``psnr`` and ``ssim`` count (non-zero voxels); default the whole volume for CT in HU, else
            the foreground of the reference, see `medgen.data.body_mask.foreground_mask`.
        prediction_labels: segmentations of the predictions, scored against ``labels``.
        lesions: masks of the lesions in the source; None: the labels whose name says so (`terminology.is_lesion`).
        real_cohort: real volumes of the target's kind, best of other patients; None: the reference.
        training_images: the real volumes that the model was trained to make; predictions are tested for copies of them.
        cases: names of the reference cases that count, such as a test split; None for all.
        patient_pattern: regular expression that finds the patient in a case's name (its first group if it has one),
            for intervals over patients; None: each case is a patient.
    """

    prediction: Path
    reference: Path | None = None
    source: Path | None = None
    labels: Path | None = None
    mask: Path | None = None
    prediction_labels: Path | None = None
    lesions: Path | None = None
    real_cohort: Path | None = None
    training_images: Path | None = None
    cases: Collection[str] | None = None
    patient_pattern: str | None = None

    @property
    def by_role(self) -> dict[str, Path | None]:
        """The paths of what every case has a file of."""
        return {role: getattr(self, role) for role in ROLES}


@dataclass(frozen=True)
class Options:
    """How volumes are measured.

    Attributes:
        data_range: span of possible values for PSNR and SSIM; default 4095 for CT in HU.
        profile: one of `medgen.evaluation.metrics.challenges.PROFILES`, whose numbers are added under its name.
        tolerance_mm: deviation that the surface Dice of segmentations forgives.
        extractor: of features, for the distances between the sets of predictions and of real volumes; None: none.
        feature_cache: folder in which features of the real volumes are kept for the next system; None: nowhere.
        checks: limits and segmenter of the structure check, which every case with a source gets; None: the limits that
            the conversion recorded in its manifest, else the general ones, see docs/decisions/checks.md.
        downstream: trains segmenters on references and predictions with ``labels`` and tests them, see
            `medgen.downstream.section.Protocols`; None: do not.
        cluster: measure the cases on its machines, which have to see the same files; None: in this process.
        progress: called after each case.
    """

    data_range: float | None = None
    profile: str = "generic"
    tolerance_mm: float = 2.0
    extractor: Extractor | None = None
    feature_cache: Path | None = None
    checks: Checks | None = None
    downstream: Callable[..., dict[str, Any]] | None = None
    cluster: Cluster | None = None
    progress: Progress | None = None


def check_request(inputs: Inputs, out: Path, options: Options) -> None:
    """Raise `InputError` for settings that are out of range, or that need inputs which were not given."""
    _check_options(options)
    _check_needs(inputs, options)
    for role, path in {
        **inputs.by_role,
        "real_cohort": inputs.real_cohort,
        "training_images": inputs.training_images,
    }.items():
        if path is not None and Path(path).resolve() == Path(out).resolve():
            raise InputError(
                "output-is-input",
                f"--out {out} is the folder of --{role.replace('_', '-')}: give the results one of their own",
            )


def _check_options(options: Options) -> None:
    if options.profile not in PROFILES:
        raise InputError(
            "metric-profile-unknown",
            f"no metric profile is named {options.profile!r}: choose one of {', '.join(PROFILES)}",
        )
    if options.data_range is not None and not (np.isfinite(options.data_range) and options.data_range > 0):
        raise InputError(
            "metric-data-range-invalid", f"--data-range must be a number above 0, not {options.data_range}"
        )
    if not options.tolerance_mm >= 0:
        raise InputError(
            "metric-tolerance-range", f"--tolerance must be a number of mm, 0 or above, not {options.tolerance_mm}"
        )


def _check_needs(inputs: Inputs, options: Options) -> None:
    if inputs.reference is None and inputs.source is None and inputs.real_cohort is None:
        raise InputError(
            "evaluation-nothing-to-compare",
            "nothing to compare with: give --reference (the truth), --source (the input) or --real-cohort (others)",
        )
    if options.extractor is not None and inputs.reference is None and inputs.real_cohort is None:
        raise InputError(
            "evaluation-real-volumes-needed",
            "a distance of sets needs real volumes: give --real-cohort (other patients) or --reference",
        )
    if inputs.source is None and (options.checks is not None or inputs.lesions is not None):
        raise InputError(
            "evaluation-source-needed", "the structure check compares the prediction with its input: give --source"
        )
    if options.downstream is not None and (inputs.reference is None or inputs.labels is None):
        raise InputError(
            "evaluation-reference-labels-needed",
            "segmenters are trained on true volumes with labels: give --reference and --labels",
        )

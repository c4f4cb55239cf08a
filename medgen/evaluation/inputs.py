"""Inputs and options of `evaluate`, which are checked before the long computation starts."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen.cluster import Cluster
from medgen.errors import InputError
from medgen.evaluation.features.extractor import Extractor
from medgen.evaluation.metrics.challenges import PROFILES
from medgen.qa.run import Checks

Progress = Callable[[int, int, str], None]  # (cases done, total number of cases, name of the last case)
ROLES = ("reference", "prediction", "source", "labels", "mask", "prediction_labels", "lesions")


@dataclass(frozen=True)
class Inputs:
    """Folders of volumes matched by case name (the file name without its suffix), or one file each.

    Attributes:
        prediction: the converted or generated volumes.
        reference: the ground truth. Without it, ``source`` or ``real_cohort`` is required, and only region means, slice
            continuity, structure and distribution distances are measured.
        source: the unconverted images, with the same names and grids; measured like the predictions, as the baseline.
        labels: label maps; ``labels.json`` = {structure: value} in the same folder or one above names the structures.
        mask: non-zero in the voxels in which ``mae``, ``psnr``, ``ssim`` and the other columns without a prefix are
            computed; None: the whole volume for CT in HU, else the foreground of the reference, see
            `medgen.data.body_mask.foreground_mask`.
        prediction_labels: segmentations of the predictions, scored against ``labels``.
        lesions: lesion masks of the source; None: the labels with a lesion name (`terminology.is_lesion`).
        real_cohort: real volumes of the target modality, preferably of other patients; None: the reference.
        training_images: real target volumes that the model was trained on; predictions are tested for copies of them.
        cases: names of the cases to measure, such as a test split; None for all.
        patient_pattern: regular expression that extracts the patient from a case name (its first group if it has
            one), for confidence intervals over patients; None: each case is a patient.
        patients: {case: patient}, of which a data set says it; in place of the pattern.
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
    patients: Mapping[str, str] | None = None

    @property
    def by_role(self) -> dict[str, Path | None]:
        """Return {role: path} of the inputs that have one file per case."""
        return {role: getattr(self, role) for role in ROLES}


@dataclass(frozen=True)
class Options:
    """Measurement options.

    Attributes:
        data_range: range of possible values for PSNR and SSIM; None: 4095 for CT in HU, required for other images.
        data_range_origin: where the range comes from, for the summary.
        profile: one of `medgen.evaluation.metrics.challenges.PROFILES`, whose metrics are added under its name.
        tolerance_mm: tolerance of the surface Dice of segmentations.
        extractor: feature extractor for distribution distances of predictions from real volumes; None: not measured.
        feature_cache: folder that caches the features of the real volumes for other evaluations; None: no cache.
        checks: thresholds and segmenter of the structure check, which runs on every case with a source; None: no
            segmenter, and the thresholds in the conversion manifest, else the general ones, see
            docs/decisions/checks.md.
        downstream: trains segmenters on references and predictions with ``labels`` and tests them, see
            `medgen.downstream.section.Protocols`; None: not run.
        cluster: the cases are measured on its machines, which need access to the same files; None: in this process.
        progress: called after each case.
    """

    data_range: float | None = None
    data_range_origin: str = "given by the user"
    profile: str = "generic"
    tolerance_mm: float = 2.0
    extractor: Extractor | None = None
    feature_cache: Path | None = None
    checks: Checks | None = None
    downstream: Callable[..., dict[str, Any]] | None = None
    cluster: Cluster | None = None
    progress: Progress | None = None


def check_request(inputs: Inputs, out: Path, options: Options) -> None:
    """Raise `InputError` for settings that are out of range or that need an input that is missing."""
    _check_options(options)
    _check_required_inputs(inputs, options)
    for role, path in {
        **inputs.by_role,
        "real_cohort": inputs.real_cohort,
        "training_images": inputs.training_images,
    }.items():
        if path is not None and Path(path).resolve() == Path(out).resolve():
            raise InputError(
                "output-is-input",
                f"--out {out} is the folder of --{role.replace('_', '-')}; give the results their own folder",
            )


def _check_options(options: Options) -> None:
    if options.profile not in PROFILES:
        raise InputError(
            "metric-profile-unknown",
            f"no metric profile is named {options.profile!r}; choose one of {', '.join(PROFILES)}",
        )
    if options.data_range is not None and not (np.isfinite(options.data_range) and options.data_range > 0):
        raise InputError(
            "metric-data-range-invalid", f"--data-range must be a number above 0, not {options.data_range}"
        )
    if not options.tolerance_mm >= 0:
        raise InputError("metric-tolerance-range", f"--tolerance must be 0 mm or more, not {options.tolerance_mm}")


def _check_required_inputs(inputs: Inputs, options: Options) -> None:
    if inputs.reference is None and inputs.source is None and inputs.real_cohort is None:
        raise InputError(
            "evaluation-nothing-to-compare",
            "nothing to compare with; give --reference (ground truth), --source (input) or --real-cohort",
        )
    if options.extractor is not None and inputs.reference is None and inputs.real_cohort is None:
        raise InputError(
            "evaluation-real-volumes-needed",
            "--extractor compares predictions with real volumes; give --real-cohort (other patients) or --reference",
        )
    if options.extractor is None and inputs.training_images is None and inputs.real_cohort is not None:
        raise InputError(
            "evaluation-extractor-needed",
            "--real-cohort is for distribution distances; give --extractor, such as radiomics, or omit it",
        )
    if inputs.source is None and (options.checks is not None or inputs.lesions is not None):
        raise InputError(
            "evaluation-source-needed", "the structure check compares the prediction with its input; give --source"
        )
    if options.downstream is not None and (inputs.reference is None or inputs.labels is None):
        raise InputError(
            "evaluation-reference-labels-needed",
            "--downstream trains segmenters on reference volumes with labels; give --reference and --labels",
        )

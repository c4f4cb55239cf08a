"""Detect scans outside the training distribution of a model."""

from collections.abc import Sequence

from medgen.checkpoint import Model, removes_contrast
from medgen.data.cohort.modality import lacks_air
from medgen.data.fingerprint import describe, distribution_shift_reasons, resembles_target
from medgen.data.intensity import fit_range
from medgen.io.volume import Volume, canonical_view


def out_of_distribution(model: Model, volumes: Sequence[Volume]) -> list[str]:
    """Reasons why a case lies outside the training distribution of the model; empty if it does not.

    Args:
        volumes: one per contrast, in the order of data.sources.
    """
    intensity = model.settings.intensity.source.model_dump(exclude={"follow"})
    one_grid = model.settings.data.spacing is not None  # then every voxel size is resampled to it
    names = model.settings.data.sources
    targets = [[scan.model_dump() for scan in scans] for scans in model.info.training_targets]
    sentences: list[str] = []
    for name, volume, scans in zip(names, volumes, model.info.training_scans, strict=False):
        canonical = canonical_view(volume)
        found = describe(canonical.data, canonical.spacing, fit_range(canonical.data, **intensity))
        prefix = f"{name}: " if len(names) > 1 else ""
        known = [scan.model_dump() for scan in scans]
        for reason in distribution_shift_reasons(found, known, check_spacing=not one_grid):
            sentences.append(f"{prefix}outside the training distribution: {reason}")
        if lacks_air(model.settings.intensity.source, canonical.data):
            sentences.append(
                f"{prefix}no voxel has the HU of fat or air: the values may lack the offset of -1024, or not be HU"
            )
        for target, trained_targets in zip(model.settings.data.targets, targets, strict=False):
            if resembles_target(found, known, trained_targets):
                state = "without contrast medium" if removes_contrast(model) else "one of them"
                sentences.append(
                    f"{prefix}looks like the {target} images that this model makes, not like its {name} input images; "
                    f"it may already be {state}"
                )
    return sentences

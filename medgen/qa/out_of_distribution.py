"""Whether a scan is one that a model can be expected to translate well."""

from collections.abc import Sequence

from medgen.checkpoint import Model, removes_contrast
from medgen.data.fingerprint import describe, distribution_shift_reasons, resembles_target
from medgen.data.intensity import fit_range
from medgen.io.volume import Volume, canonical_view


def out_of_distribution(model: Model, volumes: Sequence[Volume]) -> list[str]:
    """Why a case lies outside what the model was trained on; empty when it does not.

    Args:
        volumes: one a contrast, in the order of data.sources.
    """
    intensity = model.settings.intensity.source.model_dump(exclude={"follow"})
    one_grid = model.settings.data.spacing is not None  # then every voxel size is meant to be brought to it
    names = model.settings.data.sources
    targets = [[scan.model_dump() for scan in scans] for scans in model.info.training_targets]
    sentences: list[str] = []
    for name, volume, scans in zip(names, volumes, model.info.training_scans, strict=False):
        upright = canonical_view(volume)
        look = describe(upright.data, upright.spacing, fit_range(upright.data, **intensity))
        where = f"{name}: " if len(names) > 1 else ""
        known = [scan.model_dump() for scan in scans]
        for reason in distribution_shift_reasons(look, known, check_spacing=not one_grid):
            sentences.append(f"{where}outside the training distribution: {reason}")
        for target, made in zip(model.settings.data.targets, targets, strict=False):
            if resembles_target(look, known, made):
                told = "without contrast medium" if removes_contrast(model) else "one of them"
                sentences.append(
                    f"{where}looks like the {target} images that this model makes, not like the {name} images that it "
                    f"takes: it may be {told} already"
                )
    return sentences

"""Start a training from the weights of a trained model."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from medgen.checkpoint import read_info, regular
from medgen.data.cohort.layouts import shortened_list
from medgen.errors import InputError
from medgen.model_info import TableInfo
from medgen.models import model_folder
from medgen.settings import Settings

MOST_WEIGHTS = 2**34  # bytes


def start_from(
    generator: nn.Module,
    model: Path,
    settings: Settings,
    say: Callable[[str], None],
    labels: Mapping[str, int] | None = None,
    spacing: Sequence[float] | None = None,
) -> None:
    """Load the weights of a model folder (or of a model that comes with medgen) where name and shape agree.

    Tells how many fit and which do not: those keep their initial values. Warns if the model was trained with other
    intensity codecs, because its weights see other values then, with voxels of another size than ``spacing`` (mm), or
    on other ``labels`` (the values of the label maps that are the source).

    Raises:
        InputError: not a model folder, contrasts in another order than in ``settings``, or no weight fits.
    """
    folder, data = model_folder(model), settings.data
    info, trained = read_info(folder)
    theirs = trained.data
    for what in ("sources", "targets", "domains"):
        old, new = getattr(theirs, what), getattr(data, what)
        if sorted(old) == sorted(new) and tuple(old) != tuple(new):
            raise InputError(
                "train-start-from-order",
                f"train.start_from={model} has the {what} {', '.join(old)}, but data.{what} is {', '.join(new)}; use "
                "the same order",
            )
    weights = load_file(regular(folder / "weights.safetensors", MOST_WEIGHTS))
    own = generator.state_dict()
    fits = {
        key: value.to(own[key].dtype) for key, value in weights.items() if key in own and own[key].shape == value.shape
    }
    if not fits:
        raise InputError(
            "train-start-from-nothing-fits",
            f"train.start_from={model}: none of its weights fit this generator; use the model's own method.generator",
        )
    generator.load_state_dict(fits, strict=False)
    rest = [key for key in own if key not in fits]
    say(
        f"started from {model}: {len(fits)} of {len(own)} weights"
        + (f"; at their initial values: {', '.join(rest[:5])}{' ...' if len(rest) > 5 else ''}" if rest else "")
    )
    others = next((entry.labels for entry in info.source_range if isinstance(entry, TableInfo)), None)
    orders = [sorted(table, key=table.__getitem__) for table in (others, labels) if table]
    other_labels = []
    if len(orders) == 2 and orders[0] != orders[1]:  # channels are in the order of the values
        other_labels = [f"the labels {', '.join(orders[0])}, in the order of their values, not {', '.join(orders[1])}"]
    other_grid = []
    if spacing is not None and not np.allclose(info.spacing, spacing, rtol=0.1):
        sides = (" × ".join(f"{side:g}" for side in each) for each in (info.spacing, spacing))
        other_grid = ["voxels of {} mm, not {}".format(*sides)]
    for text in (*_differences(trained, settings), *other_grid, *other_labels):
        say(f"warning: {model} was trained with {text}; its weights have to adapt to it")


def record_ancestors(
    training_data: dict[str, Any],
    test_images: Mapping[str, str],
    model: Path,
    earlier: Mapping[str, Any] | None,
    say: Callable[[str], None],
) -> None:
    """Add the images of the model that a training starts from to its record, and warn about held-out cases in them.

    Args:
        training_data: record of this training, changed in place: "ancestors" = {content hash: case} of the images that
            the model, and the models that it was started from, were trained or selected with. No warning about cases
            that were also validation cases of the model: its weights have not seen them.
        test_images: {content hash: case} of the test cases of this training.
        earlier: record of the run that is resumed, which holds them already.
    """
    if earlier is not None:
        training_data["ancestors"] = dict(earlier.get("ancestors", {}))
        return
    theirs = read_info(model_folder(model))[0].training_data
    training_data["ancestors"] = ancestors = {**theirs.get("ancestors", {}), **theirs.get("images", {})}
    held_out = set(training_data.get("validation", ()))
    unseen = {image for image, case in theirs.get("images", {}).items() if case in theirs.get("validation", ())}
    trained = ancestors.keys() - (unseen - theirs.get("ancestors", {}).keys())
    seen = sorted({case for image, case in training_data["images"].items() if image in trained and case in held_out})
    if seen:
        say(
            f"warning: {model} was trained with {len(seen)} of the {len(held_out)} validation cases "
            f"({shortened_list(seen)}): the best checkpoint is chosen on images that "
            "its weights have seen; use the split of that training (data.split)"
        )
    tested = sorted({case for image, case in test_images.items() if image in ancestors})
    if tested:
        say(
            f"warning: {model} was trained or selected with {len(tested)} of the {len(set(test_images.values()))} test "
            f"cases ({shortened_list(tested)}): they cannot test this model; use that training's split (data.split)"
        )


def _differences(old: Settings, new: Settings) -> list[str]:
    """What differs between the inputs of two models: codecs and domains."""
    found = []
    for side in ("source", "target"):
        before, now = (getattr(settings.intensity, side) for settings in (old, new))
        keys = {"kind", "low", "high", "background"} | ({"width"} if now.kind == before.kind == "zscore" else set())
        ours, others = (codec.model_dump(include=keys, exclude_none=True) for codec in (now, before))
        if ours != others:
            found.append(f"intensity.{side} {_shown(others)}, not {_shown(ours)}")
    if set(old.data.domains) != set(new.data.domains):
        found.append(
            f"data.domains {', '.join(old.data.domains) or 'none'}, not {', '.join(new.data.domains) or 'none'}"
        )
    return found


def _shown(codec: Mapping[str, Any]) -> str:
    shown = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in codec.items()}
    named = ("background", "width")
    return " ".join(f"{key} {value}" if key in named else value for key, value in shown.items())

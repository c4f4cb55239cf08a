"""Start a training from the weights of a trained model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from medgen.checkpoint import read_info, regular
from medgen.errors import InputError
from medgen.models import model_folder
from medgen.settings import Settings

MOST_WEIGHTS = 2**34  # bytes


def start_from(generator: nn.Module, model: Path, settings: Settings, say: Callable[[str], None]) -> None:
    """Load the weights of a model folder (or of a model that comes with medgen) where name and shape agree.

    Tells how many fit and which do not: those keep their initial values. Warns if the model was trained with other
    intensity codecs, because its weights see other values then, or on another spacing.

    Raises:
        InputError: not a model folder, contrasts in another order than in ``settings``, or no weight fits.
    """
    folder, data = model_folder(model), settings.data
    trained = read_info(folder)[1]
    theirs = trained.data
    for what, old, new in (("sources", theirs.sources, data.sources), ("targets", theirs.targets, data.targets)):
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
    for text in _differences(trained, settings):
        say(f"warning: {model} was trained with {text}; its weights have to adapt to it")


def _differences(old: Settings, new: Settings) -> list[str]:
    """What differs between the inputs of two models: codecs and spacing."""
    found = []
    for side in ("source", "target"):
        before, now = (getattr(settings.intensity, side) for settings in (old, new))
        ours, others = (codec.model_dump(include={"kind", "low", "high"}, exclude_none=True) for codec in (now, before))
        if ours != others:
            found.append(f"intensity.{side} {_shown(others)}, not {_shown(ours)}")
    spacings = old.data.spacing, new.data.spacing
    if None not in spacings and "median" not in spacings and not np.allclose(*spacings, rtol=0.1):  # type: ignore[arg-type]
        found.append(f"data.spacing {spacings[0]}, not {spacings[1]}")
    return found


def _shown(codec: Mapping[str, Any]) -> str:
    return " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in codec.values())

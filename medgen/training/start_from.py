"""Start a training from the weights of a trained model."""

from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from medgen.checkpoint import read_info, regular
from medgen.errors import InputError
from medgen.models import model_folder
from medgen.settings import Data

MOST_WEIGHTS = 2**34  # bytes


def start_from(generator: nn.Module, model: Path, data: Data, say: Callable[[str], None]) -> None:
    """Load the weights of a model folder (or of a model that comes with medgen) where name and shape agree.

    Tells how many fit and which do not: those keep their initial values.

    Raises:
        InputError: not a model folder, contrasts in another order than ``data``, or no weight fits.
    """
    folder = model_folder(model)
    theirs = read_info(folder)[1].data
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

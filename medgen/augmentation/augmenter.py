"""What makes synthetic cases of a labelled one, chosen by the name of a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medgen.augmentation.dataset import LabelledDataset
from medgen.checkpoint import Model, load_model, read_info
from medgen.inference.convert import out_of_distribution
from medgen.inference.predict import translate_case
from medgen.io.volume import Volume
from medgen.types import InputError

# images (one a channel), label, names {structure: value}, rng → images, label, operations. On the grid of the first
# image, in the units of the files. Each operation is a dict that JSON can say, with "operation" for its name; one that
# took images of others says whose: "patients". "warnings" are sentences for the user.
Way = Callable[
    [list[Volume], Volume, Mapping[str, int], np.random.Generator], tuple[list[Volume], Volume, list[dict[str, Any]]]
]
TRANSLATORS = ("pix2pix", "cyclegan", "cut", "multi_domain")


@dataclass(frozen=True)
class Augmenter:
    """``ways`` to make a case of another, taken in turn. ``model``: name and hash, for the record.

    ``random``: whether a way makes another case at another draw. ``channels`` that it takes; None: any number.
    """

    ways: tuple[Way, ...]
    model: Mapping[str, Any]
    random: bool = True
    channels: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from others: a model that has a hash is the same wherever its folder lies."""
        return {key: value for key, value in self.model.items() if key != "name" or "sha256" not in self.model}


def augmenter_for(
    model: str, dataset: LabelledDataset, *, targets: Sequence[str] = (), device: str = "cpu"
) -> Augmenter:
    """The augmenter that a name stands for.

    Args:
        model: folder of a translator.
        dataset: whose cases will be augmented.
        targets: domains to translate to, of a model of several; none: each in turn.

    Raises:
        InputError: no model, one that makes no cases for this dataset, or an unknown target.
    """
    if not (Path(model) / "model.json").is_file():
        raise InputError(f"{model} is no model folder (it has no model.json); give RUN/best of a training run")
    _, settings = read_info(Path(model))
    method = settings.method["name"]
    if method in TRANSLATORS:
        return translator(Path(model), targets or settings.data.domains, device)
    raise InputError(f"{model} is a model of {method}, which augments no dataset; give one of {', '.join(TRANSLATORS)}")


def translator(folder: Path, targets: Sequence[str], device: str = "cpu") -> Augmenter:
    """Adds each case as the model translates it, its label untouched: the other contrast or phase.

    Raises:
        InputError: not as many contrasts out as in, so that channels of the dataset would be left without images.
    """
    models = [load_model(folder, device, target=target) for target in (targets or (None,))]
    info, data = models[0].info, models[0].settings.data
    if len(data.sources) != len(data.targets):
        raise InputError(
            f"{folder} makes {', '.join(data.targets)} of {', '.join(data.sources)}, but a case needs all its channels "
            "again; give a model of as many targets as sources"
        )
    about = {"name": str(folder), "method": models[0].settings.method["name"], "step": info.step, "sha256": info.sha256}
    about |= {"targets": list(targets)} if targets else {}
    ways = tuple(partial(_translated, model) for model in models)
    return Augmenter(ways, about, random=False, channels=len(data.sources))


def _translated(
    model: Model, images: list[Volume], label: Volume, names: Mapping[str, int], rng: np.random.Generator
) -> tuple[list[Volume], Volume, list[dict[str, Any]]]:
    data = model.settings.data
    operation = {
        "operation": "translate",
        "from": list(data.sources),
        "to": [model.target] if model.target else list(data.targets),
        "warnings": out_of_distribution(model, images),
    }
    return translate_case(model, images), label, [operation]

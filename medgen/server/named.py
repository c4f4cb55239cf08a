"""The models of a server: a name for each."""

from collections.abc import Sequence
from pathlib import Path

from medgen.checkpoint import read_info
from medgen.errors import InputError
from medgen.models import model_folder, shipped


def served_models(models: Sequence[Path]) -> tuple[dict[str, Path], dict[str, str]]:
    """Names and folders of models, and a sentence on each.

    A model is named after its folder; RUN/best and RUN/last after RUN.

    Raises:
        InputError: two models of one name, or a model that does not translate one scan to one image.
    """
    named: dict[str, Path] = {}
    about: dict[str, str] = {}
    for model in models:
        folder = model_folder(model).resolve()
        _, settings = read_info(folder)
        data = settings.data
        if len(data.sources) != 1 or len(data.targets) != 1 or data.domains or settings.label_source:
            raise InputError(
                "server-model-unsuited", f"{model} does not translate one scan to one image; use medgen translate"
            )
        name = folder.parent.name if folder.name in ("best", "last") else folder.stem
        if name in named:
            raise InputError("server-model-name", f"two models have the name {name}; rename the folder of one")
        named[name] = folder
        about[name] = shipped().get(name, "") or f"{data.sources[0]} to {data.targets[0]}, {settings.method.name}"
    return named, about

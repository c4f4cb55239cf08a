"""Refuse a model of the wrong kind: one that generates images from nothing cannot translate, and the reverse."""

from medgen.checkpoint import Model
from medgen.errors import InputError


def check_translates(model: Model) -> None:
    """Raises InputError for a model that generates images from nothing."""
    if model.settings.generative:
        raise InputError(
            "model-generates",
            f"{model.folder} is a {model.settings.method.name} model, which translates no scans but learns from images "
            "alone; use medgen sample",
        )


def check_keeps_grid(model: Model) -> None:
    """Raises InputError for a model whose outputs lie on its own grid, where label maps of its inputs do not fit."""
    if model.settings.inference.grid == "model":
        raise InputError(
            "model-other-grid",
            f"{model.folder} writes volumes on its own grid (inference.grid=model), where the label maps of the scans "
            "do not fit; translate the scans with medgen translate and resample the label maps",
        )


def check_generates(model: Model) -> None:
    """Raises InputError for a model that makes its images from others, or that only encodes images."""
    name = model.settings.method.name
    if not model.settings.generative:
        raise InputError(
            "model-translates",
            f"{model.folder} is a {name} model, which makes images from others; use medgen translate",
        )
    if not hasattr(model.method, "sample"):
        raise InputError(
            "model-no-prior",
            f"{model.folder} is a {name} model, which encodes images but generates none; use another method, such as "
            "vae",
        )

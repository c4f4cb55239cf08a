"""Trained models that come with medgen: one model folder each, and a card (``card.md``) that says what it is for."""

import difflib
from pathlib import Path

from medgen.errors import InputError

FOLDER = Path(__file__).parent


def shipped() -> dict[str, str]:
    """Names of the models that come with medgen, each with the first line of its card."""
    found = sorted(path.parent for path in FOLDER.glob("*/model.json"))
    return {path.name: _first_line(path / "card.md") for path in found}


def model_folder(model: Path | str) -> Path:
    """The folder of a model: an existing path, or the name of one that comes with medgen.

    Raises:
        InputError: neither, and the text has no path separator; suggests the closest name.
    """
    path = Path(model)
    if path.exists() or len(path.parts) > 1 or path.is_absolute():
        return path
    known = shipped()
    if path.name in known:
        return FOLDER / path.name
    if close := difflib.get_close_matches(path.name, known, n=1, cutoff=0.6):
        raise InputError(
            "model-name-unknown",
            f"{model} is neither a model folder nor a model that comes with medgen; did you mean {close[0]}?",
        )
    return path


def _first_line(card: Path) -> str:
    return card.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") if card.is_file() else ""

"""Load the segmenter that is named on a command line."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgen.config import check
from medgen.data.labels.names import label_names
from medgen.errors import InputError
from medgen.io.paths import require_path
from medgen.io.text import read_text
from medgen.segmentation.external import Segment, bundle, nnunet, torchscript
from medgen.segmentation.model import load_segmenter
from medgen.settings import Spacing
from medgen.types import Section

KNOWN = (
    "a folder written by train_segmenter, a MONAI bundle's folder, a TorchScript file or nnunet:DATASET[:CONFIGURATION]"
)


@dataclass(frozen=True)
class NamedSegmenter:
    """A segmenter with its label names and hash.

    ``segment``: image → labels on its grid. ``names``: {label: structure}, empty if unknown. ``sha256``: hash of its
    files; "" for nnU-Net, which manages its own model files.
    """

    text: str
    segment: Segment
    names: Mapping[int, str]
    sha256: str = ""


class Grid(Section):
    """Grid and intensities that a TorchScript network or bundle was trained on, see `segmentation.model.segment`."""

    values: tuple[int, ...] | None = None
    spacing: Spacing | None = None
    intensity: dict[str, Any] | None = None
    patch: tuple[int, int, int] | None = None


def named_segmenter(text: str, *, device: str = "cpu") -> NamedSegmenter:
    """Load a segmenter from a folder, a file, or ``nnunet:`` with the number or name of a data set.

    ``labels.json`` = {structure: value} in the folder, beside the file or one folder above gives the names of the
    labels. ``grid.json`` beside the TorchScript file or in the bundle's folder gives the training grid, with the keys
    of `Grid`; without it the network gets the volume unchanged.

    Raises:
        InputError: not a segmenter, or an error of its loader.
    """
    kind, _, rest = text.partition(":")
    if kind == "nnunet" and rest:
        dataset, _, configuration = rest.partition(":")
        arguments = [] if device.startswith("cuda") else ["-device", device]
        return NamedSegmenter(text, nnunet(dataset, configuration or "3d_fullres", arguments=arguments), {})
    path = require_path(text)
    names = label_names(path)
    segment: Segment
    if (path / "segmenter.json").is_file():
        segment = load_segmenter(path, device)
    elif path.is_file():
        segment = torchscript(path, device=device, **_grid(path.parent))
    elif (path / "configs").is_dir():
        segment = bundle(path, device=device, **_grid(path))
    else:
        raise InputError("segmenter-unknown", f"{path} is not a segmenter; give {KNOWN}")
    return NamedSegmenter(text, segment, names, _hash(path, names))


def _hash(path: Path, names: Mapping[int, str]) -> str:
    """Hash of the file or of all files of the folder, of ``grid.json``, and of the label names."""
    files = [path, path.parent / "grid.json"] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    digest = hashlib.sha256(json.dumps(sorted(names.items())).encode())
    for file in (file for file in files if file.is_file()):
        with open(file, "rb") as content:
            digest.update(f"{file.name} {hashlib.file_digest(content, 'sha256').hexdigest()} ".encode())
    return digest.hexdigest()


def _grid(folder: Path) -> dict[str, Any]:
    file = folder / "grid.json"
    if not file.is_file():
        return {}
    try:
        parsed = json.loads(read_text(file))
    except (ValueError, OSError) as error:
        raise InputError("json-unreadable", f"cannot read {file} as JSON: {error}; correct it") from None
    if not isinstance(parsed, dict):
        raise InputError(
            "json-wrong-type", f'{file} must be a JSON object with keys such as "spacing", not {type(parsed).__name__}'
        )
    return check(Grid, parsed, str(file)).model_dump(exclude_none=True)

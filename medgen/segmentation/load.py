"""The segmenter that a command line names."""

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
    "a folder that train_segmenter wrote, a MONAI bundle's folder, a TorchScript file, nnunet:DATASET[:CONFIGURATION]"
)


@dataclass(frozen=True)
class NamedSegmenter:
    """``segment``: image → labels on its grid; ``names`` {label: structure}, empty where nothing tells them.

    ``sha256`` of its files; "" for nnU-Net's, which lie where nnU-Net knows."""

    text: str
    segment: Segment
    names: Mapping[int, str]
    sha256: str = ""


class Grid(Section):
    """What the network of a TorchScript file or bundle was trained on, see `segmenter.segment`."""

    values: tuple[int, ...] | None = None
    spacing: Spacing | None = None
    intensity: dict[str, Any] | None = None
    patch: tuple[int, int, int] | None = None


def named_segmenter(text: str, *, device: str = "cpu") -> NamedSegmenter:
    """A segmenter by its folder, its file, or ``nnunet:`` with the data set's number or name.

    ``labels.json`` = {structure: value} in the folder, beside the file or one folder above names its labels. What a
    TorchScript file or a bundle was trained on stands in ``grid.json`` beside the file or in the folder, with keys of
    `Grid`; without it the network sees the volume as it is.

    Raises `InputError` for anything else, and what the segmenter's own loader refuses.
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
        raise InputError("segmenter-unknown", f"{path} is no segmenter; give {KNOWN}")
    return NamedSegmenter(text, segment, names, _hash(path, names))


def _hash(path: Path, names: Mapping[int, str]) -> str:
    """Of the file or all files of the folder, of how the network sees a volume, and of the labels' names."""
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
        given = json.loads(read_text(file))
    except (ValueError, OSError) as error:
        raise InputError("json-unreadable", f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(given, dict):
        raise InputError("json-wrong-type", f'{file} must hold keys such as "spacing", not {type(given).__name__}')
    return check(Grid, given, str(file)).model_dump(exclude_none=True)

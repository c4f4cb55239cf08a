"""A model is a folder: weights as safetensors, everything else as JSON, so loading it cannot run code.

weights.safetensors   the generator (its moving average where one is kept)
model.json            settings, codecs, grid, fingerprint of the training data, versions, training curve
training.*            in ``last`` only: all networks, optimizers and memory, for an exact resume
"""

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medgen.config import parse_settings
from medgen.data.intensity import Code, Range, TargetRange
from medgen.data.labels.codec import LabelTable
from medgen.environment import git_commit, versions
from medgen.errors import InputError
from medgen.io.atomic import recovered
from medgen.methods import method_class
from medgen.methods.base import Method
from medgen.model_info import ModelInfo, TableInfo
from medgen.settings import Settings
from medgen.terminology import NATIVE
from medgen.types import DataShape

FORMAT = 4
MOST_TEXT = 2**28  # bytes of model.json: the looks of 100,000 training scans
MOST_WEIGHTS = 2**33  # bytes
MOST_HEADER = 2**24  # bytes beside the weights in their file


@dataclass
class Model:
    """A loaded model: everything that a new scan needs."""

    method: Method
    settings: Settings
    info: ModelInfo
    folder: Path | None = None
    target: str | None = None  # the domain chosen, of a model of several

    @property
    def generator(self) -> nn.Module:
        return self.method.networks[self.method.generator]

    @property
    def source_code(self) -> Code:
        """The typical range of the first source, or the table of its labels."""
        found = self.info.source_range[0]
        return LabelTable(**found.model_dump()) if isinstance(found, TableInfo) else Range(**found.model_dump())

    @property
    def target_ranges(self) -> list[TargetRange]:
        """Where each output is decoded; those that follow a source follow the first."""
        source = self.source_code
        targets = [Range(**r.model_dump()) for r in self.info.target_range]
        return [TargetRange(target, source, self.settings.intensity.target.follow) for target in targets]


def build_method(settings: Settings) -> Method:
    """The method that the settings name, freshly initialised; its channels are those of the data.

    Raises:
        InputError: its settings contradict each other or the data section.
    """
    method, data = settings.method, settings.data
    if method.needs_domains != bool(data.domains):
        raise InputError(
            "config-domains-mismatch",
            f"method {method.name} translates between domains; name their folders, e.g. "
            "data.domains=[none, arterial, portal_venous]"
            if method.needs_domains
            else f"method {method.name} knows no domains; leave data.domains out, or use multi_domain",
        )
    paired_terms = [name for name in ("weight_l1", "weight_l2") if getattr(method, name, 0)]
    if data.domains and paired_terms and not data.paired_domains:
        raise InputError(
            "config-paired-domains-required",
            f"method.{paired_terms[0]} compares domains of one patient; set data.paired_domains to true or it to 0",
        )
    if method.paired_only and not data.paired:
        raise InputError(
            "config-paired-required",
            f"method {method.name} learns from pairs; set data.paired to true, or use cyclegan or cut",
        )
    if method.needs_classes and data.classes is None:
        raise InputError(
            "config-labels-required",
            f"method {method.name} learns from labels; set data.labels to true and data.class_groups, e.g. "
            "{host: [liver], lesion: [tumour]}",
        )
    try:
        built = method_class(method.name)(method, _data_shape(settings))
        built.optimizers()  # Adam checks its own arguments
    except (ValueError, RuntimeError, OverflowError) as error:  # torch: sizes that overflow, or do not fit in memory
        reason = str(error).splitlines()[0][:200]
        raise InputError("config-method-invalid", f"method {method.name}: {reason}") from None
    return built


def _data_shape(settings: Settings) -> DataShape:
    """What follows from the data section and, for slices, from the patch."""
    axis, data = settings.slab_axis, settings.data
    slices = 1 if axis is None else settings.sampling.patch[axis]
    return DataShape(slices * settings.source_channels, slices * len(data.targets), data.classes, len(data.domains))


def save_model(folder: Path, generator: nn.Module, info: ModelInfo) -> None:
    """Write weights and ``model.json`` into an existing folder (see ``io.atomic``)."""
    weights = folder / "weights.safetensors"
    save_weights(_tensors(generator), weights)
    about = {"versions": versions(), "commit": git_commit(), "weights_sha256": _sha256(weights)}
    info = info.model_copy(update=about)
    info = info.model_copy(update={"sha256": info.hash()})
    (folder / "model.json").write_text(json.dumps(info.plain(), indent=1))


def load_model(folder: Path, device: torch.device | str = "cpu", *, target: str | None = None) -> Model:
    """Load a model folder for inference.

    Args:
        folder: RUN/best, RUN/last or a copy of one.
        device: where to.
        target: the domain to translate to, for a model of several (``data.domains``).

    Raises:
        InputError: no such target, not a model folder, another format version, or content that is damaged or was
            changed.
    """
    folder = recovered(Path(folder))
    info, settings = read_info(folder)
    with torch.device("meta"):  # no memory is taken before the shapes are known to be those of the file
        method = build_method(settings)
    model = Model(method, settings, info, folder, _chosen(target, settings, folder))
    if model.target is not None:
        method.target = settings.data.domains.index(model.target)  # type: ignore[attr-defined]
    load_weights(model.generator, folder / "weights.safetensors", info.weights_sha256)
    model.generator.to(device).eval()
    return model


def read_info(folder: Path) -> tuple[ModelInfo, Settings]:
    """What ``model.json`` says, checked, and the settings in it.

    Raises:
        InputError: not a model folder, another format version, or content that is damaged or was changed.
    """
    folder = recovered(Path(folder))
    if not (folder / "model.json").is_file():
        raise InputError(
            "model-json-missing",
            f"{folder} is not a model folder: it has no model.json; give RUN/best or RUN/last of a training run",
        )
    try:
        values = json.loads(regular(folder / "model.json", MOST_TEXT).read_text())
        if not isinstance(values, dict):
            raise ValueError("not an object")
        if values.get("format") != FORMAT:
            raise InputError(
                "model-format",
                f"{folder} is a model of format {values.get('format')!r}, but this medgen reads format {FORMAT}; "
                "use the medgen version that wrote it or train again",
            )
        info = ModelInfo.model_validate(values)
        if info.sha256 != info.hash():
            raise InputError(
                "model-changed", f"{folder}/model.json was changed since the model was saved; restore it or train again"
            )
    except ValidationError as error:
        key = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InputError(
            "model-damaged", f"{folder}/model.json is damaged at {key}; restore the folder or train again"
        ) from None
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            "model-json-unreadable", f"{folder}/model.json cannot be read ({error}); restore the folder or train again"
        ) from None
    settings = parse_settings(info.settings, f"{folder}/model.json")
    if isinstance(info.source_range[0], TableInfo) != settings.label_source:
        raise InputError(
            "model-source-range-damaged",
            f"{folder}/model.json is damaged at source_range; restore the folder or train again",
        )
    for key, names in (("source_range", settings.data.sources), ("target_range", settings.data.targets)):
        if len(getattr(info, key)) != len(names):
            raise InputError(
                "model-range-count-damaged",
                f"{folder}/model.json is damaged at {key}: it is not one range for each of {', '.join(names)}; "
                "restore the folder or train again",
            )
    return info, settings


def _chosen(target: str | None, settings: Settings, folder: Path) -> str | None:
    domains = settings.data.domains
    if target is not None and target not in domains:
        known = f"it translates to {', '.join(domains)}" if domains else "it has one target only; leave --target out"
        raise InputError("model-target-unknown", f"{folder} has no target {target!r}: {known}")
    if domains and target is None:
        raise InputError(
            "model-target-ambiguous", f"{folder} translates to any of {', '.join(domains)}; choose one with --target"
        )
    return target


def load_weights(network: nn.Module, path: Path, sha256: str) -> None:
    """Give a network on the meta device the weights of a file, which may be no larger than they are.

    Raises:
        InputError: no regular file, another hash, or other weights than the network has.
    """
    try:
        most = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
        if most > MOST_WEIGHTS:
            raise InputError(
                "model-weights-too-large",
                f"{path}: the model asks for {most / 2**30:.3g} GiB of weights; use a smaller one",
            )
        if _sha256(regular(path, most + MOST_HEADER)) != sha256:
            raise InputError(
                "model-weights-changed",
                f"{path} is not the file this model was saved with (its hash differs); restore it or train again",
            )
        network.load_state_dict(load_file(path), assign=True)
    except InputError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            "model-weights-mismatch",
            f"{path} does not hold the weights of this model ({reason}); restore it or train again",
        ) from None


def regular(path: Path, most: int) -> Path:
    """The path of a file that can be read to its end. Raises InputError for a device, a pipe, or more bytes."""
    mode = os.stat(path)
    if not stat.S_ISREG(mode.st_mode):
        raise InputError(
            "model-file-not-regular",
            f"{path} is a device, a pipe or a folder, not a file; restore the folder or train again",
        )
    if mode.st_size > most:
        raise InputError(
            "model-file-too-large", f"{path} is larger than what belongs into it; restore the folder or train again"
        )
    return path


def save_weights(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file with the permissions of any other file: safetensors makes it for its owner only.

    Raises OSError where the disk is full.
    """
    path.touch()
    mode = stat.S_IMODE(os.stat(path).st_mode)
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else 0, os.strerror(int(number[1])) if number else str(error)) from None
    os.chmod(path, mode)


def save_training(folder: Path, state: dict[str, Any], rank: int = 0) -> None:
    """Write a nested state of dicts, lists, numbers, text and tensors as safetensors + JSON."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_flatten(state, tensors, "state"))
    save_weights(tensors, folder / f"training-{rank}.safetensors")
    (folder / f"training-{rank}.json").write_text(text)


def load_training(folder: Path, rank: int = 0) -> dict[str, Any]:
    """Inverse of ``save_training``.

    Raises:
        InputError: no training state there, or a damaged one.
    """
    path = recovered(folder) / f"training-{rank}"
    try:
        for suffix in (".safetensors", ".json"):
            regular(path.with_suffix(suffix), 2**40)
        tensors = load_file(path.with_suffix(".safetensors"))
        return _unflatten(json.loads(path.with_suffix(".json").read_text()), tensors)
    except InputError:
        raise
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(
            "training-state-incomplete",
            f"{folder} holds no complete training state ({error}); start again without --resume",
        ) from None


def _flatten(value: Any, tensors: dict[str, Tensor], path: str) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"tensor": path}
    if isinstance(value, dict):
        return {"dict": [[k, _flatten(v, tensors, f"{path}/{k}")] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_flatten(v, tensors, f"{path}/{i}") for i, v in enumerate(value)]}
    return {"value": value}


def _unflatten(node: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {k: _unflatten(v, tensors) for k, v in content}
    if kind in ("list", "tuple"):
        items = [_unflatten(v, tensors) for v in content]
        return items if kind == "list" else tuple(items)
    return content


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous().clone() for k, v in network.state_dict().items()}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def removes_contrast(model: Model, target: str | None = None) -> bool:
    """Whether what a model makes (of several targets: this one, else the first) is CT without contrast medium."""
    data = model.settings.data
    return data.removes_contrast or (target or model.target or data.targets[0]).lower() in NATIVE

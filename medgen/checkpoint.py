"""Save and load model folders. They hold safetensors and JSON only, so loading one cannot execute code.

weights.safetensors   the generator, or its moving average if train.ema > 0
model.json            settings, intensity ranges, grid, fingerprints of the training data, versions, training curve
ensemble.json         in place of both: names of model folders in this folder, whose translations are averaged
training-RANK.*       in ``last`` only: all networks, optimizers and memory, for an exact resume
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
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
from medgen.io.atomic import recover
from medgen.methods import method_class
from medgen.methods.base import Method
from medgen.model_info import ModelInfo, TableInfo
from medgen.models import model_folder
from medgen.onnx_file import onnx_file, onnx_model_json, onnx_network
from medgen.settings import Settings
from medgen.terminology import is_native
from medgen.types import DataShape

FORMAT = 4
ENSEMBLE = "ensemble.json"
MOST_TEXT = 2**28  # bytes of model.json: enough for the fingerprints of 100,000 training scans
INNER_LIST = re.compile(r'\[\n[^][{}"]*\]')  # of numbers; model.json has each on one line, because there are thousands
MOST_WEIGHTS = 2**33  # bytes
MOST_HEADER = 2**24  # bytes of the weight file in addition to the weights


@dataclass
class Model:
    """A loaded model, with everything that is needed to translate a new scan."""

    method: Method
    settings: Settings
    info: ModelInfo
    folder: Path | None = None
    target: str | None = None  # the chosen target domain, for a model with several
    # Runs the network in place of torch, on the CPU: (B, C, X, Y[, Z]) → its output. The generator then has no weights.
    network: Callable[[Tensor], Tensor] | None = None
    members: "tuple[Model, ...]" = ()  # of an ensemble: a translation is the mean of theirs

    @property
    def generator(self) -> nn.Module:
        return self.method.networks[self.method.generator]

    @property
    def device(self) -> torch.device:
        """Where the network takes its input."""
        return torch.device("cpu") if self.network is not None else next(self.generator.parameters()).device

    @property
    def source_code(self) -> Code:
        """The typical intensity range of the first source, or the table of its labels."""
        code = self.info.source_range[0]
        return LabelTable(**code.model_dump()) if isinstance(code, TableInfo) else Range(**code.model_dump())

    @property
    def target_ranges(self) -> list[TargetRange]:
        """The range in which each output is decoded; outputs that follow a source's range follow the first source."""
        targets = [Range(**r.model_dump()) for r in self.info.target_range]
        source = targets[0] if self.settings.generative else self.source_code
        return [TargetRange(target, source, self.settings.intensity.target.follow) for target in targets]


def build_method(settings: Settings) -> Method:
    """Initialise the method that the settings name, with the channels of the data.

    Raises:
        InputError: the method's settings contradict each other or the data section.
    """
    method, data = settings.method, settings.data
    if method.needs_domains != bool(data.domains):
        raise InputError(
            "config-domains-mismatch",
            f"method {method.name} translates between domains; name their folders, e.g. "
            "data.domains=[none, arterial, portal_venous]"
            if method.needs_domains
            else f"method {method.name} does not support domains; remove data.domains, or use the method multi_domain",
        )
    paired_terms = [name for name in ("weight_l1", "weight_l2") if getattr(method, name, 0)]
    if data.domains and paired_terms and not data.paired_domains:
        raise InputError(
            "config-paired-domains-required",
            f"method.{paired_terms[0]} compares domains of one patient; set data.paired_domains to true, or "
            f"method.{paired_terms[0]} to 0",
        )
    if method.paired_only and not data.paired and not settings.generative:
        raise InputError(
            "config-paired-required",
            f"method {method.name} needs paired data; set data.paired to true, or use an unpaired method such as "
            "cyclegan or cut",
        )
    if method.needs_classes and data.classes is None:
        raise InputError(
            "config-labels-required",
            f"method {method.name} needs labels; set data.labels to true, and data.class_groups to e.g. "
            "{host: [liver], lesion: [tumour]}",
        )
    try:
        built = method_class(method.name)(method, _data_shape(settings))
        built.optimizers()  # Adam checks its arguments
    except (ValueError, RuntimeError, OverflowError) as error:  # torch: sizes that overflow or exceed the memory
        reason = str(error).splitlines()[0][:200]
        raise InputError("config-method-invalid", f"method {method.name}: {reason}") from None
    return built


def _data_shape(settings: Settings) -> DataShape:
    """Channels, classes and domains, from the data section and, for 2D methods, the patch."""
    axis, data = settings.slab_axis, settings.data
    slices = 1 if axis is None else settings.sampling.patch[axis]
    return DataShape(
        slices * settings.source_channels,
        slices * len(data.targets),
        data.classes,
        len(data.domains),
        tuple(n for i, n in enumerate(settings.sampling.patch) if i != axis),
    )


def save_model(folder: Path, generator: nn.Module, info: ModelInfo, *, half: bool = False) -> None:
    """Write weights and ``model.json`` into an existing folder (see ``io.atomic``); ``half``: weights in 16 bits."""
    weights, tensors = folder / "weights.safetensors", _tensors(generator)
    save_weights({k: v.half() if half and v.is_floating_point() else v for k, v in tensors.items()}, weights)
    provenance = {"versions": versions(), "commit": git_commit(), "weights_sha256": _sha256(weights)}
    info = info.model_copy(update=provenance)
    info = info.model_copy(update={"sha256": info.hash()})
    text = json.dumps(info.plain(), indent=1)
    (folder / "model.json").write_text(INNER_LIST.sub(lambda found: " ".join(found[0].split()), text))


def check_device(name: str) -> None:
    """Raise InputError if torch cannot use a device, such as cuda:1."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            "option-device-unusable",
            f"the device {name} cannot be used; choose another one, such as cpu: {str(error).splitlines()[0]}",
        ) from None


def load_model(
    folder: Path, device: torch.device | str = "cpu", *, target: str | None = None, ensembles: bool = False
) -> Model:
    """Load a model folder for inference.

    Args:
        folder: RUN/best, RUN/last or a copy of either; or an ONNX file that medgen exported, or a folder with one.
        device: cpu, cuda, cuda:1, mps.
        target: the domain to translate to, for a model with several (``data.domains``).
        ensembles: whether the caller translates by ``Model.members``, so that the folder may be an ensemble.

    Raises:
        InputError: unknown target, an ensemble, not a model folder, another format version, damaged or modified
            content, or a device that torch cannot use.
    """
    check_device(str(device))
    folder = recover(model_folder(folder))
    if ensembles and (folder / ENSEMBLE).is_file():
        return _load_ensemble(folder, device, target)
    info, settings = read_info(folder)
    with torch.device("meta"):  # allocate no memory before the file is known to have these shapes
        method = build_method(settings)
    model = Model(method, settings, info, folder, _chosen(target, settings, folder))
    if model.target is not None:
        method.target = settings.data.domains.index(model.target)  # type: ignore[attr-defined]
    model.generator.eval()
    if (exported := onnx_file(folder)) is not None:
        model.network = onnx_network(exported, str(device))
    else:
        load_weights(model.generator, folder / "weights.safetensors", info.weights_sha256)
        model.generator.to(device)
    return model


def _load_ensemble(folder: Path, device: torch.device | str, target: str | None) -> Model:
    """Load the models that ``ensemble.json`` names. The joint model has the settings of the first."""
    place = folder / ENSEMBLE
    try:
        names = json.loads(regular(place, MOST_TEXT).read_text())["members"]
        if (
            not names
            or not isinstance(names, list)
            or not all(isinstance(name, str) and re.fullmatch(r"\w+", name) for name in names)
        ):
            raise ValueError("members must be names of folders")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            "model-ensemble-damaged", f"{place} cannot be used ({error}); restore it or write the ensemble again"
        ) from None
    members = tuple(load_model(folder / name, device, target=target) for name in names)
    first, others = members[0], members[1:]
    for other in others:
        sides = [(m.settings.data.sources, m.settings.data.targets, m.settings.data.domains) for m in (first, other)]
        if sides[0] != sides[1]:
            raise InputError(
                "model-ensemble-mixed", f"{first.folder} and {other.folder} translate other contrasts; keep one kind"
            )
    hashes = "".join(str(member.info.weights_sha256) for member in members)
    found = [member.info for member in members]
    joint: dict[str, Any] = {
        "weights_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "training_scans": [list(chain(*scans)) for scans in zip(*(info.training_scans for info in found), strict=True)],
        "training_targets": [list(chain(*s)) for s in zip(*(info.training_targets for info in found), strict=True)],
        "training_data": found[0].training_data
        | {
            "training": sorted({case for info in found for case in info.training_data.get("training", [])}),
            "images": {name: case for info in found for name, case in info.training_data.get("images", {}).items()},
        },
        "health": sorted({text for info in found for text in info.health}),
    }
    info = first.info.model_copy(update=joint)
    return replace(first, info=info.model_copy(update={"sha256": info.hash()}), folder=folder, members=members)


def read_info(folder: Path) -> tuple[ModelInfo, Settings]:
    """Read and check ``model.json``.

    Returns:
        Its content, and the settings in it.

    Raises:
        InputError: not a model folder, another format version, or damaged or modified content.
    """
    folder = recover(model_folder(folder))
    if (folder / ENSEMBLE).is_file():
        raise InputError(
            "model-is-ensemble",
            f"{folder} is an ensemble, which only translate and medgen.load take; give one of the models in it",
        )
    exported = onnx_file(folder)
    place = exported or folder / "model.json"
    if exported is None and not (folder / "model.json").is_file():
        raise InputError(
            "model-json-missing",
            f"{folder} is not a model folder: it has no model.json; give RUN/best or RUN/last of a training run",
        )
    try:
        text = onnx_model_json(exported) if exported else regular(folder / "model.json", MOST_TEXT).read_text()
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not an object")
        if values.get("format") != FORMAT:
            raise InputError(
                "model-format",
                f"{folder} has model format {values.get('format')!r}, but this medgen version reads format {FORMAT}; "
                "use the medgen version that wrote it, or train again",
            )
        info = ModelInfo.model_validate(values)
        if info.sha256 != info.hash():
            raise InputError(
                "model-changed",
                f"{place} was modified after the model was saved; restore it or train again",
            )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if "function-" not in str(part))
        raise InputError(
            "model-damaged",
            f"{place} is damaged at {key} ({first['msg']}); restore the folder or train again",
        ) from None
    except InputError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            "model-json-unreadable", f"{place} cannot be read ({error}); restore the folder or train again"
        ) from None
    settings = parse_settings(info.settings, f"{place}")
    if any(isinstance(of, TableInfo) for of in info.source_range) != settings.label_source:
        raise InputError(
            "model-source-range-damaged",
            f"{place} is damaged at source_range; restore the folder or train again",
        )
    counts = {key: settings.data.sources for key in ("source_range", "training_scans")}
    for key, names in (counts | {"target_range": settings.data.targets}).items():
        if len(getattr(info, key)) != len(names):
            raise InputError(
                "model-range-count-damaged",
                f"{place} is damaged at {key}: it must have one entry for each of {', '.join(names)}; "
                "restore the folder or train again",
            )
    return info, settings


def _chosen(target: str | None, settings: Settings, folder: Path) -> str | None:
    domains = settings.data.domains
    if target is not None and target not in domains:
        known = f"choose one of {', '.join(domains)}" if domains else "it has a single target, so leave --target out"
        raise InputError("model-target-unknown", f"{folder} has no target {target!r}; {known}")
    if domains and target is None:
        raise InputError(
            "model-target-ambiguous",
            f"{folder} translates to several targets ({', '.join(domains)}); choose one with --target",
        )
    return target


def load_weights(network: nn.Module, path: Path, sha256: str) -> None:
    """Load a weight file into a network on the meta device, without reading more bytes than the network needs.

    Raises:
        InputError: not a regular file, another hash, or weights that do not fit the network.
    """
    try:
        most = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
        if most > MOST_WEIGHTS:
            raise InputError(
                "model-weights-too-large",
                f"{path}: the model needs {most / 2**30:.3g} GiB of weights, which is above the limit; use a smaller "
                "model",
            )
        if _sha256(regular(path, most + MOST_HEADER)) != sha256:
            raise InputError(
                "model-weights-changed",
                f"{path} is not the file that was saved with this model (its hash differs); restore it or train again",
            )
        network.load_state_dict(load_file(path), assign=True)
        network.float()  # models that come with medgen store 16 bits
    except InputError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(
            "model-weights-mismatch",
            f"{path} does not contain the weights of this model ({reason}); restore it or train again",
        ) from None


def regular(path: Path, most: int) -> Path:
    """The path, if it is a regular file of at most ``most`` bytes. Raises InputError otherwise."""
    mode = os.stat(path)
    if not stat.S_ISREG(mode.st_mode):
        raise InputError(
            "model-file-not-regular",
            f"{path} is a device, a pipe or a folder, not a file; restore the folder or train again",
        )
    if mode.st_size > most:
        raise InputError("model-file-too-large", f"{path} is larger than expected; restore the folder or train again")
    return path


def save_weights(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file with default permissions; safetensors itself makes it readable by its owner only.

    Raises:
        OSError: the file cannot be written, e.g. because the disk is full.
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
    """Write a nested state of dicts, lists, numbers, strings and tensors as safetensors and JSON."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_flatten(state, tensors, "state"))
    save_weights(tensors, folder / f"training-{rank}.safetensors")
    (folder / f"training-{rank}.json").write_text(text)


def load_training(folder: Path, rank: int = 0) -> dict[str, Any]:
    """Inverse of ``save_training``.

    Raises:
        InputError: the training state is missing or damaged.
    """
    path = recover(folder) / f"training-{rank}"
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
            f"{folder} contains no complete training state ({error}); start again without --resume",
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
    """Whether the output of a model (for ``target``, else its own or first one) is CT without contrast medium."""
    data = model.settings.data
    return data.removes_contrast or is_native(target or model.target or data.targets[0])

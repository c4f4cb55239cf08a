"""Write a model as a MONAI bundle (https://docs.monai.io/en/latest/mb_specification.html)."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medgen import __version__
from medgen.checkpoint import Model
from medgen.export.network import ExportedNetwork, check_exportable
from medgen.inference.passes import gives_maps
from medgen.io.atomic import atomic_write, write_text
from medgen.model_card import CARD, card_text

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"


def export_bundle(model: Model, folder: Path) -> None:
    """Write ``configs``, ``models`` and ``docs`` of a bundle into an existing folder.

    ``python -m monai.bundle run --config_file FOLDER/configs/inference.json --bundle_root FOLDER --dataset_dir SCANS``
    then translates scans; medgen has to be installed there, because the bundle's transforms are its own.

    Raises:
        InputError: the model cannot be exported, or a file cannot be written.
    """
    check_exportable(model)
    network = ExportedNetwork(model)
    with atomic_write(folder / "models" / "model.pt") as aside:
        torch.save({key: value.cpu() for key, value in network.state_dict().items()}, aside)
    write_text(folder / "models" / "model.json", json.dumps(model.info.plain()))
    write_text(folder / "configs" / "metadata.json", json.dumps(metadata(model), indent=2))
    write_text(folder / "configs" / "inference.json", json.dumps(inference(model), indent=2))
    card = None if model.folder is None else model.folder / CARD
    own = card is not None and card.is_file()
    write_text(folder / "docs" / "README.md", card.read_text("utf-8") if own and card else card_text(model.info))


def inference(model: Model) -> dict[str, Any]:
    """The content of configs/inference.json."""
    data = model.settings.data
    targets = [model.target] if model.target else list(data.targets)
    at: dict[str, Any] = {"folder": "@models_dir", "target": model.target}
    saved = [
        {
            "_target_": "SaveImaged",
            "keys": name,
            "output_dir": "@output_dir" if len(targets) == 1 else f"$@output_dir + '/{name}'",
            "output_postfix": "",
            "separate_folder": False,
            "output_dtype": "$numpy.float32",
            "resample": False,
        }
        for name in targets
    ]
    return {
        "imports": ["$import numpy", "$import torch"],
        "bundle_root": ".",
        "models_dir": "$@bundle_root + '/models'",
        "dataset_dir": "/workspace/data",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": "medgen.export.transforms.bundle_network", **at},
        "network": "$@network_def.to(@device)",
        "dataset": {
            "_target_": "Dataset",
            "data": {
                "_target_": "medgen.export.transforms.cases",
                "dataset_dir": "@dataset_dir",
                "folder": "@models_dir",
            },
        },
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": list(data.sources), "ensure_channel_first": True},
                {"_target_": "medgen.export.transforms.Encode", **at},
            ],
        },
        "inferer": {"_target_": "medgen.export.transforms.PlanInferer", **at},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "medgen.export.transforms.Decode", **at}, *saved],
        },
        "evaluator": {
            "_target_": "medgen.export.transforms.Evaluator",
            "dataset": "@dataset",
            "preprocessing": "@preprocessing",
            "network": "@network",
            "inferer": "@inferer",
            "after": "@postprocessing",
        },
        "initialize": ["$@network.load_state_dict(torch.load(@models_dir + '/model.pt', @device, weights_only=True))"],
        "run": ["$@evaluator.run()"],
    }


def metadata(model: Model) -> dict[str, Any]:
    """The content of configs/metadata.json, by MONAI's schema of 2024-07-25."""
    settings, stride = model.settings, int(model.generator.divisor)  # type: ignore[arg-type]
    data, axis = settings.data, settings.slab_axis
    depth = 1 if axis is None else settings.sampling.patch[axis]
    hounsfield = settings.intensity.source.kind == "window"
    targets = [model.target] if model.target else list(data.targets)
    outputs = ["probability of a change", "level of a changed voxel"] if gives_maps(model) else targets
    packages = {"medgen": __version__, "nibabel": version("nibabel"), "safetensors": version("safetensors")}
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: f"exported from the medgen model {model.info.sha256}"},
        "monai_version": version("monai"),
        "pytorch_version": torch.__version__.split("+")[0],
        "numpy_version": version("numpy"),
        "required_packages_version": packages,
        "name": f"medgen {settings.method.name}",
        "task": f"Translate {', '.join(data.sources)} to {', '.join(map(str, targets))}",
        "description": f"Image translation by the method {settings.method.name}; see docs/README.md",
        "authors": "the authors of the model",
        "copyright": "of the authors of the model",
        "data_type": "nibabel",
        "intended_use": "Research. Outputs are synthetic and not for diagnosis.",
        "eval_metrics": model.info.validation,
        "network_data_format": {
            "inputs": {"image": _tensor(model, [n for n in data.sources for _ in range(depth)], hounsfield, stride)},
            "outputs": {"pred": _tensor(model, [str(n) for n in outputs for _ in range(depth)], hounsfield, stride)},
        },
    }


def _tensor(model: Model, channels: list[str], hounsfield: bool, stride: int) -> dict[str, Any]:
    return {
        "type": "image",
        "format": "hounsfield" if hounsfield else "magnitude",
        "modality": "CT" if hounsfield else "n/a",
        "num_channels": len(channels),
        "spatial_shape": [f"{stride}*n"] * model.settings.method.spatial_dims,
        "dtype": "float32",
        "value_range": [-1, 1],
        "is_patch_data": model.settings.inference.window != "whole",
        "channel_def": {str(i): name for i, name in enumerate(channels)},
    }

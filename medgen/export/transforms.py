"""The steps of an exported MONAI bundle: transforms, inferer and evaluator for ``monai.bundle run``.

They call the functions of ``inference.predict``, so that a bundle gives the voxels of ``medgen translate``. Its file
``configs/inference.json`` connects them; each takes ``folder``, the bundle's ``models`` folder with model.json.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor, nn

from medgen.checkpoint import Model, build_method, read_info
from medgen.errors import InputError
from medgen.export.network import ExportedNetwork
from medgen.inference.inputs import find_scans
from medgen.inference.passes import translate_array
from medgen.inference.predict import prepare_case, restore_case
from medgen.io.volume import Volume


@lru_cache(maxsize=4)
def bundle_plan(folder: str, target: str | None = None) -> Model:
    """The model of a bundle without weights: settings, ranges and shapes. Raises InputError."""
    info, settings = read_info(Path(folder))
    with torch.device("meta"):
        method = build_method(settings)
    if target is not None:
        method.target = settings.data.domains.index(target)  # type: ignore[attr-defined]
    return Model(method, settings, info, Path(folder), target)


def bundle_network(folder: str, target: str | None = None) -> ExportedNetwork:
    """The network of a bundle with random weights, for ``models/model.pt``."""
    info, settings = read_info(Path(folder))
    method = build_method(settings)
    if target is not None:
        method.target = settings.data.domains.index(target)  # type: ignore[attr-defined]
    return ExportedNetwork(Model(method, settings, info)).eval()


def cases(dataset_dir: str, folder: str) -> list[dict[str, str]]:
    """One entry {source: file} for each scan of a folder, as ``medgen translate`` finds them. Raises InputError."""
    names = bundle_plan(folder).settings.data.sources
    scans = find_scans(Path(dataset_dir), names)
    if faulty := next((scan for scan in scans if scan.fault), None):
        raise InputError("input-scan-faulty", str(faulty.fault))
    return [dict(zip(names, map(str, scan.files), strict=True)) for scan in scans]


class Encode:
    """{source: MetaTensor (1, X, Y, Z)} → adds "image": (C, X, Y, Z) in [-1, 1] on the model's grid, and "prepared"."""

    def __init__(self, folder: str, target: str | None = None) -> None:
        self.model = bundle_plan(folder, target)

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        images = [item[name] for name in self.model.settings.data.sources]
        volumes = [Volume(np.asarray(image[0]), np.asarray(image.affine)) for image in images]
        prepared = prepare_case(self.model, volumes)
        return {**item, "image": torch.from_numpy(prepared.x), "prepared": prepared, "meta": images[0].meta}


class PlanInferer(Inferer):
    """Runs a network on whole scans (B, C, X, Y, Z) by the model's plan: windows, padding, slabs, mirrored scans."""

    def __init__(self, folder: str, target: str | None = None) -> None:
        super().__init__()
        self.model = bundle_plan(folder, target)

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        device = next(network.parameters()).device
        model = replace(self.model, network=lambda x: network(x.to(device)).float().cpu())
        return torch.from_numpy(np.stack([translate_array(model, x.numpy()) for x in inputs]))


class Decode:
    """{"pred": (C_out, X, Y, Z), "prepared", "meta"} → adds {target: MetaTensor (1, X, Y, Z)} on the scan's grid."""

    def __init__(self, folder: str, target: str | None = None) -> None:
        self.model = bundle_plan(folder, target)

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        names = [self.model.target] if self.model.target else self.model.settings.data.targets
        volumes = restore_case(self.model, item["prepared"], np.asarray(item["pred"]))
        meta = {**item["meta"], "spatial_shape": np.asarray(volumes[0].data.shape)}
        images = [MetaTensor(v.data[None], affine=torch.from_numpy(v.affine), meta=meta) for v in volumes]
        return {**item, **dict(zip(map(str, names), images, strict=True))}


class Evaluator:
    """Runs preprocessing, inferer and postprocessing on each case, as MONAI's evaluator does, which needs ignite."""

    def __init__(
        self, dataset: Iterable[Mapping[str, Any]], preprocessing: Any, network: nn.Module, inferer: Any, after: Any
    ) -> None:
        self.dataset, self.preprocessing, self.network = dataset, preprocessing, network
        self.inferer, self.postprocessing = inferer, after

    @torch.inference_mode()
    def run(self) -> list[dict[str, Any]]:
        """Convert all cases; returns the items of the last transform."""
        found = []
        for item in map(self.preprocessing, self.dataset):
            pred = self.inferer(item["image"][None], self.network)[0]
            found.append(self.postprocessing({**item, "pred": pred}))
        return found

"""MedicalNet: a 3D ResNet trained to segment 23 medical data sets; one feature row per volume.

Chen, Ma & Zheng, "Med3D", arXiv 1904.00625. The pooled features are 512 (depths 10, 18, 34) or 2048 (depth 50)
numbers. One row per volume requires many volumes: with fewer volumes than features use the kernel distance.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.nets.resnet import ResNet
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medgen.errors import InputError
from medgen.evaluation.features.extractor import HUB, checked_volume, file_hash, from_hub, load_weights, read_state

# The URL includes the revision, so that the file cannot change.
URL = (
    "https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet50/resolve/"
    "02061bf3be4aefd33724688f16dbcc058cdf1f13/resnet_50_23dataset.pth"
)
SOURCE = "https://huggingface.co/TencentMedicalNet (MedicalNet-Resnet50, resnet_50_23dataset.pth, and similar files)"
# depth: (block type, blocks per layer, shortcut type). 18 and 34 were trained with shortcuts without weights.
DEPTHS = {
    10: ("basic", [1, 1, 1, 1], "B"),
    18: ("basic", [2, 2, 2, 2], "A"),
    34: ("basic", [3, 4, 6, 3], "A"),
    50: ("bottleneck", [3, 4, 6, 3], "B"),
}

Array = NDArray[Any]


class MedicalNet:
    """Extractor of the pooled last feature map of a whole volume: rows (1, 512) or (1, 2048).

    Args:
        weights: MedicalNet file, see ``SOURCE``; "hub": the file of depth 50, downloaded (185 MB) if absent.
        depth: 10, 18, 34 or 50; None: inferred from the blocks in the file.
        size: the volume is resized (trilinear) so that its longest side in mm becomes this many voxels.
        device: where the network runs.

    Raises `InputError` for a file that cannot be read or belongs to another network.
    """

    relative = True
    standard = False
    standardised = False

    def __init__(self, weights: Path | str, *, depth: int | None = None, size: int = 128, device: str = "cpu") -> None:
        path = from_hub(URL) if weights == HUB else Path(weights)
        self.weights = file_hash(path)
        state = read_state(path)
        depth = depth_of(state, path) if depth is None else depth
        self.network = resnet(depth)
        load_weights(self.network, state, path, f"MedicalNet's ResNet-{depth}: see {SOURCE}")
        self.network.eval().requires_grad_(False).to(device)
        self.name = f"medicalnet {depth}"
        self.preprocessing = (
            f"z-score of the body, outside 0, trilinear to isotropic voxels, longest side {size}, axes (Z, Y, X), "
            "mean of the last feature map"
        )
        self._size, self._device = size, device

    def __call__(self, volume: Array, spacing: Sequence[float], *, mask: Array | None = None) -> Array:
        volume, inside = checked_volume(volume, spacing, mask)
        values = volume[inside]
        normalised = np.where(inside, (volume - values.mean()) / max(float(values.std()), 1e-6), 0).astype(np.float32)
        sides = [n * s for n, s in zip(volume.shape, spacing, strict=True)]
        shape = [max(8, round(self._size * side / max(sides))) for side in sides]
        x = functional.interpolate(
            torch.from_numpy(normalised)[None, None], shape, mode="trilinear", align_corners=False
        )
        with torch.inference_mode():
            return self.network(x.permute(0, 1, 4, 3, 2).to(self._device)).double().cpu().numpy()


def depth_of(state: Mapping[str, Tensor], path: Path) -> int:
    """Infer the depth from the type and number of the blocks in a file; raise InputError if no depth fits."""
    block = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    layers = [len({key.split(".")[1] for key in state if key.startswith(f"layer{i}.")}) for i in range(1, 5)]
    for depth, (kind, blocks, _) in DEPTHS.items():
        if (kind, blocks) == (block, layers):
            return depth
    depths = ", ".join(map(str, DEPTHS))
    raise InputError(
        "weights-not-medicalnet", f"{path} is not a file of MedicalNet's ResNet of depth {depths}; see {SOURCE}"
    )


def resnet(depth: int) -> ResNet:
    """Return MONAI's 3D ResNet configured as the MedicalNet of a depth, without the segmentation head."""
    if depth not in DEPTHS:
        raise InputError(
            "extractor-depth-unknown", f"depth {depth} is not one of MedicalNet's depths {', '.join(map(str, DEPTHS))}"
        )
    block, layers, shortcut = DEPTHS[depth]
    return ResNet(
        block,
        layers,
        [64, 128, 256, 512],
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_stride=2,
        shortcut_type=shortcut,
        bias_downsample=False,
        feed_forward=False,
    )

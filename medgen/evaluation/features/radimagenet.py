"""RadImageNet: ResNet-50 trained on 1.35 million CT, MR and ultrasound images; 2048 features per slice.

Mei et al., Radiology: Artificial Intelligence 2022;4(5):e210315. Features learnt from radiological images instead of
photographs, used as in the Fréchet distance of Woodland et al. (arXiv 2311.13717), who found that they do not always
agree better with readers than Inception features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.networks.nets.resnet import ResNet
from numpy.typing import NDArray
from torch import Tensor

from medgen.evaluation.features.extractor import checked_volume, file_hash, load_weights, read_state
from medgen.evaluation.features.slices import (
    Window,
    colour_rows,
    describe_planes,
    describe_window,
    plane_images,
    windowed,
)

SOURCE = "https://github.com/BMEII-AI/RadImageNet (ResNet50.pt of the PyTorch models, on request)"
SIZE = 224
# The authors' file numbers the child modules of torchvision's network.
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}

Array = NDArray[Any]


class RadImageNet:
    """Extractor of pooled ResNet-50 features: 2048 per slice, slices of three planes.

    Args:
        weights: the authors' PyTorch file (see ``SOURCE``), or any ResNet-50 with torchvision's parameter names.
        window: intensities (low, high) that become black and white; None: percentiles of each volume.
        per_plane: number of evenly spaced slices per plane.
        device: where the network runs.

    Raises `InputError` for a file that cannot be read or belongs to another network.
    """

    standard = False
    standardised = False
    name = "radimagenet"

    def __init__(self, weights: Path | str, *, window: Window = None, per_plane: int = 16, device: str = "cpu") -> None:
        path = Path(weights)
        self.weights = file_hash(path)
        self.network = resnet50()
        load_weights(self.network, torchvision_names(read_state(path)), path, f"RadImageNet's ResNet-50: see {SOURCE}")
        self.network.eval().requires_grad_(False).to(device)
        self.relative = window is None
        self.preprocessing = (
            f"{describe_window(window)}, {describe_planes(per_plane)}, squared in mm, bilinear to "
            f"{SIZE}, to [-1, 1] as the authors', grey on 3 channels"
        )
        self._window, self._per_plane, self._device = window, per_plane, device

    def __call__(self, volume: Array, spacing: Sequence[float], *, mask: Array | None = None) -> Array:
        volume, inside = checked_volume(volume, spacing, mask)
        grey = windowed(volume, inside, self._window)
        images = plane_images(grey, inside, spacing, per_plane=self._per_plane, size=SIZE)
        return colour_rows(self.network, images, self._device)


def resnet50() -> ResNet:
    """Return MONAI's ResNet configured as torchvision's resnet50, with its parameter names, without the classifier."""
    return ResNet(
        "bottleneck",
        [3, 4, 6, 3],
        [64, 128, 256, 512],
        spatial_dims=2,
        n_input_channels=3,
        conv1_t_stride=2,
        bias_downsample=False,
        feed_forward=False,
    )


def torchvision_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename ``backbone.4.0.conv1.weight`` to ``layer1.0.conv1.weight`` and so on; keep other names."""
    named = {}
    for key, value in state.items():
        head, _, rest = key.removeprefix("backbone.").partition(".")
        named[f"{CHILDREN[head]}.{rest}" if key.startswith("backbone.") and head in CHILDREN else key] = value
    return named

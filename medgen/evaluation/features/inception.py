"""The standard FID network: Inception v3 ported from TensorFlow, with its pool3 features and class probabilities.

Szegedy et al., CVPR 2016, in the port of pytorch-fid (github.com/mseitzer/pytorch-fid), with the weights of the
TensorFlow graph of 2015-12-05 for 1008 classes. That graph differs from torchvision's network in its pooling: average
pools exclude the padding, and the last block has a maximum pool. Torchvision's ImageNet weights (1000 classes) can
also be loaded, with torchvision's pooling; distances computed with them are not FID.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medgen.errors import InputError
from medgen.evaluation.features.extractor import HUB, checked_volume, file_hash, from_hub, load_weights, read_state
from medgen.evaluation.features.slices import (
    Window,
    colour_rows,
    describe_planes,
    describe_window,
    plane_images,
    windowed,
)

URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
STANDARD = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # sha256 of that file
SIZE = 299
FID_CLASSES = 1008

Array = NDArray[Any]


class Inception:
    """Extract pool3 features, 2048 per slice, from slices in three planes.

    Args:
        weights: weight file; None: pytorch-fid's file in the torch.hub cache, which must exist; "hub": the same, but
            downloaded (91 MiB) if absent.
        window: intensities (low, high) that become black and white, in HU for CT, e.g. (-160, 240); None: percentiles
            of each volume (MR).
        per_plane: number of evenly spaced slices per plane.
        device: where the network runs.

    Raises `InputError` if the weights are missing or belong to another network.
    """

    standardised = False

    def __init__(
        self,
        weights: Path | str | None = None,
        *,
        window: Window = None,
        per_plane: int = 16,
        device: str = "cpu",
    ) -> None:
        path = _weights_file(weights)
        state = read_state(path)
        classes = len(state["fc.bias"]) if "fc.bias" in state else FID_CLASSES
        self.network = InceptionV3(classes=classes, fid_pools=classes == FID_CLASSES)
        load_weights(self.network, state, path, "Inception v3 (pytorch-fid or torchvision)")
        self.network.eval().requires_grad_(False).to(device)
        self.weights = file_hash(path)
        self.standard = self.weights == STANDARD
        self.name = "inception"
        self.relative = window is None
        self.preprocessing = (
            f"{describe_window(window)}, {describe_planes(per_plane)}, squared in mm, bilinear to "
            f"{SIZE} without antialiasing, to [-1, 1], grey on 3 channels"
        )
        self._window, self._per_plane, self._device = window, per_plane, device

    def __call__(self, volume: Array, spacing: Sequence[float], *, mask: Array | None = None) -> Array:
        volume, inside = checked_volume(volume, spacing, mask)
        grey = windowed(volume, inside, self._window)
        images = plane_images(grey, inside, spacing, per_plane=self._per_plane, size=SIZE)
        return colour_rows(self.network, images, self._device)

    def probabilities(self, rows: Array) -> Array:
        """Return class probabilities (n, classes) for feature rows (n, 2048), as the Inception Score needs them.

        The bias of the classifier is not used, as in the original implementation of the score.
        """
        logits = np.asarray(rows, np.float64) @ self.network.fc.weight.double().cpu().numpy().T
        odds = np.exp(logits - logits.max(1, keepdims=True))
        return odds / odds.sum(1, keepdims=True)


def _weights_file(weights: Path | str | None) -> Path:
    if weights == HUB:
        return from_hub(URL, sha256=STANDARD)
    if weights is not None:
        return Path(weights)
    cached_file = Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]
    if not cached_file.exists():
        raise InputError(
            "weights-missing",
            f"the Inception weights are missing; give their file, or give {HUB} instead of a file to download {URL} "
            f"(91 MiB) to {cached_file}",
        )
    return cached_file


class InceptionV3(nn.Module):
    """Images (n, 3, 299, 299) in [-1, 1] → (n, 2048): the mean over the last feature map ("pool3").

    The names and shapes of the parameters are the same as in torchvision and pytorch-fid. ``fc`` (2048 → classes) is
    not part of the forward pass; only its weights are used.
    """

    def __init__(self, *, classes: int = FID_CLASSES, fid_pools: bool = True) -> None:
        super().__init__()
        padded = not fid_pools  # whether average pools include the padding
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b = MixedA(192, 32, padded)
        self.Mixed_5c = MixedA(256, 64, padded)
        self.Mixed_5d = MixedA(288, 64, padded)
        self.Mixed_6a = MixedB(288)
        self.Mixed_6b = MixedC(768, 128, padded)
        self.Mixed_6c = MixedC(768, 160, padded)
        self.Mixed_6d = MixedC(768, 160, padded)
        self.Mixed_6e = MixedC(768, 192, padded)
        self.Mixed_7a = MixedD(768)
        self.Mixed_7b = MixedE(1280, padded, max_pool=False)
        self.Mixed_7c = MixedE(2048, padded, max_pool=fid_pools)
        self.fc = nn.Linear(2048, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = functional.max_pool2d(x, 3, 2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = functional.max_pool2d(x, 3, 2)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return x.mean((2, 3))


class Conv(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, bias=False, **options)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


def _row(inputs: int, outputs: int, length: int) -> Conv:
    return Conv(inputs, outputs, (1, length), padding=(0, length // 2))


def _column(inputs: int, outputs: int, length: int) -> Conv:
    return Conv(inputs, outputs, (length, 1), padding=(length // 2, 0))


def _mean_pool(x: Tensor, padded: bool) -> Tensor:
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=padded)


class MixedA(nn.Module):
    def __init__(self, inputs: int, pool_features: int, padded: bool) -> None:
        super().__init__()
        self.branch1x1 = Conv(inputs, 64, 1)
        self.branch5x5_1 = Conv(inputs, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, padding=1)
        self.branch_pool = Conv(inputs, pool_features, 1)
        self.padded = padded

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        pool = self.branch_pool(_mean_pool(x, self.padded))
        return torch.cat([self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, pool], 1)


class MixedB(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, functional.max_pool2d(x, 3, 2)], 1)


class MixedC(nn.Module):
    def __init__(self, inputs: int, width: int, padded: bool) -> None:
        super().__init__()
        self.branch1x1 = Conv(inputs, 192, 1)
        self.branch7x7_1 = Conv(inputs, width, 1)
        self.branch7x7_2 = _row(width, width, 7)
        self.branch7x7_3 = _column(width, 192, 7)
        self.branch7x7dbl_1 = Conv(inputs, width, 1)
        self.branch7x7dbl_2 = _column(width, width, 7)
        self.branch7x7dbl_3 = _row(width, width, 7)
        self.branch7x7dbl_4 = _column(width, width, 7)
        self.branch7x7dbl_5 = _row(width, 192, 7)
        self.branch_pool = Conv(inputs, 192, 1)
        self.padded = padded

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        pool = self.branch_pool(_mean_pool(x, self.padded))
        return torch.cat([self.branch1x1(x), single, double, pool], 1)


class MixedD(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(inputs, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Conv(inputs, 192, 1)
        self.branch7x7x3_2 = _row(192, 192, 7)
        self.branch7x7x3_3 = _column(192, 192, 7)
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        long = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), long, functional.max_pool2d(x, 3, 2)], 1)


class MixedE(nn.Module):
    def __init__(self, inputs: int, padded: bool, *, max_pool: bool) -> None:
        super().__init__()
        self.branch1x1 = Conv(inputs, 320, 1)
        self.branch3x3_1 = Conv(inputs, 384, 1)
        self.branch3x3_2a = _row(384, 384, 3)
        self.branch3x3_2b = _column(384, 384, 3)
        self.branch3x3dbl_1 = Conv(inputs, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = _row(384, 384, 3)
        self.branch3x3dbl_3b = _column(384, 384, 3)
        self.branch_pool = Conv(inputs, 192, 1)
        self.padded, self.max_pool = padded, max_pool

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pool = functional.max_pool2d(x, 3, 1, 1) if self.max_pool else _mean_pool(x, self.padded)
        parts = [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(pool),
        ]
        return torch.cat(parts, 1)

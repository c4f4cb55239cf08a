"""Features of any network in a file: TorchScript, or ONNX by onnxruntime."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medgen.errors import InputError
from medgen.evaluation.features.extractor import checked_volume, file_hash
from medgen.evaluation.features.slices import Window, describe_planes, describe_window, plane_images, windowed
from medgen.io.names import brief

BATCH = 16

Array = NDArray[Any]


class FileNetwork:
    """Extractor by a network in a file: images (n, channels, size, size) or a volume (1, channels, X, Y, Z) → rows.

    Args:
        path: TorchScript (``.pt``, ``.pth``, ``.ts``) or ONNX (``.onnx``). What it returns is averaged over all axes
            after the second: feature maps are pooled.
        dimensions: 2: slices of three planes; 3: the whole volume, resized so that its longest side in mm has
            ``size`` voxels.
        size: of the images, or of the longest side.
        channels: the grey image is repeated on these.
        window: intensities (low, high) that become 0 and 1; None: percentiles of each volume.
        scale: the network's input for 0 and 1.
        per_plane: slices of each plane.
        device: where a TorchScript network runs; ONNX runs on the CPU.

    Raises `InputError` for a file that cannot be read, or features that are not rows.
    """

    standard = False
    standardised = False

    def __init__(
        self,
        path: Path | str,
        *,
        dimensions: int = 2,
        size: int = 224,
        channels: int = 3,
        window: Window = None,
        scale: tuple[float, float] = (0.0, 1.0),
        per_plane: int = 16,
        device: str = "cpu",
    ) -> None:
        path = Path(path)
        if dimensions not in (2, 3):
            raise InputError(
                "extractor-dimensions-invalid", f"dimensions {dimensions} must be 2 (slices) or 3 (volumes)"
            )
        self.weights = file_hash(path)
        self.name = path.name
        self._network = _onnx(path) if path.suffix == ".onnx" else _torchscript(path, device)
        cut = f"{describe_planes(per_plane)}, squared" if dimensions == 2 else "the volume resized"
        self.relative = window is None
        self.preprocessing = (
            f"{describe_window(window)}, {cut} in mm to {size}, to {scale[0]:g} to {scale[1]:g}, grey on {channels} "
            f"channel{'s' * (channels != 1)}"
        )
        self._dimensions, self._size, self._channels = dimensions, size, channels
        self._window, self._scale, self._per_plane = window, scale, per_plane

    def __call__(self, volume: Array, spacing: Sequence[float], *, mask: Array | None = None) -> Array:
        volume, inside = checked_volume(volume, spacing, mask)
        grey = windowed(volume, inside, self._window)
        if self._dimensions == 2:
            inputs = plane_images(grey, inside, spacing, per_plane=self._per_plane, size=self._size)
            rows = [self._rows(batch) for images in inputs for batch in images.split(BATCH)]
        else:
            rows = [self._rows(_resized(grey, spacing, self._size))]
        return np.concatenate(rows)

    def _rows(self, x: Tensor) -> Array:
        low, high = self._scale
        x = (low + (high - low) * x).expand(-1, self._channels, *[-1] * (x.ndim - 2))
        made = self._network(x)
        if made.ndim < 2 or len(made) != len(x):
            raise InputError(
                "extractor-output-shape",
                f"{self.name} made an array {made.shape} of {len(x)} inputs, not a row of each",
            )
        return made.reshape(*made.shape[:2], -1).mean(2)


def _resized(volume: Array, spacing: Sequence[float], size: int) -> Tensor:
    sides = [n * s for n, s in zip(volume.shape, spacing, strict=True)]
    shape = [max(1, round(size * side / max(sides))) for side in sides]
    x = torch.from_numpy(np.ascontiguousarray(volume))[None, None]
    return functional.interpolate(x, shape, mode="trilinear", align_corners=False)


def _torchscript(path: Path, device: str) -> Callable[[Tensor], Array]:
    try:
        network = torch.jit.load(str(path), map_location=device).eval()
    except Exception as error:  # torch raises RuntimeError and others for what is not a script
        raise InputError(
            "torchscript-unreadable",
            f"{path} is not a TorchScript file ({brief(error)[:120]}); write it by torch.jit.save",
        ) from None

    def run(x: Tensor) -> Array:
        with torch.inference_mode():
            made = network(x.to(device))
        if not isinstance(made, Tensor):
            raise InputError(
                "extractor-output-type", f"{path} returns a {type(made).__name__}, not a tensor of features"
            )
        return made.double().cpu().numpy()

    return run


def _onnx(path: Path) -> Callable[[Tensor], Array]:
    try:
        import onnxruntime
    except ImportError:
        raise InputError("dependency-missing", f"{path} needs onnxruntime: pip install 'medgen[onnx]'") from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds
        raise InputError(
            "onnx-unreadable", f"{path} is not an ONNX file ({brief(error)[:120]}); export it again"
        ) from None
    name = session.get_inputs()[0].name
    return lambda x: np.asarray(session.run(None, {name: x.contiguous().numpy()})[0], np.float64)

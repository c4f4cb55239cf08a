"""Feature extractor for any network stored in a TorchScript file, or in an ONNX file (run by onnxruntime)."""

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
from medgen.io.names import short_reason

BATCH = 16

Array = NDArray[Any]


class FileNetwork:
    """Extractor that runs a network on images (n, channels, size, size) or a volume (1, channels, X, Y, Z).

    Args:
        path: TorchScript (``.pt``, ``.pth``, ``.ts``) or ONNX (``.onnx``). The output is averaged over all axes after
            the second, so feature maps are pooled.
        dimensions: 2: slices of three planes; 3: the whole volume, resized so that its longest side in mm has
            ``size`` voxels.
        size: side of the images, or longest side of the volume.
        channels: number of channels on which the grey image is repeated.
        window: intensities (low, high) that become 0 and 1; None: percentiles of each volume.
        scale: network inputs that correspond to 0 and 1.
        per_plane: number of slices per plane.
        device: device of a TorchScript network; ONNX runs on the CPU.

    Raises `InputError` for a file that cannot be read, or an output that does not have one row per input.
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
        output = self._network(x)
        if output.ndim < 2 or len(output) != len(x):
            raise InputError(
                "extractor-output-shape",
                f"{self.name} returned an array {output.shape} for {len(x)} inputs; it must return one row for each",
            )
        return output.reshape(*output.shape[:2], -1).mean(2)


def _resized(volume: Array, spacing: Sequence[float], size: int) -> Tensor:
    sides = [n * s for n, s in zip(volume.shape, spacing, strict=True)]
    shape = [max(1, round(size * side / max(sides))) for side in sides]
    x = torch.from_numpy(np.ascontiguousarray(volume))[None, None]
    return functional.interpolate(x, shape, mode="trilinear", align_corners=False)


def _torchscript(path: Path, device: str) -> Callable[[Tensor], Array]:
    try:
        network = torch.jit.load(str(path), map_location=device).eval()
    except Exception as error:  # torch raises RuntimeError and others for files that are not TorchScript
        raise InputError(
            "torchscript-unreadable",
            f"{path} is not a TorchScript file ({short_reason(error)[:120]}); save it with torch.jit.save",
        ) from None

    def run(x: Tensor) -> Array:
        try:
            with torch.inference_mode():
                output = network(x.to(device))
        except RuntimeError as error:
            raise InputError(
                "extractor-input-shape",
                f"{path} cannot process an input of {tuple(x.shape)} ({short_reason(error)[:120]}); set the number of "
                "channels, the size and the dimensions that it was made for",
            ) from None
        if not isinstance(output, Tensor):
            raise InputError(
                "extractor-output-type",
                f"{path} returns a {type(output).__name__}; it must return a tensor of features",
            )
        return output.double().cpu().numpy()

    return run


def _onnx(path: Path) -> Callable[[Tensor], Array]:
    try:
        import onnxruntime
    except ImportError:
        raise InputError("dependency-missing", f"{path} needs onnxruntime: pip install 'medgen[onnx]'") from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own exception types
        raise InputError(
            "onnx-unreadable", f"{path} is not an ONNX file ({short_reason(error)[:120]}); export it again"
        ) from None
    name = session.get_inputs()[0].name
    return lambda x: np.asarray(session.run(None, {name: x.contiguous().numpy()})[0], np.float64)

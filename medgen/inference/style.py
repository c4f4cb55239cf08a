"""Style of synthetic images, for models with styles: drawn from a seed, or taken from a reference image."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medgen.checkpoint import Model
from medgen.data.body_mask import looks_like_hu
from medgen.data.intensity import Code, Range, fit_range
from medgen.data.slabs import fold
from medgen.errors import InputError
from medgen.inference.model_grid import on_model_grid
from medgen.inference.output import AIR_HU
from medgen.inference.predict import translate_channels
from medgen.io.label_headers import is_label_map
from medgen.io.read import read_volume
from medgen.io.volume import to_canonical

MOST_LABELS = 128  # an image of a scanner has more values, a label map fewer


@dataclass(frozen=True)
class ReferenceStyle:
    """Style code ``z`` (1, K) of an image, and the intensity range that decodes images of this style."""

    z: torch.Tensor
    range: Range


@dataclass(frozen=True)
class Grain:
    """Voxelwise N(0, 1) noise as input channels; drawn for the whole volume, so that overlapping windows agree."""

    channels: int
    seed: int

    def encode(self, x: np.ndarray) -> np.ndarray:
        """Return noise (channels, X, Y, Z), float32, for a volume (X, Y, Z); only the shape of the volume is used."""
        return np.random.default_rng(self.seed).standard_normal((self.channels, *x.shape), np.float32)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_images(
    model: Model, labels: np.ndarray, table: Code, seed: int, memory_gb: float | None = None
) -> list[np.ndarray]:
    """``translate_channels`` of a label map (X, Y, Z); models with texture get noise channels drawn from the seed."""
    axis, channels = model.settings.slab_axis, int(getattr(model.method, "texture", 0))
    channels //= 1 if axis is None else model.settings.sampling.patch[axis]
    codes: list[Code] = [table, Grain(channels, seed)] if channels else [table]
    return translate_channels(model, [labels] * len(codes), codes, memory_gb=memory_gb)


def seed_of(*key: object) -> int:
    """A seed in [0, 2⁶³) derived from all parts of the key."""
    return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:8], "big") >> 1


def draw_style(model: Model, seed: int) -> None:
    """Set the model's style to one drawn from N(0, 1). Does nothing if the model has no styles."""
    if getattr(model.method, "latent", 0) and hasattr(model.method, "draw_style"):
        model.method.z = model.method.draw_style(torch.Generator("cpu").manual_seed(seed))  # type: ignore[attr-defined]


@torch.inference_mode()
def reference_style(model: Model, path: Path) -> ReferenceStyle:
    """Read the style of a reference image.

    Raises:
        InputError: the model has no styles or several target contrasts, or the image is unreadable or constant.
    """
    if not (getattr(model.method, "latent", 0) and hasattr(model.method, "style_of")):
        raise InputError(
            "model-without-styles",
            f"{model.folder} was trained without styles (method.generator.latent is 0); omit --style",
        )
    if len(model.settings.data.targets) > 1:
        raise InputError(
            "model-style-several-targets",
            f"{model.folder} outputs {', '.join(model.settings.data.targets)}, but --style supports one; omit it",
        )
    image = read_volume(path)
    if is_label_map(path) or _piecewise_constant(image.data):
        raise InputError(
            "style-label-map", f"{path} is a label map; --style needs an image whose look the result should have"
        )
    if model.settings.intensity.target.kind == "window":
        if model.target_ranges[0].typical.low <= AIR_HU and not looks_like_hu(image.data):
            raise InputError(
                "style-not-hu",
                f"{path} is not in HU (no value at or below -200), but the model makes CT in HU; give a CT in HU",
            )
    volume = on_model_grid(to_canonical(image), model)
    try:
        code = fit_range(volume.data, **model.settings.intensity.target.model_dump(exclude={"follow"}))
    except InputError as error:
        raise InputError("volume-constant", f"{path}: {error}") from None
    device = next(model.generator.parameters()).device
    z = model.method.style_of(_batch(code.encode(volume.data), model).to(device))  # type: ignore[attr-defined]
    return ReferenceStyle(z.mean(0, keepdim=True), code)


def _piecewise_constant(data: np.ndarray) -> bool:
    """Return whether an image has 2 to `MOST_LABELS` values, all of them whole, in areas of one value each.

    Only voxels above the lowest value count, which is the background of masked images.
    """
    values = np.unique(data)
    if not 1 < len(values) <= MOST_LABELS or np.mod(values, 1).any():
        return False
    inside = data[1:] > values[0]
    return bool((data[1:] == data[:-1])[inside].mean() > 0.5)


def _batch(y: np.ndarray, model: Model) -> torch.Tensor:
    """(X, Y, Z) → (1, 1, X, Y, Z), for a 2D model slabs (B, k, ...); padded to the style encoder's smallest size."""
    axis, smallest = model.settings.slab_axis, int(model.generator.smallest)  # type: ignore[arg-type]
    least = [smallest if i != axis else model.settings.sampling.patch[i] for i in range(3)]
    missing = [max(0, n - had) for n, had in zip(least, y.shape, strict=True)]
    image = torch.from_numpy(np.pad(y, [(n // 2, n - n // 2) for n in missing], mode="edge"))[None, None]
    if axis is None:
        return image
    depth = model.settings.sampling.patch[axis]
    slabs = [image.narrow(axis + 2, n, depth) for n in range(0, image.shape[axis + 2] - depth + 1, depth)]
    return fold(torch.cat(slabs), axis)

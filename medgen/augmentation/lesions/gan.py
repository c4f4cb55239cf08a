"""Lesions painted by a trained ``lesion_gan``, of which noise gives each another look."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medgen.augmentation.patch import Patch
from medgen.checkpoint import Model, load_model
from medgen.data.intensity import fit_range
from medgen.data.labels.names import label_named
from medgen.data.labels.resampling import labels_at
from medgen.errors import InputError
from medgen.inference.predict import SAME_SPACING
from medgen.methods.lesion_gan import FIRST_KIND, HOST, LesionGAN
from medgen.settings import Settings

CONTEXT_MM = 12.0  # of the surroundings that the generator sees on every side of a large lesion


@dataclass(frozen=True)
class GAN:
    """Painter: adds what the generator changes in a window of the model's grid around the site.

    Raises:
        InputError: a kind that the model does not know, or another number of contrasts than it paints.
    """

    model: Model

    def __call__(self, patch: Patch, rng: np.random.Generator) -> np.ndarray:
        settings = self.model.settings
        if len(patch.volumes) != len(settings.data.sources):
            raise InputError(
                "model-image-count-differs",
                f"{self.model.folder} paints {', '.join(settings.data.sources)} together, got {len(patch.volumes)} "
                "images; give one of each",
            )
        window, back = self._window(patch)
        intensity = settings.intensity.source.model_dump(exclude={"follow"})
        codes = [fit_range(v, **intensity) for v in patch.volumes]
        corner = np.reshape([b.start for b in patch.box], (3, 1, 1, 1))
        x = np.stack(
            [c.encode(_sampled(v, window + corner, mode="nearest")) for c, v in zip(codes, patch.volumes, strict=True)]
        )
        there = np.where(patch.mask, self._class_of(patch.kind), np.where(patch.host, HOST, 0))
        labels = labels_at(there, lambda rows: list(window[:, rows]), window.shape[1:], outside=0)
        y = self._painted(x, labels, rng)
        changes = [c.decode(b) - c.decode(a) for c, a, b in zip(codes, x, y, strict=True)]
        return patch.image + np.stack([_sampled(change, back) for change in changes])

    def _window(self, patch: Patch) -> tuple[np.ndarray, np.ndarray]:
        """(3, ...) voxels of the patch at each voxel of the window, and the other way round."""
        axis, mask = self.model.settings.slab_axis, patch.mask
        (tight,) = ndimage.find_objects(mask.astype(np.uint8))
        there, here = [], []
        for i, (voxels, step, wanted) in enumerate(zip(tight, patch.spacing, self.model.info.spacing, strict=True)):
            size, ratio, middle = mask.shape[i], 1.0, (mask.shape[i] - 1) / 2
            if i != axis:
                ratio = 1.0 if abs(step / wanted - 1) < SAME_SPACING else wanted / step
                size = self._side(i, (voxels.stop - voxels.start) * step, wanted)
                middle = (voxels.start + voxels.stop) // 2
            first = middle - (size - 1) / 2 * ratio if i == axis else middle - size // 2 * ratio
            there.append(first + np.arange(size) * ratio)
            here.append((np.arange(mask.shape[i]) - first) / ratio)
        window, back = (np.stack(np.meshgrid(*axes, indexing="ij")) for axes in (there, here))
        return window, back

    def _side(self, i: int, lesion_mm: float, spacing: float) -> int:
        """Voxels: a training patch, or more where the lesion is large."""
        divisor = int(self.model.generator.divisor)  # type: ignore[arg-type]
        least = int(np.ceil((lesion_mm + 2 * CONTEXT_MM) / spacing))
        least = max(self.model.settings.sampling.patch[i], least)
        return least + -least % divisor

    def _class_of(self, kind: str) -> int:
        known = kinds(self.model.settings)
        name = label_named(kind, known)
        if name is None:
            raise InputError(
                "model-lesion-unknown", f"{self.model.folder} does not paint {kind}; it knows {', '.join(known)}"
            )
        return known[name]

    @torch.inference_mode()
    def _painted(self, x: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(C, ...) in code units, for a 2D model slice by slice with one noise for all."""
        method, axis = self.model.method, self.model.settings.slab_axis
        assert isinstance(method, LesionGAN)
        device = next(self.model.generator.parameters()).device
        images, classes = (_slices(torch.from_numpy(v), axis).to(device) for v in (x, labels[None].astype(np.int64)))
        z = torch.from_numpy(rng.normal(size=(1, method.noise)).astype(np.float32)).to(device)
        z = z.view(1, -1, *(1,) * (images.ndim - 2)).expand(len(images), *(-1,) * (images.ndim - 1))
        y = method.paint(images, classes, z if method.noise else None, fresh=True).float().cpu()
        return (y[0] if axis is None else y.movedim(0, axis + 1)).numpy()


def kinds(settings: Settings) -> dict[str, int]:
    """The labels that a model of these settings paints, with their classes."""
    classes = enumerate((settings.data.class_groups or {}).values(), start=1)
    return {name: number for number, labels in classes if number >= FIRST_KIND for name in labels}


def load_gan(folder: Path, device: str = "cpu") -> GAN:
    """Raises InputError where the folder holds no model, or one of another method."""
    model = load_model(folder, device)
    if not isinstance(model.method, LesionGAN):
        name = model.settings.method.name
        raise InputError(
            "model-method-unsuitable", f"{folder} is a model of {name}, which paints no lesions; give one of lesion_gan"
        )
    return GAN(model)


def _slices(v: Tensor, axis: int | None) -> Tensor:
    """(C, X, Y, Z) → (1, C, X, Y, Z), or the slices along ``axis``, (n, C, the other two)."""
    return v[None] if axis is None else v.movedim(axis + 1, 0)


def _sampled(v: np.ndarray, places: np.ndarray, mode: str = "constant") -> np.ndarray:
    """Linear interpolation; exact at whole voxels."""
    return ndimage.map_coordinates(v, places, order=1, mode=mode)

"""Paint lesions with a trained ``lesion_gan``; its noise input varies their appearance."""

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
from medgen.inference.model_grid import SAME_SPACING
from medgen.methods.lesion_gan import FIRST_KIND, HOST, LesionGAN
from medgen.settings import Settings

CONTEXT_MM = 12.0  # surroundings that the generator sees on each side of a large lesion


@dataclass(frozen=True)
class GAN:
    """Lesion painter that adds the generator's change in a window around the lesion, on the model's grid.

    Raises:
        InputError: the model does not know the kind of lesion, or needs a different number of contrasts.
    """

    model: Model

    def __call__(self, patch: Patch, rng: np.random.Generator) -> np.ndarray:
        settings = self.model.settings
        if len(patch.volumes) != len(settings.data.sources):
            raise InputError(
                "model-image-count-differs",
                f"{self.model.folder} needs one image of each of {', '.join(settings.data.sources)}, but got "
                f"{len(patch.volumes)} images; give one of each",
            )
        window, back = self._window(patch)
        intensity = settings.intensity.source.model_dump(exclude={"follow"})
        codes = [fit_range(v, **intensity) for v in patch.volumes]
        corner = np.reshape([b.start for b in patch.box], (3, 1, 1, 1))
        x = np.stack(
            [c.encode(_sample(v, window + corner, mode="nearest")) for c, v in zip(codes, patch.volumes, strict=True)]
        )
        classes_at = np.where(patch.mask, self._class_of(patch.kind), np.where(patch.host, HOST, 0))
        labels = labels_at(classes_at, lambda rows: list(window[:, rows]), window.shape[1:], outside=0)
        y = self._paint(x, labels, rng)
        changes = [c.decode(b) - c.decode(a) for c, a, b in zip(codes, x, y, strict=True)]
        return patch.image + np.stack([_sample(change, back) for change in changes])

    def _window(self, patch: Patch) -> tuple[np.ndarray, np.ndarray]:
        """Return patch coordinates of each window voxel, and window coordinates of each patch voxel, (3, ...) each."""
        axis, mask = self.model.settings.slab_axis, patch.mask
        (tight,) = ndimage.find_objects(mask.astype(np.uint8))
        classes_at, here = [], []
        for i, (voxels, step, model_spacing) in enumerate(
            zip(tight, patch.spacing, self.model.info.spacing, strict=True)
        ):
            size, ratio, middle = mask.shape[i], 1.0, (mask.shape[i] - 1) / 2
            if i != axis:
                ratio = 1.0 if abs(step / model_spacing - 1) < SAME_SPACING else model_spacing / step
                size = self._side(i, (voxels.stop - voxels.start) * step, model_spacing)
                middle = (voxels.start + voxels.stop) // 2
            first = middle - (size - 1) / 2 * ratio if i == axis else middle - size // 2 * ratio
            classes_at.append(first + np.arange(size) * ratio)
            here.append((np.arange(mask.shape[i]) - first) / ratio)
        window, back = (np.stack(np.meshgrid(*axes, indexing="ij")) for axes in (classes_at, here))
        return window, back

    def _side(self, i: int, lesion_mm: float, spacing: float) -> int:
        """Return the window size in voxels along axis ``i``: a training patch, or more for a large lesion."""
        divisor = int(self.model.generator.divisor)  # type: ignore[arg-type]
        least = int(np.ceil((lesion_mm + 2 * CONTEXT_MM) / spacing))
        least = max(self.model.settings.sampling.patch[i], least)
        return least + -least % divisor

    def _class_of(self, kind: str) -> int:
        known = kinds(self.model.settings)
        name = label_named(kind, known)
        if name is None:
            raise InputError(
                "model-lesion-unknown", f"{self.model.folder} cannot paint {kind}; choose from {', '.join(known)}"
            )
        return known[name]

    @torch.inference_mode()
    def _paint(self, x: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the generator's output, (C, ...) in code units.

        A 2D model paints slice by slice, with the same noise for all slices.
        """
        method, axis = self.model.method, self.model.settings.slab_axis
        assert isinstance(method, LesionGAN)
        device = next(self.model.generator.parameters()).device
        images, classes = (_slices(torch.from_numpy(v), axis).to(device) for v in (x, labels[None].astype(np.int64)))
        z = torch.from_numpy(rng.normal(size=(1, method.noise)).astype(np.float32)).to(device)
        z = z.view(1, -1, *(1,) * (images.ndim - 2)).expand(len(images), *(-1,) * (images.ndim - 1))
        y = method.paint(images, classes, z if method.noise else None, fresh=True).float().cpu()
        return (y[0] if axis is None else y.movedim(0, axis + 1)).numpy()


def kinds(settings: Settings) -> dict[str, int]:
    """Return the lesion labels that a model with these settings can paint, with their class numbers."""
    classes = enumerate((settings.data.class_groups or {}).values(), start=1)
    return {name: number for number, labels in classes if number >= FIRST_KIND for name in labels}


def load_gan(folder: Path, device: str = "cpu") -> GAN:
    """Load a ``lesion_gan`` model. Raises InputError if the folder has no model, or one of another method."""
    model = load_model(folder, device)
    if not isinstance(model.method, LesionGAN):
        name = model.settings.method.name
        raise InputError(
            "model-method-unsuitable",
            f"{folder} is a {name} model, which cannot paint lesions; give a lesion_gan model",
        )
    return GAN(model)


def _slices(v: Tensor, axis: int | None) -> Tensor:
    """(C, X, Y, Z) → (1, C, X, Y, Z), or with an ``axis`` the slices along it, (n, C, ...)."""
    return v[None] if axis is None else v.movedim(axis + 1, 0)


def _sample(v: np.ndarray, places: np.ndarray, mode: str = "constant") -> np.ndarray:
    """Interpolate linearly at ``places``; exact at whole voxels."""
    return ndimage.map_coordinates(v, places, order=1, mode=mode)

"""Dice, HD95, ASSD and surface Dice of 10 labels, compared with MONAI."""

import warnings
from collections.abc import Callable

import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from timing import compare, size

from medgen.evaluation.metrics.segmentation import segmentation_scores

LABELS = range(1, 11)
SPACING = (1.0, 1.0, 2.5)
SCORES = ("dice", "hd95", "assd", "surface_dice")


def waves(shape: tuple[int, ...], amplitude: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Smooth displacement (x, y, z) in voxels with this standard deviation: products of sines of 30 to 90 voxels."""
    positions = [np.arange(n, dtype=np.float32) for n in shape]
    fields = []
    for _ in shape:
        total = np.zeros(shape, np.float32)
        for _ in range(4):
            x, y, z = (np.sin(2 * np.pi * (a / rng.uniform(30, 90) + rng.random())) for a in positions)
            total += x[:, None, None] * y[:, None] * z
        fields.append(total * np.float32(amplitude / total.std()))
    return fields


def organs(shape: tuple[int, ...], moved: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Label maps of ten ellipsoids that touch like organs, before and after a deformation by ``moved`` voxels."""
    rng = np.random.default_rng(seed)
    centres, radii = rng.uniform(0.2, 0.8, (10, 3)) * shape, rng.uniform(0.06, 0.17, (10, 3)) * shape
    places = [p + w for p, w in zip(np.indices(shape, np.float32), waves(shape, 4, rng), strict=True)]

    def labels() -> np.ndarray:
        nearest, owner = np.ones(shape, np.float32), np.zeros(shape, np.uint8)
        for label, centre, radius in zip(LABELS, centres.astype(np.float32), radii.astype(np.float32), strict=True):
            distance = sum(((p - c) / r) ** 2 for p, c, r in zip(places, centre, radius, strict=True))
            owner[distance < nearest] = label
            np.minimum(nearest, distance, out=nearest)
        return owner

    reference = labels()
    for place, wave in zip(places, waves(shape, moved, rng), strict=True):
        place += wave
    return reference, labels()


def noise(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The organs, and a random label per voxel: all voxels are surface, many of them far from the organ's."""
    labels = np.random.default_rng(seed).integers(0, len(LABELS) + 1, shape, np.uint8)
    return organs(shape, 0, seed)[0], labels


def row(name: str, reference: np.ndarray, prediction: np.ndarray) -> None:
    """MONAI gets the one-hot tensors it asks for, made outside its time. Dice from 0 to 1, distances in mm."""
    y, y_pred = (
        torch.stack([torch.from_numpy(v == k) for k in range(11)])[None].float() for v in (reference, prediction)
    )
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "dice": lambda: compute_dice(y_pred, y, include_background=False),
        "hd95": lambda: compute_hausdorff_distance(y_pred, y, percentile=95, spacing=SPACING),
        "assd": lambda: compute_average_surface_distance(y_pred, y, symmetric=True, spacing=SPACING),
        "surface_dice": lambda: compute_surface_dice(y_pred, y, [2.0] * len(LABELS), spacing=SPACING),
    }

    def ours() -> np.ndarray:
        scores = segmentation_scores(reference, prediction, SPACING, labels=LABELS)
        return np.array([[scores[label][score] for label in LABELS] for score in SCORES])

    def peer() -> np.ndarray:
        return torch.cat([calls[score]() for score in SCORES]).numpy()

    shape = " × ".join(map(str, reference.shape))
    compare(__file__, f"10 labels, {shape}, {name} (MONAI)", ours, peer, tolerance=1e-4, rounds=2)


def main() -> None:
    warnings.filterwarnings("ignore", module="monai")
    large, little = size((256, 256, 96), (64, 64, 32)), size((96, 96, 40), (64, 64, 32))
    row("moved by 1 voxel", *organs(large, 1))
    row("moved by 3 voxels", *organs(large, 3))
    row("against noise", *noise(little))


if __name__ == "__main__":
    main()

"""A plain MONAI training loop for pairs, which stops when the validation MAE inside the body is low enough."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandSpatialCropd, ScaleIntensityRanged
from torch import nn

BOTH = ["source", "target"]


def data(root: Path, names: Sequence[str], more: Sequence[object] = ()) -> CacheDataset:
    files = [{side: root / side / f"{name}.nii.gz" for side in BOTH} for name in names]
    scale = ScaleIntensityRanged(BOTH, a_min=-1000, a_max=1000, b_min=-1, b_max=1, clip=True)
    return CacheDataset(files, Compose([LoadImaged(BOTH), EnsureChannelFirstd(BOTH), scale, *more]), progress=False)


def main(
    network: nn.Module,
    root: Path,
    train: Sequence[str],
    validation: Sequence[str],
    bodies: Sequence[np.ndarray],
    *,
    side: int,
    lr: float,
    every: int,
    target: float,
    most: int,
) -> float:
    """Train until the MAE (HU) is at most ``target``, or for ``most`` steps; returns the MAE. Validates ``every``."""
    crop = RandSpatialCropd(BOTH, roi_size=(side,) * 3, random_size=False)
    loader = DataLoader(data(root, train, [crop]), batch_size=1, shuffle=True)
    held_out = data(root, validation)
    adam = torch.optim.AdamW(network.parameters(), lr, betas=(0.9, 0.99), weight_decay=1e-4)
    step, error = 0, float("inf")
    while step < most:
        for batch in loader:
            x, y = (batch[side].as_tensor() for side in BOTH)
            loss = (network(x) - y).abs().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            step += 1
            if step % every == 0:
                error = validated(network, held_out, bodies, side)
                if error <= target:
                    return error
            if step >= most:
                break
    return error


@torch.inference_mode()
def validated(network: nn.Module, held_out: CacheDataset, bodies: Sequence[np.ndarray], side: int) -> float:
    network.eval()
    errors = []
    for case, body in zip(held_out, bodies, strict=True):
        x, y = (case[side].as_tensor()[None] for side in BOTH)
        made = sliding_window_inference(x, (side,) * 3, 4, network, 0.5, mode="gaussian", padding_mode="replicate")
        errors.append(1000 * float((made - y)[0, 0].abs().numpy()[body].mean()))
    network.train()
    return float(np.mean(errors))

"""What a MONAI user writes in an hour for a paired translation: a residual U-Net, L1, Adam, random crops and flips.

    python benchmarks/peers/monai_unet.py MINUTES OUT --train SOURCE TARGET [SOURCE TARGET ...] --test SOURCE [...]

Source and target of a pair may be on different grids; all is resampled to the spacing of the first target. The outputs
OUT/NAME_OF_SOURCE are on the resampled grids of the test sources, in percentiles of the target (0 to 1), or with
``--window LOW HIGH`` in HU.
"""

import argparse
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai import transforms as mt
from monai.inferers import sliding_window_inference
from monai.networks.nets import UNet


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("minutes", type=float)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", nargs="+", required=True)
    parser.add_argument("--test", nargs="+", type=Path, required=True)
    parser.add_argument("--window", nargs=2, type=float, metavar=("LOW", "HIGH"))
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    spacing = [float(s) for s in nib.as_closest_canonical(nib.load(a.train[1])).header.get_zooms()[:3]]
    load = [
        mt.LoadImaged(["x", "y"], allow_missing_keys=True),
        mt.EnsureChannelFirstd(["x", "y"], allow_missing_keys=True),
    ]
    load += [mt.Orientationd(["x", "y"], "RAS", labels=None, allow_missing_keys=True)]
    if a.window:
        scaled = mt.ScaleIntensityRanged(["x", "y"], *a.window, 0, 1, clip=True, allow_missing_keys=True)
    else:
        scaled = mt.ScaleIntensityRangePercentilesd(["x", "y"], 0, 99.5, 0, 1, clip=True, allow_missing_keys=True)
    pair = mt.Compose([*load, mt.ResampleToMatchd(["x"], "y"), scaled])
    single = mt.Compose([*load, mt.Spacingd(["x"], spacing), scaled])
    pairs = [pair({"x": x, "y": y}) for x, y in zip(a.train[::2], a.train[1::2], strict=True)]
    depth = min(64, min(p["y"].shape[3] for p in pairs) // 16 * 16)
    patch = (64, 64, depth)
    strides = (2, 2, 2, 2) if depth >= 64 else ((2, 2, 1), (2, 2, 2), (2, 2, 2))
    channels = (16, 32, 64, 128, 256)[: len(strides) + 1]
    net = UNet(3, 1, 1, channels, strides, num_res_units=2)
    crop = mt.Compose(
        [
            mt.SpatialPadd(["x", "y"], patch),
            mt.RandSpatialCropd(["x", "y"], patch, random_size=False),
            mt.RandFlipd(["x", "y"], 0.5, 0),
        ]
    )
    crop.set_random_state(a.seed)
    adam, rng = torch.optim.Adam(net.parameters(), 1e-3), np.random.default_rng(a.seed)
    steps, end = 0, time.monotonic() + 60 * a.minutes
    while time.monotonic() < end:
        batch = [crop(pairs[rng.integers(len(pairs))]) for _ in range(2)]
        x, y = (torch.stack([b[k].as_tensor() for b in batch]) for k in ("x", "y"))
        loss = (net(x) - y).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        steps += 1
    net.eval()
    a.out.mkdir(parents=True, exist_ok=True)
    low, high = a.window or (0, 1)
    for source in a.test:
        test = single({"x": source})["x"]
        with torch.inference_mode():
            y = sliding_window_inference(
                test.as_tensor()[None], patch, 2, net, overlap=0.5, mode="gaussian", padding_mode="replicate"
            )
        nib.save(nib.Nifti1Image(y[0, 0].numpy() * (high - low) + low, test.affine.numpy()), a.out / source.name)
    print(f"{steps} steps", flush=True)


if __name__ == "__main__":
    main()

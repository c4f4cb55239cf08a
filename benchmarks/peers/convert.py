"""Convert CTs as MONAI's tutorials do: load, scale, slide a window over the whole volume, save.

python benchmarks/peers/convert.py IN_FOLDER OUT_FOLDER NETWORK.pt SIDE OVERLAP BATCH
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.data import DataLoader, Dataset, decollate_batch
from monai.inferers import SlidingWindowInferer, sliding_window_inference
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    SaveImage,
    ScaleIntensityRange,
    ScaleIntensityRanged,
)
from torch import Tensor


@torch.inference_mode()
def windows(
    network: Callable[[Tensor], Tensor], x: np.ndarray, side: int, batch: int, overlap: float, device: str = "cpu"
) -> np.ndarray:
    """(C, X, Y, Z) → (C, X, Y, Z) by MONAI's sliding window, as in its tutorials but with Gaussian weights."""
    places = {"sw_device": torch.device(device), "device": torch.device("cpu")}
    options = {"overlap": overlap, "mode": "gaussian", "padding_mode": "replicate", **places}
    return sliding_window_inference(torch.from_numpy(x)[None], (side,) * 3, batch, network, **options)[0].numpy()


def main(source: Path, out: Path, network: torch.nn.Module, side: int, overlap: float, batch: int) -> None:
    files = [{"image": path} for path in sorted(source.iterdir())]
    scale = ScaleIntensityRanged(["image"], a_min=-1000, a_max=1000, b_min=-1, b_max=1, clip=True)
    load = Compose([LoadImaged(["image"]), EnsureChannelFirstd(["image"]), scale])
    back = ScaleIntensityRange(a_min=-1, a_max=1, b_min=-1000, b_max=1000, clip=True)
    save = SaveImage(out, output_postfix="", output_dtype=np.int16, separate_folder=False, print_log=False)
    inferer = SlidingWindowInferer((side,) * 3, batch, overlap, mode="gaussian", padding_mode="replicate")
    network.eval()
    with torch.inference_mode():
        for loaded in DataLoader(Dataset(files, load), batch_size=1, num_workers=1):
            for image in decollate_batch(inferer(loaded["image"], network)):
                save(back(image).round())


if __name__ == "__main__":
    saved = torch.load(sys.argv[3], weights_only=False)
    main(Path(sys.argv[1]), Path(sys.argv[2]), saved, int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6]))

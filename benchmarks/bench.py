"""Compare the speed of medgen with peer libraries in one run: python benchmarks/bench.py (or make bench)."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import bench_cohort
import bench_frechet
import bench_resampling
import bench_segmentation
import bench_ssim
import nibabel as nib
import numpy as np
from monai.data import CacheDataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, RandSpatialCropd, ScaleIntensityRanged
from timing import best_of, row

from medgen.data.cache import cached
from medgen.data.patches import Patches
from medgen.phantom.cohort import make_patient


def step(method: str, *keys: str) -> dict[str, float]:
    """Seconds and MiB of a training step, each the minimum over three separate processes."""
    command = [sys.executable, str(Path(__file__).with_name("gan_step.py")), method, *keys]
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    runs = [
        json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout) for _ in range(3)
    ]
    return {k: min(run[k] for run in runs) for k in runs[0]}


def monai_pairs(path: Path) -> CacheDataset:
    """The peer of ``Patches``: the scaled pair cached in memory, with a random crop at each call."""
    both = ["source", "target"]
    steps = [
        LoadImaged(both),
        EnsureChannelFirstd(both),
        ScaleIntensityRanged(both, a_min=-1000, a_max=1000, b_min=-1, b_max=1, clip=True),
        RandSpatialCropd(both, roi_size=(64, 64, 64), random_size=False),
    ]
    return CacheDataset([{"source": path, "target": path}], Compose(steps), progress=False)


def gan_steps() -> None:
    """Cost of a training step per method: a ResNet generator of 9 blocks and 16 filters, patches of 48³."""
    filters = ("generator.filters=16", "adversary.filters=16")
    no_antialias = ("generator.antialias=false", "adversary.antialias=false")
    fastcut = ("weight_nce=10", "nce_identity=false", "flip_equivariance=true")
    print("\n| training step | s | MiB | speed-up over CycleGAN | share of its memory |\n|---|---|---|---|---|")
    rows = {"CycleGAN": step("cyclegan", *filters), "CUT": step("cut", *filters, *no_antialias)}
    rows["FastCUT"] = step("cut", *filters, *no_antialias, *fastcut)
    base = rows["CycleGAN"]
    for name, result in rows.items():
        time_ratio, share = base["seconds"] / result["seconds"], result["mib"] / base["mib"]
        print(
            f"| {name} | {result['seconds']:.2f} | {result['mib']:.0f} | {time_ratio:.1f} × | {share:.0%} |", flush=True
        )


def main() -> None:
    patient = make_patient(0)
    scan = patient.contrast
    print("| task | medgen | peer | speed-up |\n|---|---|---|---|")

    bench_ssim.main()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        nib.save(nib.Nifti1Image(np.rint(scan).astype(np.int16), patient.affine), path)
        entry = cached(Path(folder), path, {"kind": "window"}, spacing=None)
        patches = Patches({"a": (entry,)}, {"a": (entry,)}, paired=True, patch=(64, 64, 64), seed=0)
        peer = monai_pairs(path)
        row(
            "64³ training pair, second epoch (MONAI CacheDataset, RandSpatialCrop)",
            best_of(lambda: [patches[n] for n in range(50)]) / 50,
            best_of(lambda: [peer[0] for _ in range(50)]) / 50,
        )
    bench_resampling.main()
    bench_segmentation.main()
    bench_frechet.main()
    bench_cohort.main()
    gan_steps()


if __name__ == "__main__":
    main()

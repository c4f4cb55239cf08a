"""Thick slices back to 1 mm: a restoration model beside interpolations, on a head that it was not trained on.

    python benchmarks/thick_slices.py IMAGE OUT MODEL [MODEL ...] [--distance 4]

Makes a scan with thick axial slices of an isotropic IMAGE (each slice profile), restores it with each MODEL by
``medgen.inference.predict.translate_volume``, interpolates it by trilinear and cubic B-spline, and prints for each the
mean absolute error inside the head (% of the image's 99.5th percentile), SSIM and the profile ``restoration``. Saves
OUT/slices_PROFILE.png: a sagittal slice of the input, of each result and of the truth.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from medgen.checkpoint import load_model
from medgen.data.degradation import thick_slices
from medgen.data.grid import resample_like
from medgen.evaluation.metrics.image_pair import measure
from medgen.inference.predict import translate_volume
from medgen.io.read import read_volume
from medgen.io.volume import Volume, to_canonical


def spline(scan: Volume, truth: Volume) -> np.ndarray:
    """Cubic B-spline at the voxels of the truth."""
    to_voxel = np.linalg.inv(scan.affine) @ truth.affine
    shape = truth.data.shape
    at = to_voxel[:3, :3], to_voxel[:3, 3]
    return ndimage.affine_transform(scan.data, *at, output_shape=shape, order=3, mode="nearest").astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--distance", type=float, default=4.0)
    given = parser.parse_args()
    truth = to_canonical(read_volume(given.image))
    count = int(truth.data.shape[2] // given.distance * given.distance)  # whole slices, so that the grids are the same
    truth = Volume(truth.data[:, :, :count], truth.affine)
    high = float(np.percentile(truth.data[truth.data > 0], 99.5))
    head = truth.data > 0
    given.out.mkdir(parents=True, exist_ok=True)
    for profile in ("gaussian", "box"):
        scan = thick_slices(truth, 2, given.distance, profile)
        results = {"trilinear": resample_like(scan, truth), "B-spline": spline(scan, truth)}
        for model in given.models:
            started = time.perf_counter()
            restored = translate_volume(load_model(model), scan)
            results[model.parent.name] = restored.data
            print(f"{model}: {time.perf_counter() - started:.1f} s, {restored.geometry.describe()}")
            assert np.allclose(restored.affine, truth.affine) and restored.data.shape == truth.data.shape
        print(f"| {profile}, {given.distance:g} mm | MAE, % | SSIM | edge sharpness | noise | noise frequency |")
        for name, data in results.items():
            common = {"mask": head, "spacing": truth.spacing}
            generic = measure(truth.data, data, profile="generic", data_range=high, **common)
            own = measure(truth.data, data, profile="restoration", **common)
            row = [100 * generic["mae"] / high, generic["ssim"], *own.values()]
            print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |", flush=True)
        save(given.out / f"slices_{profile}.png", scan, [*results.values(), truth.data], high, given.distance)


def save(path: Path, scan: Volume, volumes: list[np.ndarray], high: float, distance: float) -> None:
    """A sagittal slice beside the middle of each: the thick slices as they are, the results, the truth."""
    x = scan.data.shape[0] // 2 - 12
    blocks = np.repeat(scan.data[x], round(distance), 1)
    tiles = [np.rot90(v) for v in (blocks, *(v[x] for v in volumes))]
    grey = [np.pad((255 * np.clip(t / high, 0, 1)).astype(np.uint8), ((0, 0), (0, 3))) for t in tiles]
    Image.fromarray(np.hstack(grey)).save(path)


if __name__ == "__main__":
    main()

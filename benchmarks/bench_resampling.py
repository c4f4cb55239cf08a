"""Resampling to the spacing of a model and back, and a Gaussian filter, compared with scipy. Part of bench.py."""

import numpy as np
from scipy import ndimage
from timing import compare, size

from medgen.data.fast_filters import gaussian
from medgen.data.grid import resample, resample_like
from medgen.io.volume import Volume

SHAPE, SPACING, MODEL = size((512, 512, 100), (96, 96, 20)), (0.8, 0.8, 2.5), 2.5


def round_trip(volume: Volume) -> np.ndarray:
    return resample_like(resample(volume, (MODEL,) * 3), volume)


def scipy_round_trip(volume: Volume) -> np.ndarray:
    step = MODEL / np.array(SPACING)
    shape = np.rint(np.array(SHAPE) / step).astype(int)
    first = (np.array(SHAPE) - 1) / 2 - step * (shape - 1) / 2
    smooth = ndimage.gaussian_filter(volume.data, np.maximum(0, (step - 1) / 2), mode="nearest")
    coarse = ndimage.affine_transform(smooth, step, first, output_shape=tuple(shape), order=1, mode="nearest")
    return ndimage.affine_transform(coarse, 1 / step, -first / step, output_shape=SHAPE, order=1, mode="nearest")


def main() -> None:
    scan = np.random.default_rng(0).normal(0, 500, SHAPE).astype(np.float32)
    volume = Volume(scan, np.diag([*SPACING, 1.0]))
    compare(
        __file__,
        f"CT of {' × '.join(map(str, SHAPE))} to {MODEL} mm and back (scipy)",
        lambda: round_trip(volume),
        lambda: scipy_round_trip(volume),
        tolerance=1e-3,  # HU
        rounds=3,
    )
    small = scan[:160, :128, :96]
    compare(
        __file__,
        f"Gaussian filter, sigma 2 voxels, {' × '.join(map(str, small.shape))} (scipy)",
        lambda: gaussian(small, (2.0, 2.0, 2.0)),
        lambda: ndimage.gaussian_filter(small, 2.0),
        tolerance=0.05,  # HU, of noise of 500 HU
    )


if __name__ == "__main__":
    main()

"""Valid volumes that are difficult for pictures and metrics."""

import nibabel as nib
import numpy as np

HUGE = np.finfo(np.float32).max
NOISE = np.random.default_rng(0).normal(0, 30, (12, 10, 8)).astype(np.float32)
BODY = np.where(np.hypot(*np.mgrid[-6:6, -5:5]) < 4, 40, -1000).astype(np.float32)[..., None] + NOISE

# Name: voxels and spacing in mm.
VOLUMES = {
    "ordinary": (BODY, (2, 2, 3)),
    "zero": (np.zeros((6, 5, 4)), (2, 2, 3)),
    "constant": (np.full((6, 5, 4), -1000.0), (2, 2, 3)),
    "huge": (np.full((6, 5, 4), HUGE), (2, 2, 3)),
    "huge_both_ways": (HUGE * np.sign(NOISE), (2, 2, 3)),
    "tiny": (1e-38 * np.abs(NOISE), (2, 2, 3)),
    "nearly_constant": (1e6 + 1e-3 * NOISE, (2, 2, 3)),
    "one_bright_voxel": (np.eye(8)[..., None] * 1e30, (1, 1, 1)),
    "one_voxel": (np.full((1, 1, 1), 40.0), (2, 2, 3)),
    "one_slice": (BODY[..., :1], (2, 2, 3)),
    "line": (np.linspace(-1000, 400, 1000).reshape(1, 1, 1000), (1, 1, 1)),
    "thin_line": (np.linspace(-1000, 400, 1000).reshape(1000, 1, 1), (100, 0.01, 0.01)),
    "flat_plate": (BODY, (100, 100, 0.01)),
    "needle": (BODY[:1], (0.01, 100, 100)),
    "microscopic": (BODY, (1e-3, 1e-3, 1e-3)),
    "all_air": (np.full((6, 5, 4), -1000.0) + NOISE[:6, :5, :4] / 100, (2, 2, 3)),
}


def write(path, data, spacing):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(data, np.float32), np.diag([*spacing, 1.0])), path)
    return path

"""Scans for the benchmarks: phantoms, and large CTs made from them in seconds."""

from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch.nn import functional as nnf

from medgen.phantom.cohort import Patient, make_patient


@cache
def patient(seed: int, shape: tuple[int, int, int] = (160, 128, 96), mm: float = 2.5) -> Patient:
    """A phantom with and without contrast medium, as ``make_patient``."""
    return make_patient(seed, size=shape, spacing=mm)


def large_ct(shape: tuple[int, int, int], seed: int = 0, noise: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    """int16 HU of a phantom enlarged to ``shape``, with noise of its own on the fine grid; and its affine."""
    low = patient(seed, (128, 112, 80), 3.0)
    fine = nnf.interpolate(torch.from_numpy(low.contrast)[None, None], shape, mode="trilinear")[0, 0].numpy()
    rng = np.random.default_rng(seed)
    for plane in fine:  # plane by plane, for memory
        plane += noise * rng.standard_normal(plane.shape, np.float32)
    spacing = [n * 3.0 / m for n, m in zip(low.contrast.shape, shape, strict=True)]
    return np.rint(fine).astype(np.int16), np.diag([*spacing, 1.0])


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    """Write an int16 NIfTI file with nibabel; folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.rint(data).astype(np.int16), affine), path)
    return path


def cohort(folder: Path, cases: int, shape: tuple[int, int, int] = (160, 128, 96), mm: float = 2.5) -> Path:
    """``source`` (contrast) and ``target`` (non-contrast) of phantoms, as a cohort for training; returns ``folder``."""
    for seed in range(cases):
        one = patient(seed, shape, mm)
        save(folder / "source" / f"p{seed:02}.nii.gz", one.contrast, one.affine)
        save(folder / "target" / f"p{seed:02}.nii.gz", one.noncontrast, one.affine)
    return folder

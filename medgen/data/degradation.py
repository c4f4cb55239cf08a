"""Synthetic degradation of good images, for training restoration without pairs: thick slices and low-dose CT.

Thick slices: along one axis, each slice is the image weighted by a slice profile (a Gaussian whose full width at half
maximum is the slice distance, or a box of that width), and the slices are interpolated linearly back to the grid of the
image, as inference interpolates a scan of thick slices to the model's grid. Both steps are linear and the same for
every line, so one matrix does them. As in SMORE (Zhao et al., IEEE TMI 2021), no real thick slices are needed.

Low dose: noise with the spectrum of filtered back-projection, see ``phantom.ct_physics``, is added in HU. A scan of
noise s at full dose has the noise s/√f at the share f of the dose, so σ = s √(1/f - 1) is what is added.
"""

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy.special import ndtr

from medgen.data.grid import resample_like, unmixed
from medgen.io.volume import Volume
from medgen.phantom.ct_physics import noise
from medgen.settings import Degradation

Profile = Literal["gaussian", "box"]
AXES = {"x": 0, "y": 1, "z": 2}
FWHM = math.sqrt(8 * math.log(2))  # full width at half maximum of a Gaussian, in standard deviations
REACH = {"gaussian": 3.2 / FWHM, "box": 0.5}  # half width of the profile, in slice distances
LOWEST_HU = -1024


def slice_weights(centres: np.ndarray, n: int, distance: float, profile: Profile) -> np.ndarray:
    """Weights (slices, n) of n voxels in slices, each row of sum 1: the profile, integrated over each voxel.

    Args:
        centres: of the slices, in voxels of the line.
        distance: of two slices and width of the profile, in voxels.
    """
    offsets = np.arange(n) - np.asarray(centres, float)[:, None]
    if profile == "gaussian":
        sigma = distance / FWHM
        weights = ndtr((offsets + 0.5) / sigma) - ndtr((offsets - 0.5) / sigma)
    else:
        ends = np.clip(np.stack([offsets - 0.5, offsets + 0.5]), -distance / 2, distance / 2)
        weights = ends[1] - ends[0]
    return weights / np.maximum(weights.sum(1, keepdims=True), 1e-12)


@lru_cache(maxsize=64)
def margin(distance: float, profile: Profile) -> int:
    """Voxels that a thick slice and its interpolation reach beyond a voxel; ``distance`` in voxels."""
    return math.ceil(distance * (1 + REACH[profile])) + 1


def thick_slice_matrix(n: int, distance: float, profile: Profile, phase: float) -> np.ndarray:
    """The degradation of a line as a matrix (n, n + 2 m) with m = `margin`: to slices, and interpolated back.

    Args:
        n: voxels of the result.
        distance: of two slices, in voxels.
        phase: position of a slice's centre, in voxels from the first voxel.
    """
    m = margin(distance, profile)
    first, last = math.floor(-phase / distance), math.ceil((n - 1 - phase) / distance)
    centres = phase + distance * np.arange(first, last + 1)
    position = np.clip((np.arange(n) - centres[0]) / distance, 0, len(centres) - 1)
    before = np.minimum(position.astype(int), max(len(centres) - 2, 0))
    interpolation = np.zeros((n, len(centres)))
    interpolation[np.arange(n), before] = 1 - (position - before)
    interpolation[np.arange(n), np.minimum(before + 1, len(centres) - 1)] += position - before
    return interpolation @ slice_weights(centres + m, n + 2 * m, distance, profile)


def thick_slices(volume: Volume, axis: int, distance: float, profile: Profile = "gaussian") -> Volume:
    """A scan of thick slices of the same field of view, made from one of thin slices.

    Args:
        volume: (X, Y, Z).
        axis: of the array, across the slices.
        distance: of two slices in mm, and width of the profile.
        profile: "gaussian" or "box".

    Returns:
        The scan, with the geometry of its slices: the two fields of view have the same centre.
    """
    step = distance / volume.spacing[axis]
    n = volume.data.shape[axis]
    count = max(1, round(n / step))
    first = (n - 1) / 2 - step * (count - 1) / 2
    reach = margin(step, profile)
    weights = slice_weights(first + step * np.arange(count) + reach, n + 2 * reach, step, profile)
    pad = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
    data = _along(np.pad(volume.data, pad, mode="edge"), axis, weights)
    affine = volume.affine.copy()
    affine[:3, 3] += volume.affine[:3, axis] * first
    affine[:3, axis] *= step
    return Volume(data, affine, volume.dtype, None, volume.path)


def low_dose(
    data: np.ndarray, spacing: tuple[float, float, float], sigma: float, rng: np.random.Generator
) -> np.ndarray:
    """CT (X, Y, Z) in HU with more noise of the standard deviation ``sigma`` (HU); the slices are along Z."""
    noisy = data + np.float32(sigma) * noise(data.shape, spacing, rng)
    return np.maximum(noisy, LOWEST_HU).astype(np.float32)


class Draw:
    """One random degradation of a patch.

    Args:
        settings: its ranges.
        spacing: mm, of the patch.
        rng: drawn from here, and later for the noise.

    Attributes:
        margin: (3,) voxels of the image that the degradation needs on each side of the patch.
    """

    def __init__(self, settings: Degradation, spacing: tuple[float, float, float], rng: np.random.Generator) -> None:
        self.spacing, self.rng = spacing, rng
        self.margin = np.zeros(3, int)
        self.sigma = rng.uniform(*settings.noise) if settings.noise else 0.0
        self.distance = 0.0
        if settings.thickness:
            self.axis = AXES[settings.axes[rng.integers(len(settings.axes))]]
            self.distance = rng.uniform(*settings.thickness) / spacing[self.axis]
            self.profile: Profile = settings.profiles[rng.integers(len(settings.profiles))]
            self.phase = rng.uniform(0, self.distance)
            self.margin[self.axis] = margin(self.distance, self.profile)

    def __call__(self, data: np.ndarray, background: float | None = None) -> np.ndarray:
        """Degrade an image that includes the margin; returns it without.

        ``background``: value of masked voxels, which are not mixed with tissue, see `grid.unmixed`.
        """
        data = np.asarray(data, np.float32)
        if self.sigma:
            noisy = low_dose(data, self.spacing, self.sigma, self.rng)
            data = noisy if background is None else np.where(data == background, data, noisy)
        if not self.distance:
            return data
        n = data.shape[self.axis] - 2 * int(self.margin[self.axis])
        matrix = thick_slice_matrix(n, self.distance, self.profile, self.phase)
        return unmixed(data, background, lambda image: _along(image, self.axis, matrix))


def degraded(volume: Volume, settings: Degradation, background: float | None = None) -> Volume:
    """A whole volume, degraded as much as in training at most, on its own grid; for validation.

    Thick slices lie along the last of ``axes``, with the first of ``profiles``; the noise is the same in each call.
    ``background``: as for `Draw`.
    """
    data = volume.data
    if settings.noise:
        noisy = low_dose(data, volume.spacing, settings.noise[1], np.random.default_rng(0))
        data = noisy if background is None else np.where(data == background, data, noisy)
    if not settings.thickness:
        return volume.replaced(data)
    axis, thickness, profile = AXES[settings.axes[-1]], settings.thickness[1], settings.profiles[0]

    def thick(image: np.ndarray) -> np.ndarray:
        return resample_like(thick_slices(volume.replaced(image), axis, thickness, profile), volume)

    return volume.replaced(unmixed(data, background, thick))


def _along(data: np.ndarray, axis: int, matrix: np.ndarray) -> np.ndarray:
    """Apply a matrix to every line along an axis."""
    result: Any = np.moveaxis(np.tensordot(matrix.astype(np.float32), data, (1, axis)), 0, axis)
    return np.ascontiguousarray(result, np.float32)

"""Simulate effects of the scanner on the true HU: correlated noise and low-frequency bias from beam hardening.

Noise: white noise, filtered in the slice by a ramp with a smooth cut-off, which is the noise power spectrum of
filtered back-projection (Riederer et al., Phys Med Biol 1978;23:446; Boedeker et al., ibid. 2007;52:4047). It is
slightly correlated between slices and larger where the X-ray path through the body is longer.
Bias: cupping and dark bands between dense parts (Barrett & Keat, RadioGraphics 2004;24:1679).
"""

import numpy as np
from scipy import fft, ndimage

Array = np.ndarray


def add_scan(hu: Array, spacing: tuple[float, float, float], rng: np.random.Generator, sigma: float) -> Array:
    """Simulate one scan of the true ``hu`` (X, Y, Z): add bias and noise drawn from ``rng``.

    ``sigma``: approximate standard deviation of the noise in soft tissue at the centre of the body, HU.
    """
    path = path_length(hu, spacing)
    scan = hu + bias(hu, path, spacing, rng) + noise(hu.shape, spacing, rng) * (sigma * path)
    return np.maximum(scan, -1024).astype(np.float32)


def path_length(hu: Array, spacing: tuple[float, float, float]) -> Array:
    """Return the noise level relative to the body centre, from the mass within about 10 cm; 0.45 in air."""
    step = [max(1, int(12 / s)) for s in spacing]
    coarse = np.clip(hu[:: step[0], :: step[1], :: step[2]] / 1000 + 1, 0, 1.6)
    widths = [55 / (s * k) for s, k in zip(spacing, step, strict=True)]
    mass = ndimage.gaussian_filter(
        coarse, (widths[0], widths[1], 0.5 * widths[2]), mode=("constant", "constant", "nearest")
    )
    return 0.45 + 0.62 * upsampled(mass, hu.shape)


def upsampled(coarse: Array, shape: tuple[int, ...]) -> Array:
    """Upsample to a shape with trilinear interpolation."""
    for axis, n in enumerate(shape):
        m = coarse.shape[axis]
        at = np.linspace(0, m - 1, n).astype(np.float32)
        low = np.minimum(at.astype(int), max(m - 2, 0))
        weight = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        coarse = np.take(coarse, low, axis) * (1 - weight) + np.take(coarse, np.minimum(low + 1, m - 1), axis) * weight
    return coarse.astype(np.float32)


def noise(shape: tuple[int, ...], spacing: tuple[float, float, float], rng: np.random.Generator) -> Array:
    """Draw unit-variance noise (X, Y, Z) with the spectrum of filtered back-projection."""
    white = rng.standard_normal(shape, dtype=np.float32)
    fx, fy = np.fft.fftfreq(shape[0], spacing[0])[:, None], np.fft.rfftfreq(shape[1], spacing[1])[None, :]
    f = np.hypot(fx, fy)  # cycles per mm
    gain = np.sqrt(0.02 + f) * np.exp(-((f / 0.24) ** 2))
    gain = (gain / np.sqrt((gain**2).mean())).astype(np.float32)
    shaped = fft.irfft2(fft.rfft2(white, axes=(0, 1)) * gain[:, :, None], s=shape[:2], axes=(0, 1))
    shaped = ndimage.gaussian_filter1d(shaped, 1.1 / spacing[2], axis=2, mode="wrap")
    return (shaped / shaped.std()).astype(np.float32)


def bias(hu: Array, path: Array, spacing: tuple[float, float, float], rng: np.random.Generator) -> Array:
    """Return a low-frequency HU error: drift of about 1.5 HU, cupping, and dark bands beside dense parts along x."""
    drift = upsampled(rng.standard_normal((4, 4, 3)).astype(np.float32), hu.shape) * 1.6
    cup = (path - 0.9) * rng.uniform(-7, -3)
    dense = np.clip(hu - 180, 0, 900)
    wide = ndimage.uniform_filter1d(
        ndimage.uniform_filter1d(dense, max(1, int(90 / spacing[0])), axis=0, mode="constant"),
        max(1, int(7 / spacing[1])),
        axis=1,
        mode="constant",
    )
    band = -0.10 * np.minimum(wide, 90) * (dense < 50) * (hu > -300)
    return drift + cup + band

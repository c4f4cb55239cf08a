"""Radiomics of random 3D patches: first-order and texture features computed by MIRP, without weights to download.

For the Fréchet radiomics distance (Konz, Osuala et al., "Fréchet Radiomic Distance", arXiv 2412.01496, Medical Image
Analysis 2026), here in 3D and without filtered images. Values are the squared distance, not its logarithm as in the
paper. Features are those of the IBSI (arXiv 1612.07003) as computed by MIRP (Zwanenburg et al., JOSS 2024).

Design choices:

- Families: intensity statistics, grey level co-occurrence, run lengths, size zones: 75 features. Shape features are
  excluded: they carry no information for a box and take 90 % of the time. Grey tone differences (NGTDM) are excluded:
  coarseness and strength of a flat patch are unbounded, so that one such patch would dominate the distance.
- Grey levels: the window is divided into ``bins`` of equal width for the whole cohort, so that a level is the same HU
  in every patch (IBSI's fixed bin size). For MR, which has no unit, the window is given by the percentiles of each
  volume, which fixes the number of bins per volume. A fixed number per patch would stretch noise to look like texture.
- Every feature x is stored as sign(x)·log(1 + |x|): zone emphases and cluster prominence span many orders of magnitude,
  and a Gaussian fitted to them would be determined by their few largest values.
- Patches of 16³ voxels: 4096 voxels are enough for the co-occurrences of 32 levels, and small compared with an organ.
"""

import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgen.errors import InputError
from medgen.evaluation.features.extractor import checked_volume
from medgen.evaluation.features.slices import Window, describe_window, windowed

FAMILIES = ("statistics", "cm", "rlm", "szm")
PREFIXES = ("stat_", "ih_", "cm_", "rlm_", "szm_", "dzm_", "ngt_", "ngl_")  # of the feature columns of MIRP

Array = NDArray[Any]


class Radiomics:
    """Extractor of MIRP features: one row per patch, patches at random positions in the mask.

    Args:
        window: intensities (low, high) that are divided into grey levels, in HU for CT, e.g. (-200, 300); values
            outside are clipped. None: percentiles of each volume (MR).
        patches: number of patches per volume; they may overlap.
        patch: side in voxels; shorter axes limit it. Texture depends on the voxel size, so compare only volumes of
            similar spacing.
        bins: number of grey levels.
        families: names of MIRP feature families.
        workers: processes that share the patches of a volume; 1: only this process.
        seed: of the positions; equal masks give equal positions on both sides of a comparison.

    Raises `InputError` if MIRP is not installed or an argument is out of range.
    """

    name = "radiomics"
    weights = "none"
    standard = False
    standardised = True

    def __init__(
        self,
        *,
        window: Window = None,
        patches: int = 16,
        patch: int = 16,
        bins: int = 32,
        families: Sequence[str] = FAMILIES,
        workers: int = 2,
        seed: int = 0,
    ) -> None:
        if min(patches, workers) < 1 or patch < 4 or bins < 2:
            raise InputError(
                "radiomics-settings-range",
                f"patches {patches}, workers {workers}, patch {patch}, bins {bins} must be at least 1, 1, 4 and 2",
            )
        self.relative = window is None
        self.preprocessing = (
            f"mirp {_mirp_version()}, {describe_window(window)}, {bins} grey levels, {patches} random patches of "
            f"{patch}³ voxels in the body, families {', '.join(families)}, log-compressed"
        )
        self._window, self._patches, self._patch, self._bins = window, patches, patch, bins
        self._families, self._workers, self._seed = tuple(families), workers, seed

    def __call__(self, volume: Array, spacing: Sequence[float], *, mask: Array | None = None) -> Array:
        volume, inside = checked_volume(volume, spacing, mask)
        levels = windowed(volume, inside, self._window) * self._bins
        boxes = patch_boxes(inside, count=self._patches, side=self._patch, seed=self._seed)
        task = partial(patch_radiomics, bins=self._bins, families=self._families)
        return np.stack(list(_in_processes(task, [levels[box] for box in boxes], self._workers)))


def patch_boxes(mask: Array, *, count: int, side: int, seed: int) -> list[tuple[slice, ...]]:
    """Return ``count`` boxes of ``side`` voxels around random voxels of the mask, shifted to lie inside the volume."""
    inside = np.flatnonzero(mask)
    chosen = np.random.default_rng(seed).choice(inside, count, replace=count > len(inside))
    centres = np.stack(np.unravel_index(chosen, mask.shape), 1)
    shape = np.array(mask.shape)
    starts = np.clip(centres - side // 2, 0, np.maximum(shape - side, 0))
    return [tuple(slice(a, a + side) for a in start) for start in starts]


def patch_radiomics(patch: Array, *, bins: int, families: Sequence[str] = FAMILIES) -> Array:
    """Return MIRP features (d,) of a whole patch, log-compressed.

    Args:
        patch: (x, y, z) in [0, bins]; a grey level is one unit wide.
        bins: number of grey levels.
        families: names of MIRP feature families.

    Features that are undefined for a flat patch are 0.
    """
    import mirp

    with _quiet():
        table = mirp.extract_features(
            image=np.asarray(patch, np.float64),
            mask=np.ones(patch.shape, bool),
            image_modality="mr",  # "ct" would round the values
            base_feature_families=list(families),
            base_discretisation_method="fixed_bin_size",
            base_discretisation_bin_width=1.0,
            resegmentation_intensity_range=[0.0, float(bins)],
        )[0]
    columns = [name for name in table.columns if name.startswith(PREFIXES)]
    values = np.nan_to_num(table[columns].to_numpy(np.float64)[0], nan=0.0, posinf=0.0, neginf=0.0)
    return np.sign(values) * np.log1p(np.abs(values))


def _in_processes(task: Any, patches: list[Array], workers: int) -> Iterator[Array]:
    if workers == 1 or len(patches) == 1:
        yield from map(task, patches)
        return
    # A forked worker has MIRP imported already, and uses only numpy and pandas, which are safe after a fork.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(workers, len(patches)), mp_context=context) as pool:
        yield from pool.map(task, patches)


def _mirp_version() -> str:
    try:
        import mirp  # noqa: F401  imported here, so that forked workers need not import it
    except ImportError:
        raise InputError("dependency-missing", "radiomics needs mirp: pip install 'medgen[radiomics]'") from None
    return metadata.version("mirp")


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the log of MIRP, which it configures for the whole process, and its warnings about flat patches."""
    root, before = logging.getLogger(), logging.root.manager.disable
    handler = logging.NullHandler()
    root.addHandler(handler)  # with an existing handler, MIRP's call of basicConfig has no effect
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)

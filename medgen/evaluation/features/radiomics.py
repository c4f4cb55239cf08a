"""Radiomics of random 3D patches: first-order and texture features by MIRP, with nothing to download.

For the Fréchet radiomics distance (Konz, Osuala et al., "Fréchet Radiomic Distance", arXiv 2412.01496, Medical Image
Analysis 2026), here in 3D and without its filtered images. Values are the squared distance itself, not the paper's
logarithm of it. Features are those of the IBSI (arXiv 1612.07003) as MIRP computes them (Zwanenburg et al., JOSS 2024).

What was chosen, and why:

- Families: intensity statistics, grey level co-occurrence, run lengths, size zones: 75 features. Shape says nothing of
  a box and costs nine tenths of the time. Grey tone differences (NGTDM) are left out: coarseness and strength of a flat
  patch grow without bound, and one such patch would be the whole distance.
- Grey levels: the window is cut into ``bins`` of one width for the whole cohort, so a level means the same HU in every
  patch (IBSI's fixed bin size). MR has no unit: there the window is each volume's percentiles, which makes it a fixed
  number of bins a volume; not a patch, where noise alone would be stretched to look like texture.
- Every feature x is kept as sign(x)·log(1 + |x|): zone emphases and cluster prominence run over many decades, and a
  Gaussian fitted to them would be that of their few largest values.
- A patch of 16³ voxels: 4096 are enough for the co-occurrences of 32 levels, and small against an organ.
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
PREFIXES = ("stat_", "ih_", "cm_", "rlm_", "szm_", "dzm_", "ngt_", "ngl_")  # of MIRP's feature columns

Array = NDArray[Any]


class Radiomics:
    """Extractor of MIRP's features: one row a patch, patches at random places of the mask.

    Args:
        window: intensities (low, high) that are parted into grey levels, in HU for CT, e.g. (-200, 300); values
            beyond are clipped. None: percentiles of each volume (MR).
        patches: a volume; they may overlap.
        patch: side in voxels; less along an axis that is shorter. Texture depends on the voxel size: compare only
            volumes of about one spacing.
        bins: grey levels.
        families: MIRP's names.
        workers: processes that share a volume's patches; 1: none but this one.
        seed: of the places; with one mask they are the same on both sides of a comparison.

    Raises `InputError` where MIRP is not installed, or for arguments out of range.
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
                f"patches {patches}, workers {workers} ≥ 1, patch {patch} ≥ 4 and bins {bins} ≥ 2 are needed",
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
        work = partial(patch_radiomics, bins=self._bins, families=self._families)
        return np.stack(list(_in_processes(work, [levels[box] for box in boxes], self._workers)))


def patch_boxes(mask: Array, *, count: int, side: int, seed: int) -> list[tuple[slice, ...]]:
    """``count`` boxes of ``side`` voxels about random voxels of the mask, moved to lie inside the volume."""
    inside = np.flatnonzero(mask)
    chosen = np.random.default_rng(seed).choice(inside, count, replace=count > len(inside))
    centres = np.stack(np.unravel_index(chosen, mask.shape), 1)
    shape = np.array(mask.shape)
    starts = np.clip(centres - side // 2, 0, np.maximum(shape - side, 0))
    return [tuple(slice(a, a + side) for a in start) for start in starts]


def patch_radiomics(patch: Array, *, bins: int, families: Sequence[str] = FAMILIES) -> Array:
    """MIRP's features (d,) of a whole patch, log-compressed.

    Args:
        patch: (x, y, z) in [0, bins]; a grey level is one unit wide.
        bins: number of grey levels.
        families: MIRP's names.

    Features that a flat patch leaves undefined are 0.
    """
    import mirp

    with _quiet():
        table = mirp.extract_features(
            image=np.asarray(patch, np.float64),
            mask=np.ones(patch.shape, bool),
            image_modality="mr",  # not "ct", which rounds
            base_feature_families=list(families),
            base_discretisation_method="fixed_bin_size",
            base_discretisation_bin_width=1.0,
            resegmentation_intensity_range=[0.0, float(bins)],
        )[0]
    columns = [name for name in table.columns if name.startswith(PREFIXES)]
    values = np.nan_to_num(table[columns].to_numpy(np.float64)[0], nan=0.0, posinf=0.0, neginf=0.0)
    return np.sign(values) * np.log1p(np.abs(values))


def _in_processes(work: Any, patches: list[Array], workers: int) -> Iterator[Array]:
    if workers == 1 or len(patches) == 1:
        yield from map(work, patches)
        return
    # A fork has MIRP imported already, and runs numpy and pandas alone, which survive it.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(min(workers, len(patches)), mp_context=context) as pool:
        yield from pool.map(work, patches)


def _mirp_version() -> str:
    try:
        import mirp  # noqa: F401  here, so that forked workers need not
    except ImportError:
        raise InputError("dependency-missing", "radiomics needs mirp: pip install 'medgen[radiomics]'") from None
    return metadata.version("mirp")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without MIRP's log, which it also configures for the whole process, and its warnings of flat patches."""
    root, before = logging.getLogger(), logging.root.manager.disable
    handler = logging.NullHandler()
    root.addHandler(handler)  # with a handler there, MIRP's basicConfig does nothing
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)

"""Write volumes in the format of their file name."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medgen.errors import InputError
from medgen.io.formats import itk, nifti
from medgen.io.paths import ENDINGS, ITK_ENDINGS, NIFTI_ENDINGS, has_ending
from medgen.io.volume import Volume


def write_volume(path: str | Path, volume: Volume, *, description: str = "") -> None:
    """Write by extension, under a temporary name first; parent folders are made.

    The stored type of ``volume`` is kept: integers are rounded, a range too small is widened to the smallest
    integer type that holds the values (never wrapped or clipped), and a NIfTI slope and intercept stay.
    ``description``: what a NIfTI header's text is to say, see ``nifti.write_nifti``.
    Raises InputError for an unknown extension, an unwritable place, or values that are not finite.
    """
    path = Path(path)
    if not np.isfinite(volume.data.sum(dtype=np.float64)):
        raise InputError(
            "output-not-finite", f"{path} is not written: the volume to write holds NaN or infinite values"
        )
    if has_ending(path, NIFTI_ENDINGS):
        nifti.write_nifti(path, volume, description)
    elif has_ending(path, ITK_ENDINGS):
        itk.write_itk(path, volume)
    else:
        raise InputError(
            "output-extension-unknown", f"{path}: unknown extension to write; use one of {' '.join(ENDINGS)}"
        )


def write_channels(path: str | Path, channels: Sequence[Volume]) -> None:
    """Write volumes of one grid into one NIfTI (X, Y, Z, C); one alone as ``write_volume`` does, errors likewise."""
    path = Path(path)
    if len(channels) == 1:
        return write_volume(path, channels[0])
    if not has_ending(path, NIFTI_ENDINGS):
        raise InputError(
            "output-channels-need-nifti",
            f"{path}: several channels go into one file as NIfTI only; use {' or '.join(NIFTI_ENDINGS)}",
        )
    for volume in channels:
        if not np.isfinite(volume.data.sum(dtype=np.float64)):
            raise InputError(
                "output-not-finite", f"{path} is not written: the volume to write holds NaN or infinite values"
            )
    nifti.write_nifti_channels(path, channels)

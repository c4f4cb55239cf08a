"""Write volumes in the format of their file extension."""

from collections.abc import Sequence
from pathlib import Path

from medgen.errors import InputError
from medgen.io.formats import itk, nifti
from medgen.io.paths import ENDINGS, ITK_ENDINGS, NIFTI_ENDINGS, has_ending
from medgen.io.volume import Volume, all_finite


def write_volume(path: str | Path, volume: Volume, *, description: str = "") -> None:
    """Write a volume atomically in the format of its extension; parent folders are created.

    The stored type of ``volume`` is kept. Integers are rounded; if their range is too small, the smallest integer type
    that holds the values is used (values are never wrapped or clipped). A NIfTI slope and intercept are kept.

    Args:
        path: output file.
        volume: finite values.
        description: text for the NIfTI header, see ``nifti.write_nifti``.

    Raises:
        InputError: unknown extension, a path that cannot be written, or values that are not finite.
    """
    path = Path(path)
    if not all_finite(volume.data):
        raise InputError("output-not-finite", f"{path} was not written, because the volume has NaN or infinite values")
    if has_ending(path, NIFTI_ENDINGS):
        nifti.write_nifti(path, volume, description)
    elif has_ending(path, ITK_ENDINGS):
        itk.write_itk(path, volume)
    else:
        raise InputError("output-extension-unknown", f"{path} has an unknown extension; use one of {' '.join(ENDINGS)}")


def write_channels(path: str | Path, channels: Sequence[Volume]) -> None:
    """Write volumes on one grid to a NIfTI file (X, Y, Z, C); a single volume as in ``write_volume``. Same errors."""
    path = Path(path)
    if len(channels) == 1:
        return write_volume(path, channels[0])
    if not has_ending(path, NIFTI_ENDINGS):
        raise InputError(
            "output-channels-need-nifti",
            f"{path}: only NIfTI can store several channels in one file; use {' or '.join(NIFTI_ENDINGS)}",
        )
    for volume in channels:
        if not all_finite(volume.data):
            raise InputError(
                "output-not-finite", f"{path} was not written, because the volume has NaN or infinite values"
            )
    nifti.write_nifti_channels(path, channels)

"""Between a scan's own grid and the model's: there before the network, and back after it."""

import numpy as np
from scipy import ndimage
from torch import nn

from medgen.checkpoint import Model
from medgen.data.grid import resample, resample_like
from medgen.data.intensity import Range, masked_value
from medgen.data.patches import AXES
from medgen.errors import InputError
from medgen.io.volume import Volume, canonical_view
from medgen.networks.blocks.diffusion import scan_within_structures

SAME_SPACING = 0.05  # relative tolerance within which a volume has the model's spacing
MOST_RESAMPLED = 100  # ratio of spacings; beyond it the header is wrong, and resampling would take too long
LARGEST = 1e37  # beyond it, weighted sums of float32 may overflow
OUT_OF_REACH = 1e-6  # share of tissue up to which a voxel has none of it in reach
NEAR = 2  # voxels; reach of an edge through smoothing and interpolation
UNCHANGED = 1e-3  # a mask of a generator with ``replace`` below this changes nothing


def on_model_grid(volume: Volume, model: Model, *, labels: bool = False) -> Volume:
    """Resample a volume in canonical axes to the model's spacing, as set by inference.spacing. Raises InputError.

    ``labels``: see ``grid.resample``.
    """
    model_spacing, policy = model.info.spacing, model.settings.inference.spacing
    if has_model_spacing(volume, model):
        return volume
    ratios = np.divide(volume.spacing, model_spacing)
    own, model_text = (" x ".join(f"{size:.6g}" for size in sizes) for sizes in (volume.spacing, model_spacing))
    if ratios.max() > MOST_RESAMPLED or ratios.min() < 1 / MOST_RESAMPLED:
        raise InputError(
            "volume-spacing-implausible",
            f"{volume.path} has a voxel spacing of {own} mm, over {MOST_RESAMPLED} times larger or smaller than the "
            f"model's {model_text} mm; correct the spacing in its header",
        )
    if policy == "refuse":
        raise InputError(
            "volume-spacing-differs",
            f"{volume.path} has a voxel spacing of {own} mm, but the model needs {model_text} mm; "
            "resample the scan or set inference.spacing to resample",
        )
    if np.abs(volume.data).max() > LARGEST:  # e.g. padding with the lowest float32
        volume = volume.replaced(np.clip(volume.data, -LARGEST, LARGEST))
    masked = None if labels else masked_value(volume.data, model.settings.intensity.source.background)
    return resample(volume, model_spacing, labels=labels, background=masked)


def has_model_spacing(volume: Volume, model: Model) -> bool:
    """Whether a volume is not resampled."""
    ignored = model.settings.inference.spacing == "ignore"
    return ignored or np.allclose(volume.spacing, model.info.spacing, rtol=SAME_SPACING)


def other_grid_notes(model: Model, scan: Volume) -> list[str]:
    """A note on each way in which a model with inference.grid = model leaves a scan's grid or its training."""
    if model.settings.inference.grid == "input":
        return []
    own, new = canonical_view(scan).spacing, model.info.spacing
    before, after = (" x ".join(f"{size:.3g}" for size in sizes) for sizes in (own, new))
    notes = [f"written with voxels of {after} mm, the input has {before} mm"]
    finer = [axis for axis, a, b in zip(AXES, own, new, strict=True) if a < b * (1 - SAME_SPACING)]
    if finer:
        notes.append(f"the output is coarser than the input along {', '.join(finer)}; train at a smaller data.spacing")
    degradation = model.settings.data.degradation
    if degradation is not None and degradation.thickness is not None:
        low, high = degradation.thickness
        if not low * (1 - SAME_SPACING) <= max(own) <= high * (1 + SAME_SPACING):
            notes.append(f"the slices are {max(own):.3g} mm apart, and the model restores {low:g} to {high:g} mm")
    return notes


def on_own_grid(
    y: np.ndarray, grid: Volume, own: Volume, code: Range, transfer: str, outside: float | None = None
) -> np.ndarray:
    """Resample a decoded translation from the model's grid to the scan's grid, as set by inference.transfer.

    Both kinds of transfer clip the source to the code's range, so that smoothing of, for example, 3000 HU does not
    change voxels next to bone or padding. Near carried voxels the difference is transferred in any case, because the
    image would be blurred around a sharp edge.

    Args:
        y: translation on ``grid``.
        grid: the source at the model's spacing.
        own: the source on its own grid.
        outside: value of the output in masked voxels of the source, which are not mixed with tissue; None: the model
            translates these too.
    """
    if outside is not None and code.background is not None:
        return _inside_own_mask(y, grid, own, code, transfer, outside)
    carries = code.outside != "clip"
    image = None if transfer == "difference" else resample_like(grid.replaced(y), own)
    if image is not None and not carries:
        return image
    changed = resample_like(grid.replaced(y - code.clip(grid.data)), own)
    for slice_x, slice_y in zip(own.data, changed, strict=True):
        slice_y += code.clip(slice_x)
    if image is not None:
        np.copyto(changed, image, where=~_near(code.beyond(own.data), grid, own))
    return changed


def _inside_own_mask(
    y: np.ndarray, grid: Volume, own: Volume, code: Range, transfer: str, outside: float
) -> np.ndarray:
    """`on_own_grid` of a masked scan: the mean of the unmasked voxels in reach, and ``outside`` where it is masked."""
    inside = grid.data != code.background
    base = np.where(inside, code.clip(grid.data), 0) if transfer == "difference" else 0
    tissue = np.where(inside, y, 0) - base
    share = resample_like(grid.replaced(inside.astype(np.float32)), own)
    values = resample_like(grid.replaced(tissue), own)
    values /= np.maximum(share, OUT_OF_REACH)
    far = (share <= OUT_OF_REACH) & (own.data != code.background)
    if far.any() and inside.any():  # tissue beside masked voxels of the model's grid alone, such as a thin bridge
        nearest = ndimage.distance_transform_edt(~inside, grid.spacing, return_distances=False, return_indices=True)
        values[far] = resample_like(grid.replaced(tissue[tuple(nearest)]), own)[far]
    if transfer == "difference":
        values += code.clip(own.data)
    values[own.data == code.background] = outside
    return values


def replaced_on_own_grid(
    network: nn.Module, maps: np.ndarray, grid: Volume, own: Volume, code: Range, target: Range
) -> np.ndarray:
    """Apply the mask and the level of a generator with ``replace`` on the scan's own grid.

    An edge of the change is then as sharp as the scan: at the border of a vessel, a difference from the model's grid
    would leave a rim.

    Args:
        network: the generator.
        maps: mask and level (2, X, Y, Z) on ``grid``, see ``ResidualUNet.decide``.
        grid: the source at the model's spacing.
        own: the source on its own grid.
        code, target: ranges of source and target. As in the network, the level is a code of the source.

    Returns:
        (X, Y, Z) on the grid of ``own``, in the units of the target.
    """
    y = code.encode(own.data)
    mask, level = (m if grid is own else resample_like(grid.replaced(m), own) for m in maps)
    changed = ~(mask <= UNCHANGED)  # NaN counts, so that it is found later
    if not changed.any():
        return target.decode(y)
    finer = [g / o for g, o in zip(grid.spacing, own.spacing, strict=True)]
    sides = [np.flatnonzero(changed.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = [slice(int(s[0]), int(s[-1]) + 1) for s in sides]
    fall = scan_within_structures(y, network.slope, finer, box)  # type: ignore[arg-type]
    fall -= level
    np.maximum(fall, 0, out=fall)
    fall *= np.where(changed, mask, 0)
    y -= fall
    return target.decode(y)


def _near(mask: np.ndarray, grid: Volume, own: Volume) -> np.ndarray:
    """Dilate a mask on ``own`` along each axis by NEAR voxels of the coarser of the two grids."""
    wide = mask.view(np.uint8)
    for axis, ratio in enumerate(np.divide(grid.spacing, own.spacing)):
        reach = int(np.ceil(NEAR * max(1.0, ratio)))
        wide = ndimage.maximum_filter1d(wide, 2 * reach + 1, axis, mode="nearest")
    return wide.view(bool)

"""Translate the volumes of one case: volumes in, volumes out, with units, geometry and a memory limit."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage
from torch import Tensor, nn

from medgen.checkpoint import Model, removes_contrast
from medgen.data.align import to_common_grid
from medgen.data.grid import resample, resample_like
from medgen.data.intensity import Code, Range, encode_channels, fit_range, masked_value
from medgen.data.patches import AXES
from medgen.data.slabs import fold, unfold
from medgen.errors import InputError
from medgen.inference.kind import check_translates
from medgen.inference.layout import Layout, even, fixed
from medgen.inference.output import AIR_HU
from medgen.inference.windows import slide
from medgen.io.volume import Volume, canonical_view, contiguous, from_canonical, reordered_like
from medgen.networks.allocation import memory_kept
from medgen.networks.blocks.diffusion import scan_within_structures
from medgen.networks.memory import windows_per_pass
from medgen.networks.precision import has_bfloat16
from medgen.qa.measures.trunk_wall import ribs_taken_for_vessels

SAME_SPACING = 0.05  # relative tolerance within which a volume has the model's spacing
MOST_RESAMPLED = 100  # ratio of spacings; beyond it the header is wrong, and resampling would take too long
LARGEST = 1e37  # beyond it, weighted sums of float32 may overflow
OUT_OF_REACH = 1e-6  # share of tissue up to which a voxel has none of it in reach
FAINT = 0.1  # code units below the levels of a generator with ``replace``: nothing that low is changed
NEAR = 2  # voxels; reach of an edge through smoothing and interpolation
UNCHANGED = 1e-3  # a mask of a generator with ``replace`` below this changes nothing
Run = Callable[[Tensor], Tensor]
WINDOW_NORMS = (nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm)


def translate_volume(model: Model, volume: Volume, *, memory_gb: float | None = None) -> Volume:
    """``translate_case`` for a model with one source and one target contrast."""
    (translated,) = translate_case(model, [volume], memory_gb=memory_gb)
    return translated


def translate_case(model: Model, volumes: Sequence[Volume], *, memory_gb: float | None = None) -> list[Volume]:
    """Translate the contrasts of one case.

    Aligns the volumes to the grid of the first one (data.align), reorients them to canonical axes, resamples them to
    the model's spacing if inference.spacing says so, encodes, translates and decodes them, and returns the outputs on
    the grid of the first volume, or with inference.grid = model on the model's. There, source values outside the code's
    range are copied into the output, see ``codecs.Range.carried``. Output i takes them from source i, or from the first
    source if there is no source i.

    Args:
        model: on the device to use.
        volumes: one per source contrast, in the order of data.sources; (X, Y, Z), any orientation, in the units of
            their files (HU for CT).
        memory_gb: memory limit of a whole-volume pass, GiB; None: inference.memory_gb.

    Returns:
        One volume per target contrast, with the geometry of the first input (or its field of view at the model's
        spacing) and its stored type, or float32 if an integer type is too coarse for the target.

    Raises:
        InputError: the number of contrasts is not the model's, the grids differ, the settings refuse the spacing, or a
            scan is constant and its code needs a range.
    """
    if model.members:
        return _mean_of_members(model, volumes, memory_gb)
    prepared, maps = prepare_case(model, volumes), gives_maps(model)
    y = translate_array(model, prepared.x, memory_gb=memory_gb, maps=maps, overwrite=not maps)
    if not maps:
        prepared.x = np.empty(0)  # as large as a scan, and not needed any more
    return restore_case(model, prepared, y, overwrite=True)


def _mean_of_members(model: Model, volumes: Sequence[Volume], memory_gb: float | None) -> list[Volume]:
    """The mean of the translations of an ensemble's models, in the units of the image: their codes may differ."""
    mean: list[Volume] = []
    for count, member in enumerate(model.members, 1):
        made = translate_case(member, volumes, memory_gb=memory_gb)
        # Moved by the difference, what is equal in all (carried values, padding) stays exact and cannot overflow.
        moved = (a.data + (b.data - a.data) / np.float32(count) for a, b in zip(mean, made, strict=False))
        mean = [a.replaced(data, a.dtype) for a, data in zip(mean, moved, strict=True)] if mean else made
    return mean


@dataclass
class Prepared:
    """A case before the network: its encoded contrasts, and what brings the network's output back to the scan.

    Attributes:
        x: (C, X, Y, Z) in [-1, 1], on the model's grid, RAS.
        codes: the intensity range of each contrast.
        grid, own: the contrasts on the model's grid and on the scan's own grid, both in canonical axes. Where both are
            the same, a view of the scan, which saves as much memory.
        scan: the first contrast as it was read.
    """

    x: np.ndarray
    codes: list[Range]
    grid: list[Volume]
    own: list[Volume]
    scan: Volume


def prepare_case(model: Model, volumes: Sequence[Volume]) -> Prepared:
    """The first half of `translate_case`: align, reorient, resample and encode. Raises InputError."""
    check_translates(model)
    settings, names = model.settings, model.settings.data.sources
    if model.settings.method.needs_classes:
        raise InputError(
            "model-needs-label-maps",
            f"{model.folder} paints structures from a label map and cannot translate scans; use medgen augment",
        )
    if len(volumes) != len(names):
        raise InputError(
            "model-image-count-differs",
            f"the model translates {', '.join(names)} together; give one volume of each",
        )
    own = [
        canonical_view(v) for v in to_common_grid(volumes, settings.data.align, settings.intensity.source.background)
    ]
    if not all(_has_model_spacing(v, model) for v in own):
        own = [replace(v, data=contiguous(v.data)) for v in own]  # filters need this order
    grid = [on_model_grid(v, model) for v in own]
    intensity = settings.intensity.source.model_dump(exclude={"follow"})
    codes = [fit_range(v.data, **intensity) for v in grid]
    x = np.empty((len(grid), *grid[0].data.shape), np.float32)
    for channel, code, volume in zip(x, codes, grid, strict=True):
        for block in _blocks(volume.data):
            channel[block] = code.encode(contiguous(volume.data[block]))
    return Prepared(x, codes, grid, own, volumes[0])


def restore_case(model: Model, prepared: Prepared, y: np.ndarray, *, overwrite: bool = False) -> list[Volume]:
    """The second half of `translate_case`.

    Args:
        y: output of `translate_array` for ``prepared.x``, with ``maps`` if `gives_maps`.
        overwrite: the volumes may lie in the memory of y, to save as much.
    """
    codes, grid, own, scan = prepared.codes, prepared.grid, prepared.own, prepared.scan
    keeps_grid = model.settings.inference.grid == "input"
    if not keeps_grid:
        own = grid
    transfer, outputs = model.settings.inference.transfer, []
    maps = _decided(model.generator, y, prepared.x) if gives_maps(model) else None
    window = model.settings.intensity.source.kind == "window"
    if maps is not None and removes_contrast(model) and window and codes[0].low <= AIR_HU:
        _spare_ribs(maps, grid[0], codes[0])
    for i, target in enumerate(model.target_ranges):
        k, decode = _source_of(i, codes), target.of(codes[0])
        if maps is not None:
            image = _replaced_on_own_grid(model.generator, maps, grid[k], own[k], codes[k], decode)
        else:
            image = decode.decode(y[i], overwrite=overwrite)
            if grid[k] is not own[k]:
                keep = getattr(model.settings.method, "keep_background", False)
                outside = float(decode.decode(np.full(1, -1, np.float32))[0]) if keep else None
                image = _on_own_grid(image, grid[k], own[k], codes[k], transfer, outside)
        image = _carried(image, own[k].data, codes[k], decode, own[k].padding)
        # Integers are precise enough for HU, but not for a target range such as 0..1, which is stored as float32.
        coarse = np.issubdtype(scan.dtype, np.integer) and decode.high - decode.low < 500
        dtype = np.float32 if coarse else None
        if keeps_grid:
            outputs.append(scan.replaced(from_canonical(image, scan, overwrite=True), dtype))
        else:
            outputs.append(on_axes_of(scan, grid[k].replaced(image), dtype))
    return outputs


def on_axes_of(scan: Volume, volume: Volume, dtype: Any = None) -> Volume:
    """A canonical volume on another grid than the scan, with the order of the scan's axes and its stored type."""
    data, affine = reordered_like(volume, scan.affine)
    kept = {"header": scan.header, "path": scan.path, "unit": scan.unit}
    return Volume(data, affine, scan.dtype if dtype is None else np.dtype(dtype), **kept)


def translate_channels(
    model: Model,
    data: Sequence[np.ndarray],
    codes: Sequence[Code],
    *,
    classes: np.ndarray | None = None,
    memory_gb: float | None = None,
) -> list[np.ndarray]:
    """Translate contrasts on the model's grid, as ``translate_case`` does.

    Args:
        data: one (X, Y, Z) array per source contrast, in its units, or one label map.
        codes: intensity range of each contrast, or the table of the label map.
        classes: (X, Y, Z) class map, for methods that need one.

    Returns:
        One (X, Y, Z) array per target contrast, in its units.
    """
    x = encode_channels(codes, data)
    if classes is not None:
        x = np.concatenate([x, classes[None].astype(np.float32)])
    results = []
    for i, y in enumerate(_decoded(model, x, codes[0], memory_gb)):
        k = _source_of(i, codes)
        results.append(_carried(y, data[k], codes[k], model.target_ranges[i].of(codes[0])))
    return results


def _decoded(model: Model, x: np.ndarray, code: Code, memory_gb: float | None) -> list[np.ndarray]:
    """Each network output in the units of its target; ``code`` is that of the first source."""
    results = translate_array(model, x, memory_gb=memory_gb)
    del x  # as large as a scan
    return [target.of(code).decode(y) for y, target in zip(results, model.target_ranges, strict=True)]


def _source_of(output: int, codes: Sequence[Code]) -> int:
    """Index of the source that an output translates, as in ``networks.residual``."""
    return output if output < len(codes) else 0


def _carried(
    y: np.ndarray, x: np.ndarray, code: Code, target: Range, padding: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """Clip ``y`` to the target range and copy source values outside the code's range into it, in place.

    ``padding``: as in Volume; padding of the source is copied even if it is within the code's range.
    """
    if isinstance(code, Range) and code.outside != "clip":
        low, high = (None, None) if padding is None else (np.broadcast_to(p, x.shape) for p in padding)
        for block in _blocks(x):
            part = contiguous(x[block])
            y[block] = code.carried(part, target.clip(y[block]))
            if low is not None and high is not None:
                np.copyto(y[block], part, where=(low[block] <= part) & (part <= high[block]))
    return y


def _blocks(x: np.ndarray) -> Iterator[tuple[slice, ...]]:
    """Blocks of a volume (X, Y, Z) along the axis with the longest stride, small beside the volume.

    They serve steps that would otherwise need copies of a large scan. 16 voxels of the last axis share a cache line, so
    that volumes in Fortran order, as they are in NIfTI files, are not read line by line.
    """
    axis = int(np.argmax(np.abs(x.strides)))
    for k in range(0, x.shape[axis], 16):
        yield tuple(slice(k, k + 16) if a == axis else slice(None) for a in range(3))


def _on_own_grid(
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
    """`_on_own_grid` of a masked scan: the mean of the unmasked voxels in reach, and ``outside`` where it is masked."""
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


def gives_maps(model: Model) -> bool:
    """Whether a scan is translated by the generator's mask and level, see ``networks.residual_unet``.

    Not for slabs of slices, and only if the change is what is resampled (inference.transfer).
    """
    replaces = getattr(model.generator, "replace", None) is not None and model.settings.slab_axis is None
    return replaces and model.settings.inference.transfer == "difference"


@torch.inference_mode()
def _decided(network: nn.Module, maps: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Mask and level (2, X, Y, Z) from ``ResidualUNet.maps``, after windows and mirrored scans were averaged."""
    return network.decide(torch.from_numpy(maps)[None], torch.from_numpy(x)[None])[0].numpy()  # type: ignore[operator]


def _spare_ribs(maps: np.ndarray, grid: Volume, code: Range) -> None:
    """Set the mask of `_decided` to 0, in place, at ribs that the network took for vessels.

    Real ribs are taken for vessels far more often than the phantom's that the network learned from, and where they lie
    tells them from vessels: see docs/decisions/contrast_removal.md.
    """
    mask, level = maps
    fall = np.maximum(grid.data - code.decode(level), 0) * mask
    mask[ribs_taken_for_vessels(grid.data, grid.data - fall, grid.spacing)] = 0


def _replaced_on_own_grid(
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


def on_model_grid(volume: Volume, model: Model, *, labels: bool = False) -> Volume:
    """Resample a volume in canonical axes to the model's spacing, as set by inference.spacing. Raises InputError.

    ``labels``: see ``grid.resample``.
    """
    model_spacing, policy = model.info.spacing, model.settings.inference.spacing
    if _has_model_spacing(volume, model):
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


def _has_model_spacing(volume: Volume, model: Model) -> bool:
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


@torch.inference_mode()
def translate_array(
    model: Model,
    x: np.ndarray,
    *,
    memory_gb: float | None = None,
    maps: bool = False,
    run: Run | None = None,
    overwrite: bool = False,
) -> np.ndarray:
    """Run the network on a whole array; averages over the mirrored arrays set by inference.mirror.

    Args:
        x: (C, X, Y, Z) in code units [-1, 1], on the model's grid, RAS.
        maps: return the probability of the mask and the level of a generator with ``replace``, see
            ``ResidualUNet.maps``.
        run: (B, C, ...) → (B, C_out, ...), in place of the method's ``translate``.
        overwrite: the result may lie in the memory of x, to save as much.

    Returns:
        (C_out, X, Y, Z) float32 in code units; (2, X, Y, Z) for ``maps``.
    """
    axes = [AXES[a] + 1 for a in model.settings.inference.mirror]
    flips = [flip for n in range(len(axes) + 1) for flip in combinations(axes, n)]
    with memory_kept():
        y = _translate_array(model, x, memory_gb, maps, run, overwrite and len(flips) == 1)
        for flip in flips[1:]:
            y += np.flip(_translate_array(model, np.flip(x, flip), memory_gb, maps, run, False), flip)
    if len(flips) > 1:
        y /= len(flips)
    return y


def _translate_array(
    model: Model, x: np.ndarray, memory_gb: float | None, maps: bool, run: Run | None, overwrite: bool
) -> np.ndarray:
    """Run the network once, slab by slab for a 2D model."""
    network, axis, window = model.generator, model.settings.slab_axis, model.settings.inference.window
    bound = memory_gb if memory_gb is not None else model.settings.inference.memory_gb
    pad = [_padding(n, network) for n in x.shape[1:]]
    if axis is None:
        padded = np.pad(x, [(0, 0), *pad], mode="edge") if any(map(any, pad)) else np.ascontiguousarray(x)
        batch = torch.from_numpy(padded)[None]
        whole = use_whole(window, network, batch.shape, bound)
        overwrite = overwrite or not np.may_share_memory(padded, x)
        y = _pass(model, batch, whole, bound, maps, run, overwrite)[0].numpy()
    else:
        depth = model.settings.sampling.patch[axis]
        pad[axis] = ((depth - 1) // 2, depth // 2)  # one slab per slice, centred on it
        y = _slabs(model, np.pad(x, [(0, 0), *pad], mode="edge"), axis, depth, bound, run)
    cut = tuple(slice(a, a + n) for (a, _), n in zip(pad, x.shape[1:], strict=True))
    return y[:, *cut]


def _padding(n: int, network: nn.Module) -> tuple[int, int]:
    """Voxels to pad before and after an axis of n voxels, so that the network accepts it."""
    divisor, smallest = int(network.divisor), int(network.smallest)  # type: ignore[arg-type]
    missing = max(n + (-n) % divisor, smallest) - n
    return missing // 2, missing - missing // 2


def _slabs(model: Model, x: np.ndarray, axis: int, depth: int, memory_gb: float, run: Run | None = None) -> np.ndarray:
    """(C, X, Y, Z) → (C_out, X, Y, Z) with a sliding slab of stride 1; overlapping outputs are averaged."""
    count, together = x.shape[axis + 1] - depth + 1, model.settings.inference.batch
    total, whole = np.zeros(0, np.float32), None
    for first in range(0, count, together):
        starts = range(first, min(first + together, count))
        slabs = np.stack([x.take(range(start, start + depth), axis + 1) for start in starts])
        batch = fold(torch.from_numpy(slabs), axis)
        if whole is None:
            whole = use_whole(model.settings.inference.window, model.generator, batch.shape, memory_gb)
        results = (
            unfold(_pass(model, batch, whole, memory_gb, run=run), axis, depth).movedim(axis + 2, 1).numpy()
        )  # (slabs, k, C_out, ...)
        if not total.size:
            total = np.zeros((x.shape[axis + 1], *results.shape[2:]), np.float32)
        for start, slab in zip(starts, results, strict=True):
            total[start : start + depth] += slab
    seen = np.convolve(np.ones(count), np.ones(depth)).astype(np.float32)
    return np.moveaxis(total / seen[:, None, None, None], 0, axis + 1)


def _pass(
    model: Model,
    batch: Tensor,
    whole: bool,
    memory_gb: float,
    maps: bool = False,
    run: Run | None = None,
    overwrite: bool = False,
) -> Tensor:
    """(B, C, ...) → (B, C_out, ...) on the CPU, in one pass or by sliding windows."""
    inference = model.settings.inference
    device = model.device
    if run is None:
        run = model.generator.maps if maps else model.method.translate  # type: ignore[assignment]
    assert run is not None
    rounded = inference.precision == "bf16-mixed" or (inference.precision == "auto" and has_bfloat16(device))
    if model.network is not None:
        run, rounded = model.network, False
    with torch.autocast(device.type, torch.bfloat16, enabled=rounded):
        if whole:
            return run(batch.to(device)).float().cpu()
        roi = model.settings.window_size
        if batch.ndim == 5 and len(batch) == 1:
            layout = _layout(model, batch, memory_gb, maps)
            together = windows_per_pass(model.generator, (batch.shape[1], *layout.window), inference.batch, memory_gb)
            call = lambda window: run(window).float()  # noqa: E731
            return slide(batch, call, layout, batch=together, device=device, overwrite=overwrite)
        return sliding_window_inference(  # type: ignore[return-value]  # one tensor in, one out
            batch,
            roi_size=roi,
            sw_batch_size=windows_per_pass(model.generator, (batch.shape[1], *roi), inference.batch, memory_gb),
            predictor=lambda window: run(window).float(),
            overlap=inference.overlap,
            mode="gaussian",
            padding_mode="replicate",
            sw_device=device,
            device=torch.device("cpu"),
        )


def _layout(model: Model, batch: Tensor, memory_gb: float, maps: bool) -> Layout:
    """Where the windows of a volume (1, C, X, Y, Z) lie, by inference.layout."""
    inference, roi, network = model.settings.inference, model.settings.window_size, model.generator
    if inference.layout == "fixed":
        return fixed(batch.shape[2:], roi, inference.overlap)
    # What is darker than every level stays as it is, whatever the mask: air, lung, and fat by far.
    needed = batch[0, 0] > network.replace[0] - FAINT if maps else None  # type: ignore[index]
    options = {"multiple": int(network.divisor), "needed": needed}  # type: ignore[arg-type]
    layout = even(batch.shape[2:], roi, inference.overlap, **options)  # type: ignore[arg-type]
    try:
        windows_per_pass(network, (batch.shape[1], *layout.window), 1, memory_gb)
    except InputError:  # the windows of the setting need less, and were checked before the scan was read
        layout = even(batch.shape[2:], roi, inference.overlap, wider=1.0, **options)  # type: ignore[arg-type]
    return layout


def check_windows(model: Model, memory_gb: float | None = None) -> None:
    """Refuse, before a scan is read, a model whose sliding window exceeds the memory limit. Raises InputError.

    A model that may process whole volumes is not refused, because memory then depends on the volume.
    """
    settings, network = model.settings, model.generator
    has_window_norms = any(isinstance(module, WINDOW_NORMS) for module in network.modules())
    if settings.inference.window == "patch" or (settings.inference.window == "auto" and has_window_norms):
        axis, roi = settings.slab_axis, settings.window_size
        channels = settings.source_channels * (1 if axis is None else settings.sampling.patch[axis])
        bound = settings.inference.memory_gb if memory_gb is None else memory_gb
        windows_per_pass(network, (channels, *roi), settings.inference.batch, bound)


def use_whole(window: str, network: nn.Module, shape: tuple[int, ...], memory_gb: float) -> bool:
    """Whether to process a volume, or the slices of a slab, in one pass.

    ``auto`` does so if it fits into memory and the network has no instance or group norm: their statistics in a whole
    volume differ from those in the training patches.
    """
    if window == "patch" or (window == "auto" and any(isinstance(m, WINDOW_NORMS) for m in network.modules())):
        return False
    fits = pass_bytes(network, shape) <= memory_gb * 2**30
    if window == "whole":
        if not fits:
            raise InputError(
                "inference-memory-exceeded",
                f"an image of {tuple(shape[2:])} voxels needs more than {memory_gb} GiB in one pass; "
                "raise inference.memory_gb or set inference.window to patch",
            )
    return fits


@lru_cache(maxsize=8)
def pass_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Upper bound on the memory of a forward pass on (B, C, X, Y[, Z]), bytes: the float32 outputs of all layers.

    Counted on the meta device, which derives shapes without computing or allocating.
    """
    total = 0

    def count(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        nonlocal total
        if not any(module.children()):
            total += output.numel() * 4

    copied = copy.deepcopy(network).to("meta")
    for module in copied.modules():
        module.register_forward_hook(count)
    with torch.inference_mode():
        copied(torch.empty(shape, device="meta"))
    return total

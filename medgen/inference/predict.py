"""Translate the volumes of one case: volumes in, volumes out, with units, geometry and a memory limit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from medgen.checkpoint import Model, removes_contrast
from medgen.data.align import to_common_grid
from medgen.data.intensity import Code, Range, encode_channels, fit_range
from medgen.errors import InputError
from medgen.inference.kind import check_translates
from medgen.inference.model_grid import has_model_spacing, on_model_grid, on_own_grid, replaced_on_own_grid
from medgen.inference.output import AIR_HU
from medgen.inference.passes import gives_maps, translate_array
from medgen.io.volume import Volume, canonical_view, contiguous, from_canonical, reordered_like
from medgen.qa.measures.trunk_wall import ribs_taken_for_vessels


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
    if not all(has_model_spacing(v, model) for v in own):
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
            image = replaced_on_own_grid(model.generator, maps, grid[k], own[k], codes[k], decode)
        else:
            image = decode.decode(y[i], overwrite=overwrite)
            if grid[k] is not own[k]:
                keep = getattr(model.settings.method, "keep_background", False)
                outside = float(decode.decode(np.full(1, -1, np.float32))[0]) if keep else None
                image = on_own_grid(image, grid[k], own[k], codes[k], transfer, outside)
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

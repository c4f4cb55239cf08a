"""Run a model's network over a whole array: in one pass, by sliding windows or by slabs, within a memory limit."""

import copy
from collections.abc import Callable
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from medgen.checkpoint import Model
from medgen.data.patches import AXES
from medgen.data.slabs import fold, unfold
from medgen.errors import InputError
from medgen.inference.layout import Layout, even, fixed
from medgen.inference.windows import slide
from medgen.networks.allocation import memory_kept
from medgen.networks.memory import windows_per_pass
from medgen.networks.precision import has_bfloat16

FAINT = 0.1  # code units below the levels of a generator with ``replace``: nothing that low is changed
Run = Callable[[Tensor], Tensor]
WINDOW_NORMS = (nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm)


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


def gives_maps(model: Model) -> bool:
    """Whether a scan is translated by the generator's mask and level, see ``networks.residual_unet``.

    Not for slabs of slices, and only if the change is what is resampled (inference.transfer).
    """
    replaces = getattr(model.generator, "replace", None) is not None and model.settings.slab_axis is None
    return replaces and model.settings.inference.transfer == "difference"

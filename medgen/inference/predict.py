"""One whole volume through a model: right units, right geometry, bounded memory."""

import copy

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from medgen.checkpoint import Model
from medgen.data.codecs import fit_range
from medgen.data.grid import resample, resample_like
from medgen.io.volume import Volume, from_canonical, to_canonical
from medgen.types import InputError

SAME_SPACING = 0.05  # relative; within it a volume counts as being on the model's grid
WINDOW_NORMS = (nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm)


def translate_volume(model: Model, volume: Volume, *, memory_gb: float | None = None) -> Volume:
    """Translate one scan.

    The scan is turned to canonical axes, brought to the model's spacing if the settings say so, encoded,
    translated, decoded, given back what the code cut off, and returned on its own grid.

    Args:
        model: loaded on the device that is to be used.
        volume: (X, Y, Z), any orientation, in its file's units (HU for CT).
        memory_gb: bound for a whole-volume pass, instead of the settings' one.

    Returns:
        The translation: geometry of the input, and its stored type unless that is too coarse for the target.

    Raises:
        InputError: the spacing is refused by the settings, or the scan is constant where its code needs a range.
    """
    settings = model.settings
    upright = to_canonical(volume)
    grid = _on_model_grid(upright, model)
    code = fit_range(grid.data, **settings.codec.source.model_dump(exclude={"follow"}))
    y = translate_array(model, code.encode(grid.data), memory_gb=memory_gb)
    decode = model.target_range.of(code)
    translated = decode.decode(y)
    translated += code.excess(grid.data, translated)
    if grid is not upright:
        if settings.inference.transfer == "difference":
            change = grid.replaced(translated - grid.data)
            translated = upright.data + resample_like(change, upright)
        else:
            translated = resample_like(grid.replaced(translated), upright)
    # Whole numbers are fine enough for HU, not for a target whose range is 0..1: that is stored as float32.
    coarse = np.issubdtype(volume.dtype, np.integer) and decode.high - decode.low < 500
    return volume.replaced(from_canonical(translated, volume), np.float32 if coarse else None)


def _on_model_grid(volume: Volume, model: Model) -> Volume:
    wanted, policy = model.info.spacing, model.settings.inference.spacing
    if policy == "ignore" or np.allclose(volume.spacing, wanted, rtol=SAME_SPACING):
        return volume
    if policy == "refuse":
        raise InputError(
            f"{volume.path}: voxels of {volume.geometry.describe()} differ from the model's {wanted} mm; "
            "resample the scan or set inference.spacing to resample"
        )
    return resample(volume, wanted)


@torch.inference_mode()
def translate_array(model: Model, x: np.ndarray, *, memory_gb: float | None = None) -> np.ndarray:
    """Network pass over a whole array.

    Args:
        x: (X, Y, Z) in code units [-1, 1], on the model's grid.

    Returns:
        (X, Y, Z) float32 in code units.
    """
    inference, network = model.settings.inference, model.generator
    device = next(network.parameters()).device
    sides = [max(n + (-n) % network.divisor, network.smallest) for n in x.shape]
    padding = [side - n for side, n in zip(sides, x.shape, strict=True)]
    pad = [(p // 2, p - p // 2) for p in padding]
    batch = torch.from_numpy(np.pad(x, pad, mode="edge"))[None, None]
    bound = memory_gb if memory_gb is not None else inference.memory_gb
    if use_whole(inference.window, network, batch.shape, bound):
        y = model.method.translate(batch.to(device)).float().cpu()
    else:
        y = sliding_window_inference(  # type: ignore[assignment]  # one tensor in, one out
            batch,
            roi_size=model.settings.sampling.patch,
            sw_batch_size=inference.batch,
            predictor=lambda window: model.method.translate(window).float(),
            overlap=inference.overlap,
            mode="gaussian",
            padding_mode="replicate",
            sw_device=device,
            device=torch.device("cpu"),
        )
    cut = tuple(slice(a, a + n) for (a, _), n in zip(pad, x.shape, strict=True))
    return y[0, 0].numpy()[cut]


def use_whole(window: str, network: nn.Module, shape: tuple[int, ...], memory_gb: float) -> bool:
    """Whether a volume goes through in one pass.

    ``auto`` does so where it fits and where the network's norms do not look at the window: instance and
    group norm see other statistics in a whole volume than in the patches they were trained on.
    """
    if window == "patch":
        return False
    fits = pass_bytes(network, shape) <= memory_gb * 2**30
    if window == "whole":
        if not fits:
            raise InputError(
                f"a volume of {shape[2:]} voxels needs more than {memory_gb} GiB in one pass; "
                "raise inference.memory_gb or set inference.window to patch"
            )
        return True
    return fits and not any(isinstance(module, WINDOW_NORMS) for module in network.modules())


def pass_bytes(network: nn.Module, shape: tuple[int, ...]) -> int:
    """Bound on the memory of a forward pass on (B, C, X, Y, Z): the outputs of all layers, as 4-byte floats.

    Counted on the meta device: shapes are worked out, nothing is computed or allocated.
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

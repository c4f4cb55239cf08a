"""What a program needs besides the network to get medgen's result: units, windows, grid, padding, as plain JSON."""

from typing import Any

from medgen import __version__
from medgen.checkpoint import Model
from medgen.export.network import smallest_side
from medgen.inference.passes import WINDOW_NORMS, gives_maps
from medgen.model_info import RangeInfo
from medgen.networks.blocks.diffusion import RATE, STEPS
from medgen.networks.residual_unet import CAUTION, SHARP

VERSION = 1  # increase when a key changes its meaning

ENCODE = "x = (clip(v, low, high) - low) / (high - low) * (1 - start) + start; v == background gives -1"
DECODE = "v = (y - start) / (1 - start) * (high - low) + low; with a background at least low, and y < -0.875 gives it"
OUTSIDE = {
    "clip": "nothing: values beyond the range are lost",
    "preserve": "the source value wherever it is <= low or >= high; elsewhere the output, clipped to the target range",
    "preserve_unchanged": "the source value where it is <= low; where it is >= high, w * source + (1 - w) * output "
    "with w = clip(2 - (high - output) / ((high - low) / 8), 0, 1); elsewhere the output, clipped to the target range",
}
TRANSFER = {
    "difference": "the change (output - clipped input) is resampled linearly to the scan's grid and added to the "
    "clipped input there",
    "image": "the output is resampled linearly to the scan's grid; within 2 voxels of carried values, the change is "
    "resampled and added instead",
}
LAYOUTS = {
    "fixed": "steps of size * (1 - overlap), rounded down; the last window of each axis ends at the border",
    "even": "evenly spaced with at least this overlap; of the sides from size to 1.4 * size, in steps of stride, each "
    "axis gets the one with the fewest voxels in its windows. For maps, only windows over voxels above low - 0.1, "
    "within 8 voxels around their bounding box; elsewhere y = x",
}
MAPS = (
    "the output is p, the probability that a voxel is lowered, and l, its level. b = clip((s - high) / (high - low) * "
    "2 + 0.25, 0, 1), s = x filtered by [1, 2, 1] / 4 along each axis; m = sigmoid(sharp * (logit(p) - caution * b)); "
    "y = x - m * max(v - l, 0); v is x after `steps` steps of diffusion: x += sum over axes of the differences of "
    "rate * exp(-(d / slope)^2) * diff(x), d = differences of x filtered twice. m and l are resampled linearly to the "
    "scan's grid, and v is computed there"
)


def pipeline(model: Model) -> dict[str, Any]:
    """The steps around the network, in the order of ``inference.predict``; the keys are explained in its values.

    Lengths are in mm, intensities in the unit of the files (HU for CT), arrays are (X, Y, Z) with axes to the right,
    anterior and superior (RAS).
    """
    settings, info, network = model.settings, model.info, model.generator
    data, inference, axis = settings.data, settings.inference, settings.slab_axis
    codec = settings.intensity.source
    return {
        "version": VERSION,
        "medgen": __version__,
        "model_sha256": info.sha256,
        "weights_sha256": info.weights_sha256,
        "method": settings.method.name,
        "axes": "RAS: flip and permute the array so that x grows to the right, y to the front, z to the head",
        "spacing": {"mm": list(info.spacing), "other": inference.spacing, "tolerance": 0.05},
        "sources": [
            {"name": name, "kind": codec.kind, "outside": code.outside, "carried": OUTSIDE[code.outside]}
            | {"low": code.low, "high": code.high, "background": code.background}
            | _fitted(codec.kind, codec.low, codec.high, codec.width)
            for name, code in zip(data.sources, info.source_range, strict=True)
            if isinstance(code, RangeInfo)
        ],
        "targets": [
            {"name": model.target or name, "low": code.low, "high": code.high, "background": code.background}
            | {"follows_source": settings.intensity.target.follow}
            for name, code in zip(data.targets, info.target_range, strict=True)
        ],
        "encode": ENCODE,
        "decode": DECODE,
        "start": "-1, or -0.75 with a background",
        "input": {"name": "x", "shape": ["batch", "channels", *"xyz"[: settings.method.spatial_dims]]},
        "output": {"name": "y", "kind": "maps" if gives_maps(model) else "image"},
        "maps": _maps(model) if gives_maps(model) else None,
        "stride": int(network.divisor),  # type: ignore[arg-type]
        "smallest": smallest_side(model),
        "padding": "repeat the border until each side is a multiple of stride and at least smallest; half of it, "
        "rounded down, before the first voxel",
        "window": {
            "mode": inference.window,
            "needs_windows": any(isinstance(module, WINDOW_NORMS) for module in network.modules()),
            "size": list(settings.window_size),
            "overlap": inference.overlap,
            "layout": inference.layout,
            "weights": "Gaussian, standard deviation 0.125 of the window's side, at least 0.001",
            "padding": "repeat the border",
            "layouts": LAYOUTS,
            "auto": "whole volume in one pass if it fits into memory and needs_windows is false, else windows",
        },
        "slab": None if axis is None else {"axis": "xyz"[axis], "slices": settings.sampling.patch[axis]},
        "mirror": list(inference.mirror),
        "transfer": {"kind": inference.transfer, "how": TRANSFER[inference.transfer]},
        "precision": "float32",
        "synthetic": "outputs are synthetic and not for diagnosis",
    }


def _fitted(kind: str, low: float | None, high: float | None, width: float) -> dict[str, Any]:
    """How the range of a scan is found, if it is not fixed."""
    if kind == "percentile":
        return {"percentiles": [0.1 if low is None else low, 99.5 if high is None else high]}
    return {"standard_deviations": width} if kind == "zscore" else {}


def _maps(model: Model) -> dict[str, Any]:
    network: Any = model.generator
    low, high = network.replace
    return {"low": low, "high": high, "sharp": SHARP, "caution": CAUTION, "slope": network.slope} | {
        "steps": STEPS,
        "rate": RATE,
        "how": MAPS,
    }

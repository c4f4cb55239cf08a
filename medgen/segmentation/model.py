"""Segmentation network sized by its data, used to test whether anatomy can be found in images.

The sizes follow the rules of nnU-Net (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z, supplementary note 2): the
grid has the median spacing of the training cases, the patch has the shape of their median volume as far as memory
allows, and a side is halved while it keeps at least 4 voxels and its voxels are less than twice as coarse as the
finest. The network is MONAI's DynUNet. ``segmentation.train`` trains it; ``segmentation.external`` wraps
third-party ones.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from monai.networks.nets import DynUNet
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError
from safetensors import SafetensorError
from torch import nn

from medgen.checkpoint import MOST_TEXT, load_weights, regular, save_weights
from medgen.data.grid import resample, resample_like
from medgen.data.intensity import fit_range
from medgen.environment import git_commit, versions
from medgen.errors import InputError
from medgen.io.atomic import atomic_folder, recover
from medgen.io.names import short_reason
from medgen.io.volume import Volume, from_canonical, to_canonical
from medgen.networks.memory import peak_bytes
from medgen.settings import Spacing
from medgen.types import Section

FORMAT = 1
MIN_SIDE = 4  # minimum voxels along a side at the deepest level
MIN_HALVINGS, MAX_HALVINGS = 2, 5  # levels below the first: DynUNet needs at least two, nnU-Net uses at most five
MAX_FILTERS = 320  # maximum filters of a level, as in nnU-Net
MAX_UPSAMPLING = 1000  # maximum voxels of the network's grid per scan voxel; more means a faulty plan
MAX_GB = 16  # GiB, maximum for a volume on that grid or a forward pass of the network

Triple = tuple[PositiveInt, PositiveInt, PositiveInt]
Halvings = Annotated[tuple[Triple, ...], Field(min_length=1)]


class Plan(Section):
    """Everything that defines a segmenter except its weights."""

    values: tuple[int, ...] = Field(min_length=2, description="label value of each class, 0 (background) first")
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(
        description="voxel spacing in mm, canonical axes"
    )
    patch: Triple
    strides: Halvings
    kernels: Halvings
    filters: PositiveInt = Field(description="filters of the first level; each halving doubles them")
    intensity: dict[str, Any] = Field(description="arguments of data.intensity.fit_range")
    mirror: bool = Field(description="mirror patches in training; only valid if no label distinguishes left from right")


@dataclass(frozen=True)
class Segmenter:
    """A trained network. Calling it with a volume returns the volume's label map.

    ``record``: how it was trained, and which cases were left out and why, see ``train_segmenter``.
    """

    plan: Plan
    network: nn.Module
    record: dict[str, Any]

    def __call__(self, volume: Volume) -> np.ndarray:
        """Return label values (X, Y, Z) int32 on the volume's grid; see ``segment``."""
        plan, device = self.plan, next(self.network.parameters()).device
        options: dict[str, Any] = {"values": plan.values, "spacing": plan.spacing, "intensity": plan.intensity}
        return segment(self.network, volume, patch=plan.patch, device=device, **options)


def choose_sizes(shape: Sequence[float], spacing: Sequence[float], voxels: int) -> tuple[Triple, Halvings, Halvings]:
    """Choose the patch, the strides of every halving and the kernels of every level.

    Args:
        shape: shape of the median volume, in voxels of ``spacing``.
        spacing: voxel spacing in mm.
        voxels: maximum number of voxels of the patch, up to rounding.

    Returns:
        Patch, strides, kernels. The patch keeps the proportions of ``shape``; its sides are multiples of the product of
        their strides. Kernels are 1 wide along axes whose voxels are at least twice as coarse as the finest, else 3;
        there is one more kernel than strides.
    """
    sides = np.asarray(shape, float) * min(1.0, (voxels / np.prod(shape)) ** (1 / 3))
    remaining, current = sides.copy(), np.asarray(spacing, float)
    strides: list[np.ndarray] = []
    kernels = [_kernel(current)]
    while len(strides) < MAX_HALVINGS and (remaining >= 2 * MIN_SIDE).any():
        large = remaining >= 2 * MIN_SIDE
        stride = np.where(large & (current < 2 * current[large].min()), 2, 1)
        remaining, current = remaining / stride, current * stride
        strides.append(stride)
        kernels.append(_kernel(current))
    while len(strides) < MIN_HALVINGS:  # volumes of only a few voxels
        strides, kernels = [*strides, np.ones(3, int)], [*kernels, _kernel(current)]
    multiple = np.prod(strides, axis=0)
    patch = np.maximum(np.rint(sides / multiple), 1) * multiple
    return _triple(patch), tuple(map(_triple, strides)), tuple(map(_triple, kernels))


def _kernel(spacing: np.ndarray) -> np.ndarray:
    return np.where(spacing < 2 * spacing.min(), 3, 1)


def _triple(values: np.ndarray) -> Triple:
    x, y, z = (int(v) for v in values)
    return x, y, z


def build_network(plan: Plan) -> nn.Module:
    """Build the network: encoded image (B, 1, X, Y, Z) → logits (B, classes, X, Y, Z).

    Sides must be multiples of the product of the strides.
    """
    strides = [list(s) for s in plan.strides]
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=len(plan.values),
        kernel_size=[list(k) for k in plan.kernels],
        strides=[[1, 1, 1], *strides],
        upsample_kernel_size=strides,
        filters=[min(plan.filters * 2**i, MAX_FILTERS) for i in range(len(plan.kernels))],
    )


@torch.inference_mode()
def segment(
    network: nn.Module,
    volume: Volume,
    *,
    values: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
    intensity: Mapping[str, Any] | None = None,
    patch: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> np.ndarray:
    """Segment a volume with a network.

    Args:
        network: (1, 1, X, Y, Z) on canonical (RAS) axes → logits of the classes, or one logit for a single label.
        volume: (X, Y, Z), any orientation, in the units of the training images.
        values: label value of each class; None: the class index.
        spacing: voxel spacing of the network's grid in mm; None: that of the volume.
        intensity: arguments of ``data.intensity.fit_range`` that the network expects; None: keep the volume's units.
        patch: size of sliding windows that overlap by half; None: the whole volume at once.
        device: device of the network.

    Returns:
        Label values (X, Y, Z) int32 on the volume's own grid.

    Raises:
        InputError: the image is constant but ``intensity`` needs a range, or it is too large on the network's grid.
    """
    canonical = to_canonical(volume)
    # Spacings within 2 % are not resampled, as for the training volumes in data.cache.
    same_spacing = spacing is None or np.allclose(canonical.spacing, spacing, rtol=0.02)
    grid = canonical if same_spacing else resample(canonical, _checked_spacing(canonical, spacing or (), values))
    x = grid.data if intensity is None else fit_range(grid.data, **intensity).encode(grid.data)
    device = torch.device(device)
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        logits = sliding_window_inference(
            torch.from_numpy(np.ascontiguousarray(x))[None, None],
            roi_size=(-1, -1, -1) if patch is None else patch,
            sw_batch_size=1,
            predictor=lambda window: network(window).float(),
            overlap=0.5,
            mode="gaussian",
            padding_mode="replicate",
            sw_device=device,
            device=torch.device("cpu"),
        )[0]  # type: ignore[index]  # one tensor in, one out
    if len(logits) == 1:
        logits = torch.cat([torch.zeros_like(logits), logits])
    classes = _highest_logit(logits) if same_spacing else _most_probable(logits, grid, canonical)
    labels = classes if values is None else np.asarray(values, np.int32)[classes]
    return from_canonical(labels, volume)


def _checked_spacing(volume: Volume, spacing: Sequence[float], values: Sequence[int] | None) -> Spacing:
    """Return the spacing of the network's grid. Raises InputError if the volume would be too large on that grid."""
    upsampling = np.prod(volume.spacing) / np.prod(spacing)
    x, y, z = (float(s) for s in spacing)
    gb = volume.data.size * upsampling * (2 + len(values or ())) * 4 / 2**30
    if upsampling > MAX_UPSAMPLING or (upsampling > 1 and gb > MAX_GB):
        raise InputError(
            "segmenter-memory-exceeded",
            f"{volume.path} [{volume.geometry.describe()}] is too large: on the segmenter's grid of {x:g} x {y:g} x "
            f"{z:g} mm it would take {gb:.3g} GiB; use a segmenter with coarser voxels",
        )
    return x, y, z


def _highest_logit(logits: torch.Tensor) -> np.ndarray:
    """Class (X, Y, Z) int32 of the largest logit (C, X, Y, Z); by slices, to save memory."""
    classes = np.empty(logits.shape[1:], np.int32)
    for x in range(len(classes)):
        classes[x] = logits[:, x].argmax(0)
    return classes


def _most_probable(logits: torch.Tensor, grid: Volume, canonical: Volume) -> np.ndarray:
    """Most probable class at each voxel of ``canonical``, resampling one class at a time. Overwrites ``logits``."""
    for x in range(logits.shape[1]):
        logits[:, x] = logits[:, x].softmax(0)
    best = np.full(canonical.data.shape, -1, np.float32)
    classes = np.zeros(canonical.data.shape, np.int32)
    for i, probability in enumerate(logits.numpy()):
        resampled = resample_like(grid.replaced(probability), canonical)
        classes[resampled > best] = i
        np.maximum(best, resampled, out=best)
    return classes


def save_segmenter(folder: Path, segmenter: Segmenter) -> None:
    """Write ``weights.safetensors`` and ``segmenter.json``; the folder is written atomically."""
    state = {k: v.detach().cpu().contiguous().clone() for k, v in segmenter.network.state_dict().items()}
    with atomic_folder(Path(folder)) as temporary:
        weights = temporary / "weights.safetensors"
        save_weights(state, weights)
        info = {
            "format": FORMAT,
            "plan": segmenter.plan.model_dump(mode="json"),
            "record": segmenter.record,
            "versions": versions(),
            "commit": git_commit(),
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        (temporary / "segmenter.json").write_text(json.dumps(info, indent=1))


def load_segmenter(folder: Path, device: torch.device | str = "cpu") -> Segmenter:
    """Load what ``save_segmenter`` wrote.

    Raises:
        InputError: not a segmenter folder, another format version, or damaged or modified content.
    """
    folder = recover(Path(folder))
    file, weights = folder / "segmenter.json", folder / "weights.safetensors"
    if not file.is_file():
        raise InputError(
            "segmenter-json-missing",
            f"{folder} is not a segmenter: it has no segmenter.json; give a folder written by train_segmenter",
        )
    try:
        info = json.loads(regular(file, MOST_TEXT).read_text())
        if info["format"] != FORMAT:
            raise InputError(
                "segmenter-format",
                f"{folder} has format version {info['format']!r}, but this medgen reads {FORMAT}; train it again",
            )
        plan = Plan.model_validate(info["plan"])
        with torch.device("meta"):
            network = build_network(plan)
        if peak_bytes(network, (1, 1, *plan.patch)) > MAX_GB * 2**30:
            raise InputError(
                "segmenter-window-too-large",
                f"{folder}: windows of {plan.patch} voxels take more than {MAX_GB} GiB; train it with a smaller patch",
            )
        load_weights(network, weights, info["weights_sha256"])
        record = info["record"]
    except (ValidationError, SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            "segmenter-damaged", f"{folder} is damaged ({short_reason(error)}); restore the folder or train it again"
        ) from None
    return Segmenter(plan, network.to(device).eval(), record)

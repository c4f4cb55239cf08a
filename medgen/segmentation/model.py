"""A segmentation network sized by its data: what tells whether images are good enough to find anatomy in.

The sizes follow the rules of nnU-Net (Isensee et al. 2021, doi 10.1038/s41592-020-01008-z, supplementary note 2): the
grid is the training cases' median spacing, the patch has the shape of their median volume as far as memory allows, and
a side is halved while it stays at least 4 voxels and its voxels are not twice as coarse as the finest. The network is
MONAI's DynUNet. ``segmentation.train`` trains one; ``segmentation.external`` brings in others.
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
from medgen.io.atomic import folder_written_aside, recovered
from medgen.io.names import brief
from medgen.io.volume import Volume, from_canonical, to_canonical
from medgen.networks.memory import peak_bytes
from medgen.settings import Spacing
from medgen.types import Section

FORMAT = 1
SMALLEST = 4  # voxels of a side at the deepest level
FEWEST, HALVINGS = 2, 5  # levels below the first: DynUNet asks for two, nnU-Net takes no more than five
WIDEST = 320  # filters of a level, as nnU-Net
MOST_FINER = 1000  # voxels of the network's grid in one of the scan's: beyond, a plan is broken
MOST_GB = 16  # of a volume on that grid, or of a pass of the network

Triple = tuple[PositiveInt, PositiveInt, PositiveInt]
Halvings = Annotated[tuple[Triple, ...], Field(min_length=1)]


class Plan(Section):
    """All that fixes a segmenter but its weights."""

    values: tuple[int, ...] = Field(min_length=2, description="label value of each class, 0 (background) first")
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(description="mm, canonical axes")
    patch: Triple
    strides: Halvings
    kernels: Halvings
    filters: PositiveInt = Field(description="of the first level; each halving doubles them")
    intensity: dict[str, Any] = Field(description="arguments of data.intensity.fit_range")
    mirror: bool = Field(description="mirrored in training: only where no label has a side")


@dataclass(frozen=True)
class Segmenter:
    """A trained network; called with a volume it gives that volume's labels.

    ``record``: how it was trained, with the cases left out and why, see ``train_segmenter``.
    """

    plan: Plan
    network: nn.Module
    record: dict[str, Any]

    def __call__(self, volume: Volume) -> np.ndarray:
        """(X, Y, Z) int32 of label values on the volume's grid; see ``segment``."""
        plan, device = self.plan, next(self.network.parameters()).device
        known: dict[str, Any] = {"values": plan.values, "spacing": plan.spacing, "intensity": plan.intensity}
        return segment(self.network, volume, patch=plan.patch, device=device, **known)


def choose_sizes(shape: Sequence[float], spacing: Sequence[float], voxels: int) -> tuple[Triple, Halvings, Halvings]:
    """Patch, strides of every halving and kernels of every level.

    Args:
        shape: median volume in voxels of ``spacing``.
        spacing: mm.
        voxels: bound on the patch, held to rounding.

    Returns:
        The patch keeps the proportions of ``shape``; its sides are multiples of their strides' product. Kernels are 1
        along an axis whose voxels are at least twice as coarse as the finest, else 3; one more than strides.
    """
    sides = np.asarray(shape, float) * min(1.0, (voxels / np.prod(shape)) ** (1 / 3))
    left, space = sides.copy(), np.asarray(spacing, float)
    strides: list[np.ndarray] = []
    kernels = [_kernel(space)]
    while len(strides) < HALVINGS and (left >= 2 * SMALLEST).any():
        large = left >= 2 * SMALLEST
        stride = np.where(large & (space < 2 * space[large].min()), 2, 1)
        left, space = left / stride, space * stride
        strides.append(stride)
        kernels.append(_kernel(space))
    while len(strides) < FEWEST:  # volumes of a few voxels
        strides, kernels = [*strides, np.ones(3, int)], [*kernels, _kernel(space)]
    multiple = np.prod(strides, axis=0)
    patch = np.maximum(np.rint(sides / multiple), 1) * multiple
    return _triple(patch), tuple(map(_triple, strides)), tuple(map(_triple, kernels))


def _kernel(spacing: np.ndarray) -> np.ndarray:
    return np.where(spacing < 2 * spacing.min(), 3, 1)


def _triple(values: np.ndarray) -> Triple:
    x, y, z = (int(v) for v in values)
    return x, y, z


def build_network(plan: Plan) -> nn.Module:
    """(B, 1, X, Y, Z) in code units, sides multiples of the strides' product → logits (B, classes, X, Y, Z)."""
    strides = [list(s) for s in plan.strides]
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=len(plan.values),
        kernel_size=[list(k) for k in plan.kernels],
        strides=[[1, 1, 1], *strides],
        upsample_kernel_size=strides,
        filters=[min(plan.filters * 2**i, WIDEST) for i in range(len(plan.kernels))],
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
    """The labels that a network sees in a volume.

    Args:
        network: (1, 1, X, Y, Z) on canonical (RAS) axes → logits of the classes, or one logit of a single label.
        volume: (X, Y, Z), any orientation, in the units of the training images.
        values: label value of each class; None: the class's number.
        spacing: mm of the network's grid; None: the volume's own.
        codec: arguments of ``data.intensity.fit_range`` for what the network expects; None: the volume's own units.
        patch: of sliding windows, their halves overlapping; None: the whole volume at once.
        device: the network's.

    Returns:
        (X, Y, Z) int32 of label values on the volume's own grid.

    Raises:
        InputError: the image is constant where its code needs a range.
    """
    upright = to_canonical(volume)
    # Within 2 % nothing is resampled, as in data.cache, which makes the training volumes.
    same = spacing is None or np.allclose(upright.spacing, spacing, rtol=0.02)
    grid = upright if same else resample(upright, _bounded(upright, spacing or (), values))
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
    classes = _largest(logits) if same else _most_probable(logits, grid, upright)
    labels = classes if values is None else np.asarray(values, np.int32)[classes]
    return from_canonical(labels, volume)


def _bounded(volume: Volume, spacing: Sequence[float], values: Sequence[int] | None) -> Spacing:
    """The spacing of a network's grid. Raises InputError where the volume would be too large there for any machine."""
    finer = np.prod(volume.spacing) / np.prod(spacing)
    x, y, z = (float(s) for s in spacing)
    gb = volume.data.size * finer * (2 + len(values or ())) * 4 / 2**30
    if finer > MOST_FINER or (finer > 1 and gb > MOST_GB):
        raise InputError(
            "segmenter-memory-exceeded",
            f"{volume.path} has voxels of {volume.geometry.describe()}, and the segmenter's grid of {x:g} x {y:g} x "
            f"{z:g} mm would take {gb:.3g} GiB of it; use a segmenter of coarser voxels",
        )
    return x, y, z


def _largest(logits: torch.Tensor) -> np.ndarray:
    """Class (X, Y, Z) int32 of the largest logit (C, X, Y, Z), by slices: not all classes twice."""
    classes = np.empty(logits.shape[1:], np.int32)
    for x in range(len(classes)):
        classes[x] = logits[:, x].argmax(0)
    return classes


def _most_probable(logits: torch.Tensor, grid: Volume, upright: Volume) -> np.ndarray:
    """Class at each voxel of ``upright``; one class is resampled at a time. Logits become probabilities in place."""
    for x in range(logits.shape[1]):
        logits[:, x] = logits[:, x].softmax(0)
    best = np.full(upright.data.shape, -1, np.float32)
    classes = np.zeros(upright.data.shape, np.int32)
    for i, probability in enumerate(logits.numpy()):
        there = resample_like(grid.replaced(probability), upright)
        classes[there > best] = i
        np.maximum(best, there, out=best)
    return classes


def save_segmenter(folder: Path, segmenter: Segmenter) -> None:
    """Write ``weights.safetensors`` and ``segmenter.json``; the folder appears whole or not at all."""
    state = {k: v.detach().cpu().contiguous().clone() for k, v in segmenter.network.state_dict().items()}
    with folder_written_aside(Path(folder)) as aside:
        weights = aside / "weights.safetensors"
        save_weights(state, weights)
        info = {
            "format": FORMAT,
            "plan": segmenter.plan.model_dump(mode="json"),
            "record": segmenter.record,
            "versions": versions(),
            "commit": git_commit(),
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        (aside / "segmenter.json").write_text(json.dumps(info, indent=1))


def load_segmenter(folder: Path, device: torch.device | str = "cpu") -> Segmenter:
    """Inverse of ``save_segmenter``.

    Raises:
        InputError: not a segmenter's folder, another format, or content that is damaged or was changed.
    """
    folder = recovered(Path(folder))
    file, weights = folder / "segmenter.json", folder / "weights.safetensors"
    if not file.is_file():
        raise InputError(
            "segmenter-json-missing",
            f"{folder} is not a segmenter: it has no segmenter.json; give a folder that training wrote",
        )
    try:
        info = json.loads(regular(file, MOST_TEXT).read_text())
        if info["format"] != FORMAT:
            raise InputError(
                "segmenter-format",
                f"{folder} has format {info['format']!r}, this medgen reads {FORMAT}; train it again",
            )
        plan = Plan.model_validate(info["plan"])
        with torch.device("meta"):
            network = build_network(plan)
        if peak_bytes(network, (1, 1, *plan.patch)) > MOST_GB * 2**30:
            raise InputError(
                "segmenter-window-too-large",
                f"{folder}: windows of {plan.patch} voxels take more than {MOST_GB} GiB; train it again",
            )
        load_weights(network, weights, info["weights_sha256"])
        record = info["record"]
    except (ValidationError, SafetensorError, OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            "segmenter-damaged", f"{folder} is damaged ({brief(error)}); restore the folder or train it again"
        ) from None
    return Segmenter(plan, network.to(device).eval(), record)

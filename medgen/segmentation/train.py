"""Train a segmenter from labelled images; the result is a ``segmentation.model.Segmenter``.

Uses Dice + cross-entropy, AdamW, a budget of steps or minutes that is fixed in advance, and no validation: nothing is
selected by a score, so every case outside the training set is an unbiased test case.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from monai.losses import DiceCELoss
from torch import Tensor

from medgen.data.body_mask import looks_like_hu
from medgen.data.cache import Cached, Channels, cached
from medgen.data.labels.training import cached_labels
from medgen.data.patches import Patches, batches
from medgen.errors import InputError
from medgen.io.grids import same_grid
from medgen.io.hashes import file_states
from medgen.io.read import read_geometry, read_volume
from medgen.io.volume import orientation
from medgen.segmentation.model import Plan, Segmenter, build_network, choose_sizes, load_segmenter, save_segmenter
from medgen.types import Batch

VERSION = 2  # increase when a change of patches or labels invalidates earlier trainings
CHECKED_VOLUMES = 20  # volumes used to distinguish CT from MR and to choose the CT window
VOXELS_PER_CLASS = 2000  # candidate patch centres per class
WARM_UP = 0.05  # share of the training with a rising learning rate


class Example(NamedTuple):
    """An image with its label map on the same grid; cases of one ``patient`` belong in the same split."""

    name: str
    patient: str
    image: Path
    labels: Path


def label_values(examples: Sequence[Example]) -> tuple[int, ...]:
    """All values in the readable label maps, and 0, in ascending order.

    Raises:
        InputError: no label except the background.
    """
    values = {0}
    for example in examples:
        with suppress(InputError):  # an unreadable file is reported where the case is used
            values |= {int(v) for v in np.unique(read_volume(example.labels).data)}
    if len(values) < 2:
        raise InputError(
            "labels-all-background",
            "the label maps contain only 0 (background), so there is nothing to segment; check the folder of labels",
        )
    return tuple(sorted(values))


def fingerprint(examples: Iterable[Example], settings: Any) -> str:
    """Hash of the examples' names, patients and files (path, size, times) and of settings."""
    files = [[e.name, e.patient, *map(_stat, (e.image, e.labels))] for e in examples]
    return hashlib.sha256(json.dumps([files, settings], default=str).encode()).hexdigest()


def _stat(path: Path) -> list[Any]:
    with suppress(OSError):
        return [file_states(path)]
    return [str(path)]


def make_plan(
    examples: Sequence[Example],
    values: Sequence[int],
    *,
    filters: int = 16,
    voxels: int = 64**3,
    mirror: bool = False,
    intensities: Literal["auto", "ct", "mr"] = "auto",
) -> Plan:
    """Choose the plan of a segmenter from its data.

    Args:
        examples: all must be readable.
        values: label values, 0 first.
        filters: filters of the first level (nnU-Net: 32, for a GPU).
        voxels: maximum number of voxels of the patch (nnU-Net: what fills the GPU, about 128³).
        mirror: mirror patches in training; only valid if no label is left or right.
        intensities: ``mr``: normalise each case by the mean and standard deviation of its foreground. ``ct``: use the
            window that contains 99 % of the labelled voxels (nnU-Net). ``auto``: ct if most of the first 20 volumes
            look like HU, see ``looks_like_hu``.
    """
    shapes, spacings = (np.stack(part) for part in zip(*(_canonical_grid(e.image) for e in examples), strict=True))
    spacing = np.median(spacings, 0)
    patch, strides, kernels = choose_sizes(np.median(shapes * spacings / spacing, 0), spacing, voxels)
    x, y, z = (float(s) for s in spacing)
    return Plan(
        values=tuple(values),
        spacing=(x, y, z),
        patch=patch,
        strides=strides,
        kernels=kernels,
        filters=filters,
        intensity={"kind": "zscore"}
        if intensities == "mr"
        else _codec(examples[:CHECKED_VOLUMES], intensities == "ct"),
        mirror=mirror,
    )


def _canonical_grid(image: Path) -> tuple[np.ndarray, np.ndarray]:
    """Shape and spacing on canonical axes, from the header."""
    grid = read_geometry(image)
    order = np.argsort(orientation(grid.affine)[:, 0])
    return np.asarray(grid.shape, float)[order], np.asarray(grid.spacing)[order]


def _codec(examples: Sequence[Example], is_ct: bool) -> dict[str, Any]:
    in_hu, labelled = [], [np.zeros(0, np.float32)]
    for example in examples:
        with suppress(InputError, IndexError):  # unusable files are reported when their patches are prepared
            image = read_volume(example.image).data
            labelled.append(image[read_volume(example.labels).data > 0])
            in_hu.append(looks_like_hu(image))
    if not is_ct and not (in_hu and np.mean(in_hu) > 0.5):
        return {"kind": "zscore"}
    values = np.concatenate(labelled)
    low, high = np.percentile(values, [0.5, 99.5]) if values.size else (-1000.0, 1000.0)
    return {"kind": "window", "low": float(low), "high": float(max(high, low + 1))}


def train_segmenter(
    examples: Sequence[Example],
    folder: Path,
    *,
    values: Sequence[int] | None = None,
    steps: int = 4000,
    minutes: float | None = None,
    batch: int = 2,
    lr: float = 2e-3,
    seed: int = 0,
    filters: int = 16,
    voxels: int = 64**3,
    mirror: bool = False,
    intensities: Literal["auto", "ct", "mr"] = "auto",
    augment: bool = True,
    device: torch.device | str = "cpu",
    workers: int = 0,
    cache: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Segmenter:
    """Train a segmenter and save it, or load it if ``folder`` holds one trained on the same files and settings.

    Args:
        examples: training cases; unusable ones are left out and listed in the segmenter's record.
        folder: output folder.
        values: label values, 0 first; None: all that occur.
        steps, minutes: the budget; training and its learning-rate schedule end when either is used up.
        lr: maximum learning rate.
        augment: random rotation, scaling, intensity changes and noise ("classical" augmentation).
        seed: seed of weights and patches; with ``steps`` alone two runs on the CPU give the same weights.
        workers: loader processes in addition to this one, for GPUs.
        cache: folder of decompressed volumes, which several trainings can share; None: a folder beside ``folder``.
        say: receives progress messages.

    The other arguments are those of ``make_plan``.

    Raises:
        InputError: no example can be used.
    """
    folder, cases = Path(folder), sorted(examples)
    if len({example.name for example in cases}) < len(cases):
        raise InputError(
            "segmenter-example-name-twice",
            "two training examples of the segmenter have the same name; give each its own name",
        )
    settings = [VERSION, values, steps, minutes, batch, lr, seed, filters, voxels, mirror, intensities, augment]
    inputs_hash = fingerprint(cases, settings)
    with suppress(InputError):
        found = load_segmenter(folder, device)
        if found.record["made_of"] == inputs_hash:
            return found
    values = label_values(cases) if values is None else tuple(sorted({0, *values}))
    cache = folder.with_name(f"{folder.name}.cache") if cache is None else cache
    usable, skipped = _same_grids(cases)
    if not usable:
        raise InputError("segmenter-no-examples", _no_examples(skipped))
    plan = make_plan(usable, values, filters=filters, voxels=voxels, mirror=mirror, intensities=intensities)
    images: dict[str, Channels] = {}
    labels: dict[str, Path] = {}
    for example in usable:
        try:
            labels[example.name] = cached_labels(cache, example.labels, example.image, values, spacing=plan.spacing)
            image = cached(cache, example.image, plan.intensity, spacing=plan.spacing)
            images[example.name] = (_centred_on_labels(image, labels[example.name]),)
        except InputError as error:
            skipped[example.name] = str(error)
            labels.pop(example.name, None)
    if not images:
        raise InputError("segmenter-no-examples", _no_examples(skipped))
    patches = Patches(
        images,
        images,  # Patches needs targets; they are not used here
        labels=labels,
        paired=True,
        patch=plan.patch,
        seed=seed,
        body=0.67,
        flip=("x", "y", "z") if mirror else (),
        rotate=15 if augment else 0,
        scale=0.15 if augment else 0,
        gamma=0.4 if augment else 0,
    )
    torch.manual_seed(seed)
    segmenter = Segmenter(plan, build_network(plan).to(device), {})
    stream = batches(patches, batch=batch, first_step=0, steps=steps, workers=workers)
    record = _fit(segmenter, stream, steps=steps, minutes=minutes, lr=lr, seed=seed, noisy=augment, say=say)
    record |= {
        "training": sorted(images),
        "skipped": skipped,
        "seed": seed,
        "batch": batch,
        "lr": lr,
        "made_of": inputs_hash,
    }
    segmenter = replace(segmenter, network=segmenter.network.eval(), record=record)
    save_segmenter(folder, segmenter)
    return segmenter


def _same_grids(examples: Sequence[Example]) -> tuple[list[Example], dict[str, str]]:
    """Examples whose image and labels share a grid (by header), and for each other one why it cannot be used."""
    usable, skipped = [], {}
    for example in examples:
        try:
            image, labels = read_geometry(example.image), read_geometry(example.labels)
            if not same_grid(image, labels):
                raise InputError(
                    "labels-grid-differs",
                    f"{example.labels} [{labels.describe()}] is not on the grid of {example.image} "
                    f"[{image.describe()}]; resample the labels",
                )
            usable.append(example)
        except InputError as error:
            skipped[example.name] = str(error)
    return usable, skipped


def _no_examples(skipped: dict[str, str]) -> str:
    reason = next(iter(skipped.values()), "none were given")
    return f"no training example of the segmenter is usable ({reason.rstrip('.')}); correct the files or give others"


def _centred_on_labels(image: Cached, labels: Path) -> Cached:
    """Centre patches on labelled voxels, equally many per class, so that small structures are sampled."""
    classes = np.load(labels, mmap_mode="r")
    rng = np.random.default_rng(0)
    places = []
    for value in np.unique(classes)[1:]:
        found = np.flatnonzero(classes == value)
        chosen = rng.choice(found, VOXELS_PER_CLASS, replace=len(found) < VOXELS_PER_CLASS)
        places.append(np.stack(np.unravel_index(chosen, classes.shape), 1).astype(np.int32))
    return replace(image, body=np.concatenate(places) if places else np.zeros((0, 3), np.int32))


def _fit(
    segmenter: Segmenter,
    stream: Iterable[Batch],
    *,
    steps: int,
    minutes: float | None,
    lr: float,
    seed: int,
    noisy: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Train in place; return the number of steps, the minutes and the mean loss of the last tenth of the steps."""
    network = segmenter.network.train()
    device = next(network.parameters()).device
    loss_of = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=1e-2)
    noise = torch.Generator(device).manual_seed(seed)
    losses: list[float] = []
    started = time.monotonic()
    for batch in stream:
        seconds = time.monotonic() - started
        progress = max(len(losses) / steps, seconds / (60 * minutes) if minutes else 0.0)
        if progress >= 1:
            break
        optimizer.param_groups[0]["lr"] = lr * schedule(progress)
        x = batch["source"].to(device)
        x = _noisy(x, noise) if noisy else x
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(x)
        loss = loss_of(logits.float(), batch["labels"].to(device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the segmenter's loss is not finite at step {len(losses)}; lower lr")
        if len(losses) % 100 == 0:
            say(f"step {len(losses)}, {seconds / 60:.1f} min: loss {np.mean(losses[-100:]):.3f}")
    last = losses[-max(1, len(losses) // 10) :]
    return {"steps": len(losses), "minutes": (time.monotonic() - started) / 60, "loss": float(np.mean(last))}


def schedule(progress: float) -> float:
    """Learning-rate factor: linear warm-up over the first twentieth, then half a cosine to 0."""
    if progress < WARM_UP:
        return (progress + 1e-3) / (WARM_UP + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def _noisy(x: Tensor, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise with a standard deviation drawn for each patch, up to 0.05 in encoded intensity."""
    sd = 0.05 * torch.rand(len(x), 1, 1, 1, 1, generator=generator, device=x.device)
    return x + sd * torch.randn(x.shape, generator=generator, device=x.device)

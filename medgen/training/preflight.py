"""What is refused before a training run begins, rather than hours into it."""

import tempfile
from pathlib import Path

import torch

from medgen import checkpoint
from medgen.data.prepare import Prepared
from medgen.data.slabs import fold_batch
from medgen.errors import InputError
from medgen.io.atomic import recovered
from medgen.io.lock import locked
from medgen.settings import Settings
from medgen.types import Batch


def check_method(settings: Settings) -> None:
    """That the method's networks take the patch: one step on the meta device, where nothing is computed."""
    if settings.label_source:
        _check_label_source(settings)
    patch, axis = settings.sampling.patch, settings.slab_axis
    with torch.device("meta"):
        method = checkpoint.build_method(settings)
        sides = {"source": settings.source_channels, "target": len(settings.data.targets)}
        batch: Batch = {side: torch.empty(2, n, *patch) for side, n in sides.items()} | {"step": 0}
        if settings.data.labels:
            batch["labels"] = torch.zeros(2, 1, *patch, dtype=torch.int64)
        if settings.data.domains:
            batch |= {side: torch.zeros(2, dtype=torch.int64) for side in ("source_domain", "target_domain")}
            batch["paired"] = torch.zeros(2, dtype=torch.bool)
        divisor: int = method.networks[method.generator].divisor  # type: ignore[assignment]
        if any(n % divisor for i, n in enumerate(patch) if i != axis):
            which = "every side" if axis is None else "both sides of a slice"
            raise InputError(
                "config-patch-multiple",
                f"sampling.patch={list(patch)}: {which} must be a multiple of {divisor} for this generator",
            )
        if axis is not None and getattr(method, "texture", 0) % patch[axis]:
            raise InputError(
                "config-texture-multiple",
                f"method.texture must be a multiple of the slab's {patch[axis]} slices; set it so",
            )
        if axis is not None:
            batch = fold_batch(batch, axis)
        try:
            method.step(batch, lambda name, loss: None)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                "config-patch-network-mismatch",
                f"sampling.patch={list(patch)} does not fit the networks of the method ({reason}); "
                "raise sampling.patch or lower method.generator.levels and method.adversary.layers",
            ) from None


def _check_label_source(settings: Settings) -> None:
    """That nothing is asked of label maps that only intensities have."""
    data, sampling = settings.data, settings.sampling
    wrong = {
        "data.paired": not data.paired,
        "data.sources": len(data.sources) > 1,
        "data.labels": data.labels,
        "data.align": data.align not in ("refuse", "resample"),
        "intensity.target.follow": settings.intensity.target.follow,
        "sampling.gamma": sampling.gamma > 0,
        "sampling.artefacts": bool(sampling.artefacts),
        "inference.transfer": settings.inference.transfer != "image",
    }
    for key in (key for key, found in wrong.items() if found):
        raise InputError(
            "config-source-labels-conflict", f"{key} as set makes no sense where the source is label maps; leave it out"
        )


def check_folder(out: Path, resume: bool) -> None:
    if not resume and recovered(out / "last").exists():
        with locked(out):  # says who writes it now, if anybody does
            pass
        raise InputError(
            "training-run-exists",
            f"{out} already holds a run; add --resume to go on with it or --overwrite to replace it, "
            "or choose another --out",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise InputError(
            "output-not-writable", f"run folder {out} cannot be written: {error.strerror}; choose another --out"
        ) from None


def check_data(prepared: Prepared, last: Path) -> None:
    old = checkpoint.read_info(recovered(last))[0].training_data
    if old["sha256"] != prepared.record["sha256"]:
        raise InputError(
            "training-images-changed",
            f"{last}: the training images have changed since the run began; start a new run with another --out",
        )


def check_same(settings: Settings, last: Path) -> None:
    """A run may go on for longer, but not as another one."""
    old = checkpoint.read_info(recovered(last))[1]
    if old.train.seed != settings.train.seed:
        raise InputError(
            "training-seed-changed",
            f"{last}: the run was started with train.seed={old.train.seed}; resume it with the same",
        )
    for section in ("data", "intensity", "sampling", "method"):
        if getattr(old, section) != getattr(settings, section):
            raise InputError(
                "training-section-changed",
                f"{last}: the run was started with another {section} section; resume it with its own config.yaml",
            )

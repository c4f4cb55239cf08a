"""Checks before a training run starts, so that a mistake does not surface hours into it."""

import tempfile
from pathlib import Path

import torch

from medgen import checkpoint
from medgen.data.cohort.layouts import shortened_list
from medgen.data.prepared import ModelData
from medgen.data.slabs import fold_batch
from medgen.errors import InputError
from medgen.io.atomic import recover
from medgen.io.lock import locked
from medgen.settings import Settings
from medgen.types import Batch


def check_method(settings: Settings) -> None:
    """Run one step on the meta device, where nothing is computed, to check that the patch fits the method's networks.

    Raises:
        InputError: the patch does not fit, or the settings contradict each other.
    """
    if settings.generative:
        _check_images_alone(settings)
    if settings.label_source:
        _check_label_source(settings)
    patch, axis = settings.sampling.patch, settings.slab_axis
    with torch.device("meta"):
        method = checkpoint.build_method(settings)
        sides = {"source": settings.source_channels, "target": len(settings.data.targets)}
        batch: Batch = {side: torch.empty(2, n, *patch) for side, n in sides.items() if n} | {"step": 0}
        if settings.data.labels:
            batch["labels"] = torch.zeros(2, 1, *patch, dtype=torch.int64)
        if settings.data.domains:
            batch |= {side: torch.zeros(2, dtype=torch.int64) for side in ("source_domain", "target_domain")}
            batch["paired"] = torch.zeros(2, dtype=torch.bool)
        divisor: int = method.networks[method.generator].divisor  # type: ignore[assignment]
        for key, sides_of in (("sampling.patch", patch), ("inference.patch", settings.inference.patch or patch)):
            if any(n % divisor for i, n in enumerate(sides_of) if i != axis):
                which = "every side" if axis is None else "both sides of a slice"
                raise InputError(
                    "config-patch-multiple",
                    f"{key}={list(sides_of)}: {which} must be a multiple of {divisor} for this generator",
                )
        if axis is not None and getattr(method, "texture", 0) % patch[axis]:
            raise InputError(
                "config-texture-multiple",
                f"method.texture must be a multiple of the slab's {patch[axis]} slices; change method.texture or "
                "sampling.patch",
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
                "raise sampling.patch or lower the levels and layers of method's networks (generator.levels, "
                "adversary.layers, classifier_layers)",
            ) from None


def _check_images_alone(settings: Settings) -> None:
    """Refuse settings that apply to a source or to pairs."""
    sampling = settings.sampling
    conflicts = {
        "data.align": settings.data.align != "refuse",
        "intensity.source.kind": settings.label_source,
        "intensity.target.follow": settings.intensity.target.follow,
        "sampling.gamma": sampling.gamma > 0,
        "sampling.few_cases": sampling.few_cases is not None and sampling.few_cases.gamma > 0,
        "sampling.artefacts": bool(sampling.artefacts),
    }
    for key in (key for key, conflict in conflicts.items() if conflict):
        raise InputError(
            "config-sources-needed",
            f"{key} applies to source images, and data.sources is empty; remove it from the config",
        )


def _check_label_source(settings: Settings) -> None:
    """Refuse settings that need an intensity image as the source."""
    data, sampling = settings.data, settings.sampling
    conflicts = {
        "data.paired": not data.paired,
        "data.sources": len(data.sources) > 1,
        "data.labels": data.labels,
        "data.align": data.align not in ("refuse", "resample"),
        "intensity.target.follow": settings.intensity.target.follow,
        "sampling.gamma": sampling.gamma > 0,
        "sampling.few_cases": sampling.few_cases is not None and sampling.few_cases.gamma > 0,
        "sampling.noise": sampling.noise > 0,
        "sampling.artefacts": bool(sampling.artefacts),
        "inference.transfer": settings.inference.transfer != "image",
    }
    for key in (key for key, conflict in conflicts.items() if conflict):
        raise InputError(
            "config-source-labels-conflict",
            f"{key} does not apply to label maps as the source; remove it from the config",
        )


def check_folder(out: Path, resume: bool) -> None:
    """Create the run folder. Raises InputError where it cannot be written, or holds a run and ``resume`` is off."""
    if not resume and recover(out / "last").exists():
        with locked(out):  # if a process is writing to it, the error names that process
            pass
        raise InputError(
            "training-run-exists",
            f"{out} already holds a run; add --resume to continue it or --overwrite to replace it (Python: "
            "resume=True, overwrite=True), or choose another --out",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise InputError(
            "output-not-writable", f"run folder {out} cannot be written: {error.strerror}; choose another --out"
        ) from None


def check_data(data: ModelData, last: Path) -> None:
    """Raises InputError where images of training or validation differ from those that ``last`` was trained with."""
    old, new = checkpoint.read_info(recover(last))[0].training_data, data.training_data
    changed = sorted(
        {case for part in ("training", "validation") for case in set(old.get(part, ())) ^ set(new.get(part, ()))}
    )
    if changed:
        raise InputError(
            "training-split-changed",
            f"{last}: {shortened_list(changed)} changed between training, validation and no use since the run started "
            f"(see training_data in {last / 'model.json'}); restore {last.parent / 'split.json'} and the split of the "
            "data set, or start a new run with another --out",
        )
    if old.get("label_maps") and old["label_maps"] != new.get("label_maps"):
        raise InputError(
            "training-labels-changed",
            f"{last}: label maps of training or validation, or the names of their values, have changed since the run "
            "started; restore them, or start a new run with another --out",
        )
    hashes = ["sha256", *(["validation_sha256"] if "validation_sha256" in old else [])]
    if any(old[key] != new[key] for key in hashes) or old.get("images", {}).keys() != new["images"].keys():
        raise InputError(
            "training-images-changed",
            f"{last}: images of training or validation have changed since the run started; restore them, or start a "
            "new run with another --out",
        )


def check_same(settings: Settings, last: Path) -> None:
    """Raises InputError if the seed or a section of ``last`` differs: data, intensity, sampling or method."""
    old = checkpoint.read_info(recover(last))[1]
    if old.train.seed != settings.train.seed:
        raise InputError(
            "training-seed-changed",
            f"{last}: the run was started with train.seed={old.train.seed}; resume it with that seed",
        )
    for section in ("data", "intensity", "sampling", "method"):
        if getattr(old, section) != getattr(settings, section):
            raise InputError(
                "training-section-changed",
                f"{last}: the run was started with a different {section} section; resume it with the "
                "config.yaml of its run folder",
            )

"""Train a model: prepare the cohort, then repeat steps, validations and checkpoints to the end of the schedule.

A run folder holds ``config.yaml`` (the settings used), ``split.json``, ``log.csv``, ``validation.csv``,
``tensorboard/``, ``panels/``, ``cache/`` and the model folders ``last`` and ``best``.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from lightning_fabric import Fabric
from torch import Tensor

from medgen import checkpoint
from medgen.config import plain
from medgen.data.labels.codec import LabelTable
from medgen.data.patches import Patches, batches
from medgen.data.prepare import prepare
from medgen.data.prepared import PatchData, Prepared, ValidationData
from medgen.io.atomic import recover, write_text
from medgen.io.claim import check_output_is_not_input, claimed
from medgen.models import model_folder
from medgen.settings import Settings
from medgen.training import preflight
from medgen.training.distributed import launch, shared_clock
from medgen.training.generative_validation import GenerativeValidator
from medgen.training.label_validation import LabelValidator
from medgen.training.log import Log, Progress
from medgen.training.loggers import check_loggers
from medgen.training.model_folder import forget_card, model_info, save, write_card
from medgen.training.run import Run, floats
from medgen.training.start_from import record_ancestors, start_from
from medgen.training.validation import Validator
from medgen.types import Batch

AnyValidator = Validator | LabelValidator | GenerativeValidator


def train(
    settings: Settings, out: Path, *, resume: bool = False, overwrite: bool = False, say: Callable[[str], None] = print
) -> Path:
    """Train a model as the settings describe.

    Args:
        settings: with ``data.root`` set.
        out: run folder; created if missing.
        resume: continue from ``out/last``; a finished run is left unchanged.
        overwrite: replace another run in ``out``, or without ``resume`` also this one; see ``io.claim``.
        say: receives the lines for the user.

    Returns:
        The folder of the best model, ``out/best``.

    Raises:
        InputError: the data or settings cannot be used, or ``out`` holds a run and ``resume`` is off.
        FloatingPointError: a loss became non-finite; ``last`` and ``best`` are intact.
    """
    preflight.check_method(settings)
    check_loggers(settings.train.loggers)
    if settings.data.root is not None:
        check_output_is_not_input(out, settings.data.root)
    start = settings.train.start_from
    if overwrite:  # which would delete them before they are read; a resumed run may use its own
        check_output_is_not_input(out, settings.data.split, start and model_folder(start))
    preflight.check_folder(out, resume or overwrite)
    if resume and not overwrite and (out / "last").exists():
        preflight.check_same(settings, out / "last")
    fabric = launch(settings)
    say = say if fabric.is_global_zero else lambda _: None
    claim = claimed(out, _identity(settings), overwrite=overwrite) if fabric.is_global_zero else nullcontext()
    with claim as own_claim:
        if own_claim is not None and overwrite and not resume:
            own_claim.clear()
        return _train_in_claimed_folder(settings, out, fabric, resume, say)


def _identity(settings: Settings) -> dict[str, Any]:
    """The settings that identify a run. A longer schedule, or data and run in another place, is still the same run."""
    parts = {key: getattr(settings, key).model_dump(mode="json") for key in ("intensity", "sampling", "method")}
    parts["data"] = settings.data.model_dump(mode="json", exclude={"root", "cache"})
    root, seed = settings.data.root, settings.train.seed
    return {"command": "train", "data.root": root, "train.seed": seed, **parts}


def _train_in_claimed_folder(
    settings: Settings, out: Path, fabric: Fabric, resume: bool, say: Callable[[str], None]
) -> Path:
    last = recover(out / "last") if fabric.is_global_zero else out / "last"
    fabric.barrier()
    resume = resume and last.exists()
    if resume:
        preflight.check_same(settings, last)
    if fabric.is_global_zero:  # align and cache the images once; the other processes then read the cache
        prepared = prepare(settings, out, resume=resume, say=say)
    fabric.barrier()
    if not fabric.is_global_zero:
        prepared = prepare(settings, out, resume=True, say=say)
    if settings.train.start_from is not None:
        earlier = checkpoint.read_info(last)[0].training_data if resume else None
        record_ancestors(prepared.model.training_data, prepared.test_images, settings.train.start_from, earlier, say)
    run = Run(settings, fabric)
    if resume:
        preflight.check_data(prepared.model, last)
        run.load_state(checkpoint.load_training(last, fabric.global_rank))
        say(f"resumed at step {run.step}")
    elif settings.train.start_from is not None:
        start_from(run.generator, settings.train.start_from, settings, say, _labels(prepared), prepared.model.spacing)
        run.average.load_state_dict(run.generator.state_dict())
    if fabric.is_global_zero:
        _write_settings(settings, out)
    fabric.barrier()
    _loop(run, prepared, out, say)
    return out / "best"


def _write_settings(settings: Settings, out: Path) -> None:
    write_text(out / "config.yaml", yaml.safe_dump(plain(settings), sort_keys=False))


def _labels(prepared: Prepared) -> Mapping[str, int] | None:
    """Values of the label maps that are the source; None if scans are."""
    table = next(iter(prepared.model.source_range), None)
    return table.labels if isinstance(table, LabelTable) else None


def _loop(run: Run, prepared: Prepared, out: Path, say: Callable[[str], None]) -> None:
    """Train to the end of the schedule; log, validate and save at their intervals and at the end."""
    schedule, fabric = run.settings.train, run.fabric
    log = Log(out, run.step, run.settings) if fabric.is_global_zero else None
    models = [out / "best", out / "last"] if fabric.is_global_zero else []
    for folder in models:
        forget_card(folder)
    validator = _validator(run.settings, prepared.validation)
    stream = _batches(run, prepared.patches)
    started, before = time.monotonic(), run.seconds

    def update_clock() -> None:
        run.seconds = shared_clock(fabric, before + time.monotonic() - started, schedule.minutes)

    with Progress(schedule.steps, schedule.minutes, log is not None) as progress:
        for batch in stream:
            if run.progress >= 1:
                break
            run.log_norms = (run.step + 1) % schedule.log_every == 0
            losses = run.train_step(_on_device(batch, fabric))
            update_clock()
            finished = run.progress >= 1
            if log:
                _log(run, log, losses, progress, finished)
            if run.step % schedule.validate_every == 0 or finished:
                _validate(run, prepared, out, validator, log, progress.say)
            if run.step % schedule.checkpoint_every == 0 or finished:
                save(run, prepared.model, out / "last", training=True)
            update_clock()
            if finished:
                break
    for folder in models:
        write_card(folder)
    if log:
        log.close()
        say(f"trained {run.step} steps in {run.seconds / 60:.1f} min; best model: {out / 'best'}")


def _validator(settings: Settings, data: ValidationData) -> AnyValidator:
    if settings.generative:
        return GenerativeValidator(data, settings.sampling.patch)
    return LabelValidator(data) if settings.label_source else Validator(data)


def _batches(run: Run, data: PatchData) -> Iterator[Batch]:
    """This process's batches from the run's current step to its last."""
    settings = run.settings
    patches = Patches(
        data.sources,
        data.targets,
        labels=data.labels,
        centres=data.centres,
        domains=data.domains,
        siblings=data.siblings,
        paired=settings.data.paired,
        seed=settings.train.seed,
        slab=settings.slab_axis,
        degradation=settings.data.degradation,
        **settings.sampling.augmentation(len(data.sources or data.targets)),
    )
    return batches(
        patches,
        batch=settings.sampling.batch,
        first_step=run.step,
        steps=settings.train.steps,
        rank=run.fabric.global_rank,
        world=run.fabric.world_size,
        workers=settings.sampling.workers,
    )


def _on_device(batch: Batch, fabric: Fabric) -> Batch:
    return {k: fabric.to_device(v) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _log(run: Run, log: Log, losses: dict[str, Tensor], progress: Progress, finished: bool) -> None:
    """Write a row of ``log.csv`` if it is due, and update the progress line."""
    if run.log_norms or finished:
        values = floats(losses)
        log.losses(run.step, run.seconds, values | run.training_diagnostics(values))
        _report_health(run, log.health(), progress.say)
    progress.show(run.step, run.seconds, losses, bool(run.health))


def _report_health(run: Run, problems: list[str], say: Callable[[str], None]) -> None:
    """Report each problem once, when it begins. The text before the colon identifies it; the numbers after it vary."""
    known = {problem.partition(":")[0] for problem in run.health}
    for problem in problems:
        if problem.partition(":")[0] not in known:
            say(f"step {run.step}: training warning: {problem}")
    run.health = problems


def _validate(
    run: Run,
    prepared: Prepared,
    out: Path,
    validator: AnyValidator,
    log: Log | None,
    say: Callable[[str], None],
) -> None:
    """Score whole volumes on the first process; save the model if it is the best so far."""
    if log is not None:
        model = checkpoint.Model(run.method, run.settings, model_info(run, prepared.model))
        with _averaged(run):
            scores = validator(model, out / "panels" / f"step_{run.step:07d}.png")
        run.curve.append({"step": run.step, **scores.values})
        log.validation(run.step, scores)
        say(f"step {run.step}: {scores}")
        run.idle = scores.objective >= scores.idle
        if run.settings.train.keep:
            save(run, prepared.model, out / "kept" / f"step_{run.step:07d}", training=False)
        if run.best is None or scores.objective < run.best:
            run.best = scores.objective
            save(run, prepared.model, out / "best", training=False)
    run.fabric.barrier()


@contextmanager
def _averaged(run: Run) -> Iterator[None]:
    """Let the method translate with the generator's moving average, in evaluation mode."""
    run.method.networks[run.method.generator] = run.average.eval()
    try:
        yield
    finally:
        run.method.networks[run.method.generator] = run.generator


def saved_steps(out: Path) -> str:
    """Tell the user which step an interrupted run has saved and how to continue."""
    last = out / "last"
    if not (last / "model.json").is_file():
        return f"no step of the run in {out} was saved yet; start the same command again"
    step = checkpoint.read_info(last)[0].step
    return f"{last} holds step {step}; add --resume to continue from there"

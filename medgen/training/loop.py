"""The training loop, the only one: data in, one method's steps, validation, checkpoints, resume.

A run folder holds ``config.yaml`` (as run), ``split.json``, ``log.csv``, ``validation.csv``, ``tensorboard/``,
``panels/``, ``cache/`` and the model folders ``last`` and ``best``.

Nothing random is carried from step to step: the patches of a step are a function of (seed, step), and torch's
generator is seeded anew at each step. So ``last`` is the whole state of a run, and a run killed at any moment
goes on to the weights that it would have reached undisturbed; bit for bit on CPU, and with ``train.minutes``
as far as the clock, which then sets the learning rate, allows.
"""

import copy
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen import checkpoint
from medgen.config import plain
from medgen.data.patches import Patches, batches
from medgen.data.prepare import Prepared, prepare
from medgen.errors import InputError
from medgen.io.atomic import folder_written_aside, recovered, write_text
from medgen.io.claim import apart, claimed
from medgen.methods.base import Method
from medgen.model_info import ModelInfo
from medgen.settings import Settings
from medgen.training import preflight as checks
from medgen.training.distributed import agree, average_gradients, launch, same_clock
from medgen.training.label_validation import LabelValidator
from medgen.training.log import Log, Progress
from medgen.training.validation import Validator
from medgen.types import Batch

IDLE = "by its own score the model was no better than leaving the scans as they are; train on, or look at the data"


class Run:
    """The state of a run, and what one step does to it."""

    def __init__(self, settings: Settings, fabric: Fabric) -> None:
        torch.manual_seed(settings.train.seed)
        self.settings, self.fabric = settings, fabric
        self.method: Method = checkpoint.build_method(settings)
        for module in (*self.method.networks.values(), *self.method.memory.values()):
            module.to(fabric.device)
        self.raw_optimizers = self.method.optimizers()
        for optimizer in self.raw_optimizers.values():
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        self.optimizers: dict[str, Any] = {k: fabric.setup_optimizers(o) for k, o in self.raw_optimizers.items()}
        self.generator = self.method.networks[self.method.generator]
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.step, self.seconds = 0, 0.0
        self.best: float | None = None
        self.curve: list[dict[str, float]] = []
        self.watched = False  # whether this step's gradient norms are wanted
        self.signs: dict[str, float] = {}
        self.health: list[str] = []
        self.idle = False  # whether the last validation was no better than leaving the scans as they are

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the method on this process's batch; returns its losses, checked to be finite.

        Raises:
            FloatingPointError: a loss is not finite; names the step, the losses and the cases.
        """
        train, fabric = self.settings.train, self.fabric
        torch.manual_seed(hash((train.seed, self.step, fabric.global_rank)) % 2**63)
        self._set_learning_rates()
        self.signs = {}
        for network in self.method.networks.values():
            network.train()
        with fabric.autocast():
            losses = self.method.step({**batch, "step": self.step}, self._update)
        finite = bool(torch.stack([loss.detach().float() for loss in losses.values()]).isfinite().all())
        if agree(fabric, not finite):
            shown = ", ".join(f"{k} {v:.4g}" for k, v in _floats(losses).items())
            cases = ", ".join(dict.fromkeys((*batch["source_case"], *batch["target_case"])))
            raise FloatingPointError(
                f"step {self.step + 1}: a loss is not finite ({shown}) on cases {cases}; the last checkpoint is "
                "untouched; lower method.lr, set train.clip, or look at these cases"
            )
        self._update_average()
        self.step += 1
        return losses

    def _update(self, name: str, loss: Tensor) -> None:
        """Zero grad, backward, mean over processes, clip, step.

        Gradients are averaged here rather than by DDP wrappers, which break on GANs in several ways
        (docs/decisions/data_parallel.md).
        """
        optimizer, parameters = self.optimizers[name], _parameters(self.raw_optimizers[name])
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.fabric.device.type, enabled=False):
            self.fabric.backward(loss)
            if self.fabric.world_size > 1:
                average_gradients([p.grad for p in parameters if p.grad is not None])
            if self.settings.train.clip is not None or self.watched:
                self.fabric.strategy.precision.unscale_gradients(self.raw_optimizers[name])
                norm = nn.utils.clip_grad_norm_(parameters, self.settings.train.clip or float("inf"))
                if self.watched:
                    self.signs[f"gradient_{name}"] = float(norm)
            optimizer.step()
        torch.clear_autocast_cache()  # else the step goes on with the low-precision copies of the old weights

    def training_diagnostics(self) -> dict[str, float]:
        """Learning rates, gradient norms and the discriminators' state, after a step that was watched."""
        signs = {f"lr_{k}": o.param_groups[0]["lr"] for k, o in self.raw_optimizers.items()} | self.signs
        for name, adversary in self.method.adversaries.items():
            signs |= {f"{name}/{k}": float(v) for k, v in adversary.health.items()}
            signs[f"{name}/diversity"] = adversary.diversity()
        return signs

    def _set_learning_rates(self) -> None:
        """Constant, then linear to zero, over steps or over the minutes given, whichever runs out first."""
        start, done = self.settings.train.decay_from, self.progress
        factor = 1.0 if done <= start else max(0.0, (1 - done) / (1 - start))
        for optimizer in self.raw_optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    @property
    def progress(self) -> float:
        train = self.settings.train
        by_time = self.seconds / (60 * train.minutes) if train.minutes else 0.0
        return max(self.step / train.steps, by_time)

    @torch.no_grad()
    def _update_average(self) -> None:
        # A young average follows faster, or it would keep the untrained weights for 1/(1 - ema) steps.
        decay = min(self.settings.train.ema, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for kept, buffer in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(buffer)

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "curve": self.curve,
            "health": self.health,
            "idle": self.idle,
            "networks": {k: n.state_dict() for k, n in self.method.networks.items()},
            "memory": {k: m.state_dict() for k, m in self.method.memory.items()},
            "optimizers": {k: o.state_dict() for k, o in self.raw_optimizers.items()},
            "average": self.average.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),  # the loss scale of 16-mixed
            "processes": self.fabric.world_size,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        self.best, self.curve = state["best"], state["curve"]
        self.health, self.idle = state["health"], state["idle"]
        for part in ("networks", "memory"):
            for k, module in getattr(self.method, part).items():
                module.load_state_dict(state[part][k])
        for k, optimizer in self.raw_optimizers.items():
            optimizer.load_state_dict(state["optimizers"][k])
        self.average.load_state_dict(state["average"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if state["processes"] != self.fabric.world_size:
            raise InputError(
                "training-processes-changed",
                f"the run was trained by {state['processes']} processes and cannot go on with "
                f"{self.fabric.world_size}; set train.devices and train.nodes as they were",
            )


def train(
    settings: Settings, out: Path, *, resume: bool = False, overwrite: bool = False, say: Callable[[str], None] = print
) -> Path:
    """Train as the settings say.

    Args:
        settings: with ``data.root`` set.
        out: run folder; made when missing.
        resume: go on from ``out/last``; a run that is complete is left as it is.
        overwrite: begin anew in the folder of another run, or without ``resume`` of this one, see ``io.claim``.
        say: takes lines for the user.

    Returns:
        The best model's folder, ``out/best``.

    Raises:
        InputError: data or settings that cannot be used, or ``out`` holds a run and resume is off.
        FloatingPointError: a loss became non-finite; ``last`` and ``best`` are intact.
    """
    checks.check_method(settings)
    if settings.data.root is not None:
        apart(out, settings.data.root)
    checks.check_folder(out, resume or overwrite)
    if resume and not overwrite and (out / "last").exists():
        checks.check_same(settings, out / "last")
    fabric = launch(settings)
    say = say if fabric.is_global_zero else lambda _: None
    claim = claimed(out, _about(settings), overwrite=overwrite) if fabric.is_global_zero else nullcontext()
    with claim as held:
        if held is not None and overwrite and not resume:
            held.clear()
        return _train(settings, out, fabric, resume, say)


def _about(settings: Settings) -> dict[str, Any]:
    """What makes a run the one that it is; it may go on for longer, and lie elsewhere together with its data."""
    parts = {key: getattr(settings, key).model_dump(mode="json") for key in ("intensity", "sampling", "method")}
    parts["data"] = settings.data.model_dump(mode="json", exclude={"root", "cache"})
    root, seed = settings.data.root, settings.train.seed
    return {"command": "train", "data.root": root, "train.seed": seed, **parts}


def _train(settings: Settings, out: Path, fabric: Fabric, resume: bool, say: Callable[[str], None]) -> Path:
    """``train``, once the run folder is claimed."""
    last = recovered(out / "last") if fabric.is_global_zero else out / "last"
    fabric.barrier()
    resume = resume and last.exists()
    if resume:
        checks.check_same(settings, last)
    if fabric.is_global_zero:  # registration and cache are made once; the others then find them
        prepared = prepare(settings, out, resume=resume, say=say)
    fabric.barrier()
    if not fabric.is_global_zero:
        prepared = prepare(settings, out, resume=True, say=say)
    run = Run(settings, fabric)
    if resume:
        checks.check_data(prepared, last)
        run.load_state(checkpoint.load_training(last, fabric.global_rank))
        say(f"resumed at step {run.step}")
    if fabric.is_global_zero:
        _write_settings(settings, out)
    fabric.barrier()
    _loop(run, prepared, out, say)
    return out / "best"


def _loop(run: Run, prepared: Prepared, out: Path, say: Callable[[str], None]) -> None:
    settings, fabric = run.settings, run.fabric
    log = Log(out, run.step) if fabric.is_global_zero else None
    validator = (LabelValidator if settings.label_source else Validator)(prepared)
    sampling = settings.sampling.model_dump(exclude={"batch", "workers", "foreground_classes"})
    patches = Patches(
        prepared.sources,
        prepared.targets,
        labels=prepared.labels,
        centres=prepared.centres,
        domains=prepared.domains,
        siblings=prepared.siblings,
        paired=settings.data.paired,
        seed=settings.train.seed,
        slab=settings.slab_axis,
        **sampling,
    )
    stream = batches(
        patches,
        batch=settings.sampling.batch,
        first_step=run.step,
        steps=settings.train.steps,
        rank=fabric.global_rank,
        world=fabric.world_size,
        workers=settings.sampling.workers,
    )
    started, before = time.monotonic(), run.seconds
    with Progress(settings.train.steps, settings.train.minutes, log is not None) as progress:
        for batch in stream:
            if run.progress >= 1:
                break
            run.watched = (run.step + 1) % settings.train.log_every == 0
            losses = run.train_step(_to(batch, fabric))
            run.seconds = same_clock(run.fabric, before + time.monotonic() - started, settings.train.minutes)
            finished = run.progress >= 1
            if log:
                if run.watched or finished:
                    log.losses(run.step, run.seconds, _floats(losses) | run.training_diagnostics())
                    _tell_health(run, log.health(), progress.say)
                progress.show(run.step, run.seconds, losses, bool(run.health))
            if run.step % settings.train.validate_every == 0 or finished:
                _validate(run, prepared, out, validator, log, progress.say)
            if run.step % settings.train.checkpoint_every == 0 or finished:
                _save(run, prepared, out / "last", training=True)
            run.seconds = same_clock(run.fabric, before + time.monotonic() - started, settings.train.minutes)
            if finished:
                break
    if log:
        log.close()
        say(f"trained {run.step} steps in {run.seconds / 60:.1f} min; best model: {out / 'best'}")


def _tell_health(run: Run, found: list[str], say: Callable[[str], None]) -> None:
    """Each fault is told when it begins; the sentence's own numbers do not make it another."""
    known = {sentence.partition(":")[0] for sentence in run.health}
    for sentence in found:
        if sentence.partition(":")[0] not in known:
            say(f"step {run.step}: training warning: {sentence}")
    run.health = found


def _validate(
    run: Run,
    prepared: Prepared,
    out: Path,
    validator: Validator | LabelValidator,
    log: Log | None,
    say: Callable[[str], None],
) -> None:
    """Score whole volumes on the first process; keep the best model."""
    if log is not None:
        model = checkpoint.Model(run.method, run.settings, _info(run, prepared))
        with _averaged(run):
            scores = validator(model, out / "panels" / f"step_{run.step:07d}.png")
        run.curve.append({"step": run.step, **scores.values})
        log.validation(run.step, scores)
        say(f"step {run.step}: {scores}")
        run.idle = scores.objective >= scores.idle
        if run.settings.train.keep:
            _save(run, prepared, out / "kept" / f"step_{run.step:07d}", training=False)
        better = run.best is None or scores.objective < run.best
        if better:
            run.best = scores.objective
            _save(run, prepared, out / "best", training=False)
    run.fabric.barrier()


class _averaged:
    """Within, the method translates with the generator's moving average, in evaluation mode."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __enter__(self) -> None:
        self.run.method.networks[self.run.method.generator] = self.run.average.eval()

    def __exit__(self, *_: object) -> None:
        self.run.method.networks[self.run.method.generator] = self.run.generator


def _info(run: Run, prepared: Prepared) -> ModelInfo:
    values = {
        "format": checkpoint.FORMAT,
        "settings": plain(run.settings),
        "source_range": [r.to_dict() for r in prepared.source_range],
        "target_range": [r.to_dict() for r in prepared.target_range],
        "spacing": prepared.spacing,
        "training_scans": prepared.scans,
        "training_targets": prepared.target_scans,
        "training_data": prepared.record,
        "step": run.step,
        "validation": run.curve[-1] if run.curve else {},
        "curve": run.curve,
        "health": [*run.health, *([IDLE] if run.idle else [])],
        "versions": {},
        "commit": None,
        "weights_sha256": "",
    }
    return ModelInfo.model_validate(values)


def _save(run: Run, prepared: Prepared, folder: Path, *, training: bool) -> None:
    """Write a model folder aside and rename it. Raises InputError; then what was there before still is."""
    try:
        _write_model(run, prepared, folder, training)
    except OSError as error:
        raise InputError(
            "training-state-not-written",
            f"{folder} cannot be written at step {run.step} ({error.strerror or error}), and what it held before is "
            "whole; free space, then go on with --resume",
        ) from None


def _write_model(run: Run, prepared: Prepared, folder: Path, training: bool) -> None:
    """Every process adds its own training state."""
    fabric = run.fabric
    weights = run.average if run.settings.train.ema else run.generator
    if fabric.world_size == 1 or not training:
        with folder_written_aside(folder) as aside:
            checkpoint.save_model(aside, weights, _info(run, prepared))
            if training:
                checkpoint.save_training(aside, run.state())
        return
    shared = folder.with_name(f".{folder.name}.parts")
    if fabric.is_global_zero:  # parts of a killed run do not belong to this one
        shutil.rmtree(shared, ignore_errors=True)
        shared.mkdir()
    fabric.barrier()
    checkpoint.save_training(shared, run.state(), fabric.global_rank)
    fabric.barrier()
    if fabric.is_global_zero:
        with folder_written_aside(folder) as aside:
            checkpoint.save_model(aside, weights, _info(run, prepared))
            for part in shared.iterdir():
                part.rename(aside / part.name)
    fabric.barrier()


def _write_settings(settings: Settings, out: Path) -> None:
    write_text(out / "config.yaml", yaml.safe_dump(plain(settings), sort_keys=False))


def saved_steps(out: Path) -> str:
    """What of a run is kept when it is stopped, and how to go on."""
    last = out / "last"
    if not (last / "model.json").is_file():
        return f"no step of the run in {out} was saved yet; start the same command again"
    step = checkpoint.read_info(last)[0].step
    return f"{last} holds step {step}; add --resume to go on from there"


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _to(batch: Batch, fabric: Fabric) -> Batch:
    return {k: fabric.to_device(v) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _floats(losses: dict[str, Tensor]) -> dict[str, float]:
    return {k: float(v.detach()) for k, v in losses.items()}

"""The state of a training run, and one training step.

Nothing random is carried from step to step: the patches of a step are a function of (seed, step), and torch's generator
is reseeded at each step. `Run.state` is therefore the whole state of a run. A run that is killed at any moment and then
resumed reaches the weights of an uninterrupted run: bit for bit on a CPU. With ``train.minutes`` the elapsed time sets
the learning rate, so the two runs agree only as far as their clocks do.
"""

import copy
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen import checkpoint
from medgen.errors import InputError
from medgen.methods.base import Method
from medgen.networks.precision import guard_small_convolutions
from medgen.settings import Settings
from medgen.training.distributed import any_process, average_gradients
from medgen.types import Batch


class Run:
    """Networks, optimizers, moving average and validation history of a run."""

    def __init__(self, settings: Settings, fabric: Fabric) -> None:
        torch.manual_seed(settings.train.seed)
        self.settings, self.fabric = settings, fabric
        self.method: Method = checkpoint.build_method(settings)
        for module in (*self.method.networks.values(), *self.method.memory.values()):
            module.to(fabric.device)
            guard_small_convolutions(module)
        self.raw_optimizers = self.method.optimizers()
        for optimizer in self.raw_optimizers.values():
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        self.optimizers: dict[str, Any] = {k: fabric.setup_optimizers(o) for k, o in self.raw_optimizers.items()}
        self.generator = self.method.networks[self.method.generator]
        self.average = copy.deepcopy(self.generator).requires_grad_(False).eval()
        self.step, self.seconds = 0, 0.0
        self.best: float | None = None  # the lowest validation objective so far
        self.curve: list[dict[str, float]] = []  # validation scores
        self.health: list[str] = []  # current training problems, see ``gan_health.diagnose``
        self.idle = False  # whether the last validation scored no better than the unconverted scans
        self.log_norms = False  # whether this step records its gradient norms
        self.gradient_norms: dict[str, float] = {}
        self._norms: dict[str, Tensor] = {}  # gradient norms of this step

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Run one step of the method on this process's batch.

        Returns:
            The losses by name, all finite.

        Raises:
            FloatingPointError: a loss or a gradient is not finite; the message names the step, the losses and the
                cases. The scaler of 16-bit training skips such gradients itself.
        """
        train, fabric = self.settings.train, self.fabric
        torch.manual_seed(hash((train.seed, self.step, fabric.global_rank)) % 2**63)
        self._set_learning_rates()
        self.gradient_norms, self._norms = {}, {}
        for network in self.method.networks.values():
            network.train()
        with fabric.autocast():
            losses = self.method.step({**batch, "step": self.step}, self._update)
        norms = {} if train.precision == "16-mixed" else {f"gradient of {k}": v for k, v in self._norms.items()}
        measured = losses | norms
        finite = bool(torch.stack([value.detach().float() for value in measured.values()]).isfinite().all())
        if any_process(fabric, not finite):
            values = ", ".join(f"{k} {v:.4g}" for k, v in floats(measured).items())
            cases = ", ".join(dict.fromkeys((*batch.get("source_case", ()), *batch["target_case"])))
            raise FloatingPointError(
                f"step {self.step + 1}: a loss or a gradient is not finite ({values}) on cases {cases}; the last "
                "checkpoint is unaffected; lower method.lr, set train.clip, or check these cases"
            )
        self._update_average()
        self.step += 1
        return losses

    def _update(self, name: str, loss: Tensor) -> None:
        """Zero the gradients, backpropagate, average over processes, clip, and step the optimizer.

        Gradients are averaged here and not by DDP wrappers, which break on GANs in several ways
        (docs/decisions/data_parallel.md).
        """
        optimizer, parameters = self.optimizers[name], _parameters(self.raw_optimizers[name])
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.fabric.device.type, enabled=False):
            self.fabric.backward(loss)
            if self.fabric.world_size > 1:
                average_gradients([p.grad for p in parameters if p.grad is not None])
            self.fabric.strategy.precision.unscale_gradients(self.raw_optimizers[name])
            norm = nn.utils.clip_grad_norm_(parameters, self.settings.train.clip or float("inf"))
            self._norms[name] = norm.detach()
            if self.log_norms:
                self.gradient_norms[f"gradient_{name}"] = float(norm)
            optimizer.step()
        torch.clear_autocast_cache()  # otherwise autocast keeps using low-precision copies of the old weights

    def training_diagnostics(self, losses: dict[str, float]) -> dict[str, float]:
        """Learning rates, gradient norms, discriminator health, and shares of ``losses`` in the generator's total.

        The weight of a term G_NAME, F_NAME or NAME is method.weight_NAME; terms without such a weight are not counted.
        """
        rates = {f"lr_{k}": o.param_groups[0]["lr"] for k, o in self.raw_optimizers.items()}
        diagnostics = rates | self.gradient_norms
        for name, adversary in self.method.adversaries.items():
            diagnostics |= {f"{name}/{k}": float(v) for k, v in adversary.health.items()}
            diagnostics[f"{name}/diversity"] = adversary.diversity()
        weights = {
            k: getattr(self.settings.method, f"weight_{k.removeprefix('G_').removeprefix('F_')}", None) for k in losses
        }
        terms = {k: abs(w * losses[k]) for k, w in weights.items() if w}
        total = sum(terms.values())
        return diagnostics | {f"share_{k}": term / total for k, term in terms.items() if total > 0}

    def _set_learning_rates(self) -> None:
        """Keep the learning rate constant until ``train.decay_from``, then decay it linearly to zero."""
        start, done = self.settings.train.decay_from, self.progress
        factor = 1.0 if done <= start else max(0.0, (1 - done) / (1 - start))
        for optimizer in self.raw_optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor

    @property
    def progress(self) -> float:
        """The completed fraction of the schedule, by steps or by minutes, whichever is further; 1: finished."""
        train = self.settings.train
        by_time = self.seconds / (60 * train.minutes) if train.minutes else 0.0
        return max(self.step / train.steps, by_time)

    @torch.no_grad()
    def _update_average(self) -> None:
        # A young average follows faster; otherwise it would keep the untrained weights for 1/(1 - ema) steps.
        decay = min(self.settings.train.ema, (1 + self.step) / (10 + self.step))
        for mean, now in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for kept, buffer in zip(self.average.buffers(), self.generator.buffers(), strict=True):
            kept.copy_(buffer)

    def state(self) -> dict[str, Any]:
        """Everything that `load_state` needs for an exact resume."""
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
        """Restore what `state` returned.

        Raises:
            InputError: the run was trained with another number of processes.
        """
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
                f"the run was trained with {state['processes']} processes and cannot be resumed with "
                f"{self.fabric.world_size}; set train.devices and train.nodes to the values of that run",
            )


def floats(losses: dict[str, Tensor]) -> dict[str, float]:
    """Loss values as Python floats; synchronises with the device."""
    return {k: float(v.detach()) for k, v in losses.items()}


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]

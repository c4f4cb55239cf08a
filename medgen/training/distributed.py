"""One process a device: starting them, and what they must agree on at every step."""

import os

import torch
from lightning_fabric import Fabric
from torch import Tensor

from medgen.errors import InputError
from medgen.settings import Settings


def launch(settings: Settings) -> Fabric:
    """Fabric with its processes: those that torchrun or SLURM's srun started, else started here.

    Raises:
        InputError: no such device, or another number of processes was started than the settings ask for.
    """
    train = settings.train
    _check_started(train.devices, train.nodes)
    several = train.devices * train.nodes > 1
    try:
        fabric = Fabric(
            accelerator=train.accelerator,
            devices=train.devices,
            num_nodes=train.nodes,
            precision=train.precision,
            strategy="ddp" if several else "auto",
        )
        fabric.launch()
    except Exception as error:  # Fabric's MisconfigurationException derives from nothing narrower
        reason = " ".join(str(error).split())
        raise InputError(
            "training-devices-unusable",
            f"train.accelerator={train.accelerator}, train.devices={train.devices}: {reason}",
        ) from None
    torch.backends.cudnn.benchmark = True  # patches keep one size
    torch.set_float32_matmul_precision("high")
    return fabric


def _check_started(devices: int, nodes: int) -> None:
    """Processes that do not know of each other would each train alone, into one folder."""
    by = "torchrun" if torch.distributed.is_torchelastic_launched() else "srun"
    started = os.environ.get("WORLD_SIZE" if by == "torchrun" else "SLURM_STEP_NUM_TASKS")
    if started is not None and int(started) != devices * nodes:
        raise InputError(
            "training-process-count",
            f"{by} started {started} processes, but train.devices={devices} on each of train.nodes={nodes} makes "
            f"{devices * nodes}; set both as {by} has them",
        )


def same_clock(fabric: Fabric, seconds: float, minutes: float | None) -> float:
    """The first process's clock: learning rates follow it under ``train.minutes`` and must not differ."""
    if fabric.world_size == 1 or minutes is None:
        return seconds
    clock = torch.tensor(seconds, dtype=torch.float64, device=fabric.device)
    torch.distributed.broadcast(clock, 0)
    return float(clock)


def agree(fabric: Fabric, stop: bool) -> bool:
    """Whether any process wants to stop; all must, or the others would wait for it for ever."""
    if fabric.world_size == 1:
        return stop
    flag = torch.tensor(float(stop), device=fabric.device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag > 0)


def average_gradients(gradients: list[Tensor]) -> None:
    """In place: the mean over processes, in one message."""
    flat = torch.cat([g.reshape(-1) for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    offset = 0
    for g in gradients:
        g.copy_(flat[offset : offset + g.numel()].view_as(g))
        offset += g.numel()

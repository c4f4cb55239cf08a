"""Start one process per device, and keep the processes consistent at every step."""

import os

import torch
from lightning_fabric import Fabric
from torch import Tensor

from medgen.errors import InputError
from medgen.networks.precision import has_bfloat16
from medgen.settings import Settings


def launch(settings: Settings) -> Fabric:
    """Fabric with its processes: those that torchrun or SLURM's srun started, or otherwise new ones.

    Raises:
        InputError: there is no such device, or the number of started processes differs from the settings.
    """
    train = settings.train
    _check_started(train.devices, train.nodes)
    several = train.devices * train.nodes > 1
    try:
        fabric = Fabric(
            accelerator=train.accelerator,
            devices=train.devices,
            num_nodes=train.nodes,
            precision=_precision(train.precision, train.accelerator),  # type: ignore[arg-type]
            strategy="ddp" if several else "auto",
        )
        fabric.launch()
    except Exception as error:  # Fabric's MisconfigurationException has no narrower base class
        reason = " ".join(str(error).split())
        raise InputError(
            "training-devices-unusable",
            f"train.accelerator={train.accelerator}, train.devices={train.devices}: {reason}",
        ) from None
    torch.backends.cudnn.benchmark = True  # the patch size is constant
    torch.set_float32_matmul_precision("high")
    return fabric


def _precision(named: str, accelerator: str) -> str:
    """``auto``: bf16-mixed where the processor computes in bfloat16, else 32-true: emulated, it is slower."""
    if named != "auto":
        return named
    if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        fast = has_bfloat16("cuda")
    else:
        fast = accelerator in ("auto", "cpu") and not torch.backends.mps.is_available() and has_bfloat16("cpu")
    return "bf16-mixed" if fast else "32-true"


def _check_started(devices: int, nodes: int) -> None:
    """Refuse a mismatch: processes that do not know of each other would each train alone, into one folder."""
    by = "torchrun" if torch.distributed.is_torchelastic_launched() else "srun"
    started = os.environ.get("WORLD_SIZE" if by == "torchrun" else "SLURM_STEP_NUM_TASKS")
    if started is not None and int(started) != devices * nodes:
        raise InputError(
            "training-process-count",
            f"{by} started {started} processes, but train.devices={devices} times train.nodes={nodes} makes "
            f"{devices * nodes}; set train.devices and train.nodes to match {by}",
        )


def shared_clock(fabric: Fabric, seconds: float, minutes: float | None) -> float:
    """The first process's elapsed seconds: with ``train.minutes`` learning rates follow it and must not differ."""
    if fabric.world_size == 1 or minutes is None:
        return seconds
    clock = torch.tensor(seconds, dtype=torch.float64, device=fabric.device)
    torch.distributed.broadcast(clock, 0)
    return float(clock)


def any_process(fabric: Fabric, stop: bool) -> bool:
    """Whether any process has to stop; then all must, because the others would wait for it forever."""
    if fabric.world_size == 1:
        return stop
    flag = torch.tensor(float(stop), device=fabric.device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag > 0)


def average_gradients(gradients: list[Tensor]) -> None:
    """Replace gradients in place by their mean over processes, in one message."""
    flat = torch.cat([g.reshape(-1) for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    offset = 0
    for g in gradients:
        g.copy_(flat[offset : offset + g.numel()].view_as(g))
        offset += g.numel()

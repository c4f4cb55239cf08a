"""Values that all processes of a training share."""

import torch
from torch import Tensor


def processes() -> tuple[int, int]:
    """Number of training processes, and the number of this one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1, 0
    return torch.distributed.get_world_size(), torch.distributed.get_rank()


def mean_of_processes(values: Tensor) -> Tensor:
    """Mean of the values of all processes; changes ``values``."""
    if processes()[0] == 1:
        return values
    torch.distributed.all_reduce(values)
    return values / processes()[0]


def rows_of_processes(rows: Tensor) -> Tensor:
    """The rows (B, ...) of all processes, one process after the other."""
    if processes()[0] == 1:
        return rows
    found = [torch.empty_like(rows) for _ in range(processes()[0])]
    torch.distributed.all_gather(found, rows.contiguous())
    return torch.cat(found)

"""Numbers that half precision would spoil, under autocast."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> torch.autocast:
    """A context without autocast on the device of x; on the meta device, which knows no autocast, without effect."""
    kind = x.device.type
    return torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False)

"""Full precision within autocast, where half precision is too inaccurate."""

import torch
from torch import Tensor


def full_precision(x: Tensor) -> torch.autocast:
    """Context without autocast on the device of x; no effect on the meta device, which does not support autocast."""
    kind = x.device.type
    return torch.autocast(kind if torch.amp.is_autocast_available(kind) else "cpu", enabled=False)

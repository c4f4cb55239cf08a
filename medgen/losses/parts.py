"""A loss in parts, each backpropagated at once, so that only the activations of one part exist at a time."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class Parts:
    """The sum of losses. Its value and its gradient are those of the sum; only the memory is less.

    `add` computes the gradient of a part, which frees its activations, and keeps the sum of the gradients, which are as
    large as the networks. Under autocast to float16 nothing is backpropagated early, because small gradients need the
    scaler of the training loop.

    Args:
        networks: the gradient is kept of their parameters, and of nothing else.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self.parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
        self.gradients: list[Tensor | None] = [None] * len(self.parameters)
        self.value: Tensor | None = None

    def add(self, loss: Tensor) -> None:
        """Add a part: a scalar with a graph, which is freed."""
        if not _scaled(loss):
            with torch.autocast(_kind(loss), enabled=False):
                found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            torch.clear_autocast_cache()  # else the next part reuses cast weights, whose graph is freed
            pairs = zip(self.gradients, found, strict=True)
            self.gradients = [new if old is None else old if new is None else old.add_(new) for old, new in pairs]
            loss = loss.detach()
        self.value = loss if self.value is None else self.value + loss

    def total(self) -> Tensor:
        """The sum, a scalar to backpropagate once.

        Raises:
            ValueError: no parts.
        """
        if self.value is None:
            raise ValueError("a loss needs at least one part")
        if self.value.requires_grad:
            return self.value
        return _Known.apply(self.value, self.gradients, *self.parameters)  # type: ignore[no-any-return]


def _kind(loss: Tensor) -> str:
    """Device type for autocast, which does not know tensors without data (the preflight of a training)."""
    return "cpu" if loss.is_meta else loss.device.type


def _scaled(loss: Tensor) -> bool:
    kind = _kind(loss)
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16


class _Known(torch.autograd.Function):
    """A value whose gradient with respect to parameters is known."""

    @staticmethod
    def forward(ctx, value: Tensor, gradients: list[Tensor | None], *_: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx, scale: Tensor):  # type: ignore[no-untyped-def]
        return None, None, *(None if g is None else g * scale for g in ctx.gradients)

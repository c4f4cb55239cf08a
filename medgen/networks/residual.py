"""A generator that predicts the difference from its input."""

from torch import Tensor, nn

from medgen.networks.init import CONVOLUTIONS


class Residual(nn.Module):
    """y = x + net(x), the network's last convolution zero at the start: translation begins as the identity.

    What needs no change is left alone, and full-resolution detail passes without going through the
    network. ``network`` must not end in tanh; the sum is not squashed, so values of x survive exactly.

    Args:
        network: (B, C_in, ...) → (B, 1, ...), same grid; initialised, for its last convolution is zeroed.
        channel: channel of x that the difference is added to.
    """

    def __init__(self, network: nn.Module, channel: int = 0) -> None:
        super().__init__()
        self.network, self.channel = network, channel
        self.divisor, self.smallest = network.divisor, network.smallest
        last = [module for module in network.modules() if isinstance(module, CONVOLUTIONS)][-1]
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    @property
    def encoder(self) -> list[nn.Module]:
        return self.network.encoder  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.channel : self.channel + 1] + self.network(x)

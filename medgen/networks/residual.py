"""A generator that predicts the difference from its input."""

from torch import Tensor, nn

from medgen.networks.blocks.init import CONVOLUTIONS


class Residual(nn.Module):
    """y = x[:, :C_out] + net(x), the network's last convolution zero at the start: translation begins as the identity.

    Or y = -x[:, :C_out] + net(x), which begins as the negative: where bright and dark change places (T1 and T2 MR),
    unpaired training from anywhere else may settle on the wrong one of the two, for only the tissues' shapes tell them
    apart.

    What needs no change is left alone, and full-resolution detail passes without going through the
    network. ``network`` must not end in tanh; the sum is not squashed, so values of x survive exactly.

    Args:
        network: (B, C_in, ...) → (B, C_out, ...), same grid; initialised, for its last convolution is zeroed.
        in_channels, out_channels: C_in and C_out; the difference is added to the first C_out channels of x.
        negative: to their negative.

    Raises:
        ValueError: more channels out than in.
    """

    def __init__(
        self, network: nn.Module, *, in_channels: int = 1, out_channels: int = 1, negative: bool = False
    ) -> None:
        super().__init__()
        if out_channels > in_channels:
            raise ValueError(
                f"a residual generator adds to its input, so it has no more channels out ({out_channels}) than in "
                f"({in_channels}); set residual to false"
            )
        self.network, self.out_channels, self.sign = network, out_channels, -1 if negative else 1
        self.divisor, self.smallest = network.divisor, network.smallest
        last = [module for module in network.modules() if isinstance(module, CONVOLUTIONS)][-1]
        nn.init.zeros_(last.weight)
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    @property
    def encoder(self) -> list[nn.Module]:
        return self.network.encoder  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return self.sign * x[:, : self.out_channels] + self.network(x)

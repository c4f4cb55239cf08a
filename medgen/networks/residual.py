"""A generator that predicts the difference from its input."""

from torch import Tensor, nn

from medgen.networks.blocks.init import CONVOLUTIONS


class Residual(nn.Module):
    """y = x[:, :C_out] + net(x); the network's last convolution starts at zero, so translation starts as the identity.

    With ``negative``, y = -x[:, :C_out] + net(x) starts as the negation. Use it if bright and dark tissues are swapped
    (T1 and T2 MR): unpaired training from another start may converge to the wrong polarity, because only the shapes of
    tissues distinguish the two polarities.

    Unchanged voxels need no learning, and full-resolution detail bypasses the network. ``network`` must not end in
    tanh, and the sum is not squashed, so values of x can be kept exactly.

    Args:
        network: (B, C_in, ...) → (B, C_out, ...), same grid, already initialised: its last convolution is set to zero.
        in_channels, out_channels: C_in and C_out; the difference is added to the first C_out channels of x.
        negative: add it to the negated channels.

    Raises:
        ValueError: more output than input channels.
    """

    def __init__(
        self, network: nn.Module, *, in_channels: int = 1, out_channels: int = 1, negative: bool = False
    ) -> None:
        super().__init__()
        if out_channels > in_channels:
            raise ValueError(
                f"a residual generator adds to its input, so it cannot have more output channels ({out_channels}) than "
                f"input channels ({in_channels}); set residual to false"
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

"""The projector of CUT: a two-layer perceptron for each layer of compared features (Park 2020)."""

from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.networks.blocks.init import initialise


class PatchMLP(nn.Module):
    """Map features at sampled positions of each layer to unit vectors.

    The paper's code creates the perceptrons at the first call. Here the numbers of channels are arguments, so that
    optimizers, resume and several processes need no special handling.

    Args:
        channels: number of channels of each layer.
        width: width of the perceptrons and their output (paper: 256).
    """

    def __init__(self, channels: list[int], width: int = 256) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(n, width), nn.ReLU(), nn.Linear(width, width)) for n in channels
        )
        initialise(self, "xavier")

    def forward(self, features: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        """Layers of (B, C, X, Y[, Z]) and S flat indices each → layers of (B, S, width), L2-normalised."""
        projected = []
        for f, indices, layer in zip(features, places, self.layers, strict=True):
            sampled: Tensor = f.flatten(2).index_select(2, indices).transpose(1, 2)
            projected.append(nnf.normalize(layer(sampled).float(), dim=2))
        return projected

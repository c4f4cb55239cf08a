"""The projector of CUT: a two-layer perceptron for each layer whose features are compared (Park 2020)."""

from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.networks.blocks.init import initialise


class PatchMLP(nn.Module):
    """Features at some places of a layer → unit vectors in a space of their own.

    The paper's code makes the perceptrons when it first sees features; here the channels are asked for
    beforehand, so that optimizers, resume and several processes need no special care.

    Args:
        channels: of each layer.
        width: of the perceptrons and their output (paper: 256).
    """

    def __init__(self, channels: list[int], width: int = 256) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(n, width), nn.ReLU(), nn.Linear(width, width)) for n in channels
        )
        initialise(self, "xavier")

    def forward(self, features: list[Tensor], places: list[Tensor]) -> list[Tensor]:
        """Layers of (B, C, X, Y[, Z]) and S flat indices each → layers of (B, S, width), L2-normalised."""
        found = []
        for f, at, layer in zip(features, places, self.layers, strict=True):
            here: Tensor = f.flatten(2).index_select(2, at).transpose(1, 2)
            found.append(nnf.normalize(layer(here).float(), dim=2))
        return found

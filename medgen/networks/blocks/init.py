"""Weight initialisation as in the papers: normal (pix2pix, CycleGAN) or Xavier (CUT, SPADE), gain 0.02.

Both assume a norm after each convolution, which undoes the small gain. Without norms, signals would shrink by a third
per layer; Kaiming initialisation (He 2015) prevents this.
"""

from typing import Literal

from torch import nn

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
AFFINE_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm2d, nn.InstanceNorm3d, nn.GroupNorm)


def initialise(
    network: nn.Module, kind: Literal["normal", "xavier", "kaiming"] = "normal", gain: float = 0.02
) -> nn.Module:
    """Weights ~ N(0, gain²), Xavier-normal with ``gain`` or Kaiming-normal; biases 0; norm scales ~ N(1, gain²)."""
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            if kind == "normal":
                nn.init.normal_(module.weight, 0.0, gain)
            elif kind == "xavier":
                nn.init.xavier_normal_(module.weight, gain)
            else:
                nn.init.kaiming_normal_(module.weight, a=0.2)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, AFFINE_NORMS) and module.weight is not None:
            nn.init.normal_(module.weight, 1.0, gain)
            nn.init.zeros_(module.bias)
    return network

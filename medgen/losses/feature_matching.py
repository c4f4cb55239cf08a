"""Feature matching: a translation should give the same discriminator features as a real image."""

import torch
from torch import Tensor

Features = list[list[Tensor]]  # for each scale, the outputs of each layer


def feature_matching_loss(real: Features, fake: Features) -> Tensor:
    """Return Σ_i mean |Dᵢ(real) - Dᵢ(fake)| over the layers i, averaged over scales (pix2pixHD, Wang 2018, eq. 4).

    Pass the features without the logits. No gradient flows to ``real``. The result is a scalar.
    """
    scales = [
        torch.stack([(r.detach() - f).abs().mean() for r, f in zip(a, b, strict=True)]).sum()
        for a, b in zip(real, fake, strict=True)
    ]
    return torch.stack(scales).mean()

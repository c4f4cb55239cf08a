"""Feature matching: a translation must give the same discriminator features as the true image."""

import torch
from torch import Tensor

Features = list[list[Tensor]]  # for each scale, the outputs of each layer


def feature_matching_loss(real: Features, fake: Features) -> Tensor:
    """Σ_i ‖Dᵢ(real) - Dᵢ(fake)‖₁ over the layers, each a mean, averaged over scales (pix2pixHD, Wang 2018, eq. 4).

    Pass features without the logits. No gradient flows to ``real``. Returns a scalar.
    """
    scales = [
        torch.stack([(r.detach() - f).abs().mean() for r, f in zip(a, b, strict=True)]).sum()
        for a, b in zip(real, fake, strict=True)
    ]
    return torch.stack(scales).mean()

"""StyleGAN in 3D: a generator controlled by styles (Karras et al., CVPR 2019; StyleGAN2, CVPR 2020).

    w = f(z), z ~ N(0, 1);   y = synthesis(w, noise)
    AdaIN        y_s (h - μ(h)) / σ(h) + y_b                                                    (2019, eq. 1)
    modulation   w'_ijk = s_i w_ijk,  w''_ijk = w'_ijk / √(Σ_ik w'_ijk² + ε)                    (2020, eq. 1 and 3)
    min_D  E[-log D(x)] + E[-log(1 - D(y))] + γ/2 E‖∇D(x)‖²                                     (R1, Mescheder 2018)
    min_G  E[-log D(y)]

f: mapping network, w: style, which acts on each layer of the synthesis network; the noise makes fine texture. In a
share of the steps the styles of two z are mixed, each on some of the layers. Samples are drawn nearer to the mean style
(truncation ψ).
Differences from the papers: the strength of the noise learns slowly (``noise_rate``); no path length regularisation,
no progressive growing; D is a PatchGAN without residual layers that sees the whole of a small patch; the image is
squashed by tanh; D is updated before G.
"""

from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from medgen.losses.adversary import AdversarySettings
from medgen.methods.base import NAME, GenerativeSettings
from medgen.methods.shared.gan import CodeGAN, codes
from medgen.networks.stylegan import StyleGANSettings, StyleGenerator
from medgen.types import DataShape


class Settings(GenerativeSettings):
    least_batch: ClassVar[int] = 2

    name: Literal["stylegan"] = Field("stylegan", description=NAME)
    generator: StyleGANSettings = Field(StyleGANSettings(), description="f and synthesis network")
    adversary: AdversarySettings = Field(
        AdversarySettings(
            objective="non_saturating", filters=16, layers=3, norm="none", minibatch="std", r1=1.0, r1_every=8, lr=3e-4
        ),
        description="D, the discriminator of images, with R1 (γ: r1) and the spread of its batch",
    )
    mixing: Annotated[float, Field(ge=0, le=1)] = Field(
        0.9, description="share of the steps whose images have the styles of two codes (paper: 0.9)"
    )
    lr: float = Field(2e-3, gt=0, description="learning rate of G (papers: 2e-3)")
    betas: tuple[float, float] = Field((0.0, 0.99), description="betas of Adam, for both networks (papers: 0, 0.99)")


class StyleGAN(CodeGAN):
    """Generate images whose layers have styles; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        G = StyleGenerator(settings.generator, channels=data.out_channels, patch=data.patch)
        super().__init__(settings, G, data.out_channels)

    def draw(self, x: Tensor) -> Tensor:
        """Images of codes; in a share of the steps, each image has the styles of two codes."""
        G = cast(StyleGenerator, self.networks["G"])
        z, other = codes(x, G.latent), codes(x, G.latent)
        if torch.rand((), device="cpu") >= self.settings.mixing:
            return G(z)
        return G(z, other, int(torch.randint(1, len(G.layers), (), device="cpu")))

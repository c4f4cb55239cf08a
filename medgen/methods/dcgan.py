"""DCGAN: generative adversarial network of convolutions (Goodfellow et al., 2014; Radford et al., ICLR 2016), in 3D.

    max_D  E[log D(x)] + E[log(1 - D(G(z)))],   z ~ N(0, 1)                                     (Goodfellow, eq. 1)
    G:     min E[log(1 - D(G(z)))]              minimax
           max E[log D(G(z))]                   non_saturating
           max E[exp(σ⁻¹(D(G(z))))]             maximum_likelihood (Goodfellow 2016, section 3.2.4)

``method.adversary.objective`` chooses, also among hinge, least squares and Wasserstein. With maximum_likelihood and the
best D, whose odds are p(x) / p_G(x), the gradient of G is that of the likelihood of the data. Against a generator that
makes the same image again and again, ``method.adversary.minibatch`` shows D the differences within a batch (Salimans
2016). With ``method.generator.norm`` reference or virtual, an image does not depend on the others of its batch.
Differences from the paper: D is a PatchGAN that sees the whole of a small patch (docs/decisions/adversary.md); G
interpolates and convolves in place of transposed convolutions, which leave a lattice; group norm and spectral norm by
default (docs/decisions/norms.md); D is updated before G.
"""

from typing import Literal

from pydantic import Field

from medgen.losses.adversary import AdversarySettings
from medgen.methods.base import NAME, GenerativeSettings
from medgen.methods.shared.gan import CodeGAN
from medgen.networks.dcgan import CodeGenerator, DCGANSettings
from medgen.types import DataShape


class Settings(GenerativeSettings):
    name: Literal["dcgan"] = Field("dcgan", description=NAME)
    generator: DCGANSettings = Field(DCGANSettings(), description="G, from codes to images")
    adversary: AdversarySettings = Field(
        AdversarySettings(objective="non_saturating", filters=16, layers=3, norm="none", spectral_norm=True),
        description="D, the discriminator of images, and the objective of both",
    )
    lr: float = Field(2e-4, gt=0, description="learning rate (paper: 2e-4)")
    betas: tuple[float, float] = Field((0.5, 0.999), description="betas of Adam, for both networks (paper: 0.5, 0.999)")


class DCGAN(CodeGAN):
    """Generate images from codes by an adversarial game; learns from images alone (``data.sources: []``)."""

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings = settings
        G = CodeGenerator(settings.generator, channels=data.out_channels, patch=data.patch)
        super().__init__(settings, G, data.out_channels)

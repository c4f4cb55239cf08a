"""CUT and FastCUT: contrastive learning for unpaired image-to-image translation (Park et al., ECCV 2020).

    L = L_GAN(G, D, X, Y) + λ_X L_PatchNCE(G, H, X) + λ_Y L_PatchNCE(G, H, Y)                   (eq. 5)

x ∈ X: source, y ∈ Y: target, of different patients, ŷ = G(x). The features of each patch of ŷ must be more similar to
those of the same patch of x than to those of other patches of x. The features come from G's own encoder, followed by
the projector H. This keeps anatomy in place while its appearance may change. There is one generator and one
discriminator, and no inverse translation. CUT: λ_X = λ_Y = 1 (as in the authors' code, the mean of the two terms).
FastCUT: λ_X = 10, λ_Y = 0, and in half of the steps G gets the mirrored image, whose features, mirrored back, must
match those of the original image. SinCUT, which learns from one volume per domain, is configs/paper/sincut.yaml.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, AdversarySettings, optimizers
from medgen.losses.patchnce import patch_nce, sample_places
from medgen.losses.preserve import Preserve, PreserveSettings
from medgen.methods.base import NAME, MethodSettings
from medgen.networks.blocks.background import keep_background
from medgen.networks.generator import GeneratorSettings, build_generator, features
from medgen.networks.patch_mlp import PatchMLP
from medgen.types import Batch, Count, DataShape, Update, Weight


class Settings(MethodSettings):
    name: Literal["cut"] = Field("cut", description=NAME)
    generator: GeneratorSettings = Field(
        GeneratorSettings(antialias=True), description="G, from source to target; its encoder gives the features"
    )
    adversary: AdversarySettings = Field(
        AdversarySettings(antialias=True), description="D, the discriminator of target images"
    )
    preserve: PreserveSettings = Field(PreserveSettings(), description="further losses between input and output")
    keep_background: bool = Field(
        False,
        description="keep voxels encoded as -1 in the source (a masked background) at -1 in the same output channel",
    )
    nce_layers: tuple[int, ...] | None = Field(
        None,
        description="stages of G's encoder whose features are compared; 0 is the image itself; null: for a ResNet the "
        "image, both halvings, blocks 1 and 5 (paper), for a U-Net all but the deepest",
    )
    nce_patches: Count = Field(256, description="positions compared in each layer (paper: 256)")
    nce_width: Count = Field(256, description="width of the projector H (paper: 256)")
    temperature: Annotated[float, Field(gt=0)] = Field(0.07, description="τ of PatchNCE (paper: 0.07)")
    weight_gan: Weight = Field(
        2.0,
        description="weight of the adversarial loss; 2 equals the paper, whose least-squares loss of G has no factor ½",
    )
    weight_nce: Weight = Field(1.0, description="weight of PatchNCE (λ_X; CUT: 1, FastCUT: 10)")
    nce_identity: bool = Field(True, description="also compare a target y with G(y) (CUT: true, FastCUT: false)")
    flip_equivariance: bool = Field(
        False,
        description="mirror G's input in half of the steps and compare features after mirroring back (FastCUT: true)",
    )
    weight_identity: Weight = Field(0.0, description="weight of the L1 distance of a target y to G(y) (SinCUT: 1)")


class CUT:
    """Unpaired translation in one direction."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        if data.in_channels != data.out_channels:
            raise ValueError(
                "CUT applies one encoder to input and output, so both need the same number of channels; "
                f"got {data.in_channels} and {data.out_channels}"
            )
        dims, channels = settings.spatial_dims, data.in_channels
        G = build_generator(
            settings.generator, spatial_dims=dims, in_channels=channels, out_channels=channels, init="xavier"
        )
        n_stages = len(G.encoder)  # type: ignore[arg-type]
        default = (0, 2, 3, 4, min(8, n_stages)) if settings.generator.name == "resnet" else tuple(range(n_stages))
        requested = settings.nce_layers
        self.layers = requested if requested is not None else tuple(sorted({n for n in default if n <= n_stages}))
        # numbers of channels of the encoder's stages, measured with a test input
        side: int = G.smallest  # type: ignore[assignment]
        probe = torch.zeros(1, channels, *(side,) * dims, device=next(G.parameters()).device)
        with torch.no_grad():
            widths = [f.shape[1] for f in features(G, probe, self.layers)]
        H = PatchMLP(widths, settings.nce_width)
        D = Adversary(settings.adversary, spatial_dims=dims, in_channels=channels)
        self.settings = settings
        self.preserve = Preserve(settings.preserve, spatial_dims=dims, data=data)
        self.networks: dict[str, nn.Module] = {"G": G, "H": H, "D": D.network, **self.preserve.networks}
        self.adversaries = {"D": D}
        self.memory: dict[str, nn.Module] = {"pool": D.pool}

    def optimizers(self) -> dict[str, Optimizer]:
        learn = [self.networks["G"], self.networks["H"]]
        return optimizers(
            learn, list(self.adversaries.values()), self.settings.lr, self.settings.betas, self.preserve.networks
        )

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G and H. ``batch``: "source" x, "target" y (B, C, X, Y, Z) in [-1, 1]."""
        x, y, n, s = batch["source"], batch["target"], batch["step"], self.settings
        D = self.adversaries["D"]
        both = torch.cat([x, y]) if s.nce_identity or s.weight_identity else x
        mirrored = s.flip_equivariance and coin(n)
        out = self.translate(both.flip(2) if mirrored else both)
        y_hat, y_same = out[: len(x)], out[len(x) :]

        aligned = y_hat.flip(2) if mirrored else y_hat  # oriented like x
        losses = self.preserve.learn(x, aligned, batch, update)
        losses["D"] = D.discriminator_loss(y, y_hat, n)
        update("D", losses["D"])
        if not D.generators_turn(n):
            return losses
        losses["G_gan"] = D.generator_loss(y_hat)
        losses["nce"] = nce = self.nce(x, y_hat, mirrored, n)
        if s.nce_identity:
            losses["nce_identity"] = self.nce(y, y_same, mirrored, n)
            nce = (nce + losses["nce_identity"]) / 2
        total = s.weight_gan * losses["G_gan"] + s.weight_nce * nce
        if s.weight_identity:
            losses["identity"] = (y_same - (y.flip(2) if mirrored else y)).abs().mean()
            total = total + s.weight_identity * losses["identity"]
        preserve_losses, preserve_total = self.preserve(x, aligned, batch)
        losses |= preserve_losses
        update("G", total + preserve_total)
        return losses

    def nce(self, x: Tensor, y_hat: Tensor, mirrored: bool, step: int) -> Tensor:
        """PatchNCE between x and its translation, mean over layers; ``mirrored``: x was mirrored before translation."""
        G, H = self.networks["G"], self.networks["H"]
        with torch.no_grad():  # keys get no gradient, so their graph is not kept
            keys = features(G, x, self.layers)
            places = sample_places(keys, self.settings.nce_patches, step)
            keys = H(keys, places)
        torch.clear_autocast_cache()  # otherwise queries reuse the keys' cast weights, without gradient
        queries = features(G, y_hat, self.layers)
        if mirrored:
            queries = [q.flip(2) for q in queries]
        pairs = zip(H(queries, places), keys, strict=True)
        return torch.stack([patch_nce(z, v, self.settings.temperature) for z, v in pairs]).mean()

    def translate(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) in [-1, 1] → the same grid."""
        y_hat = self.networks["G"](x)
        return keep_background(x, y_hat) if self.settings.keep_background else y_hat


def coin(step: int) -> bool:
    """Random boolean that is the same in all processes."""
    return bool(torch.rand((), generator=torch.Generator("cpu").manual_seed(step), device="cpu") < 0.5)

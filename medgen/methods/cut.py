"""CUT and FastCUT: contrastive learning for unpaired image-to-image translation (Park et al., ECCV 2020).

    L = L_GAN(G, D, X, Y) + λ_X L_PatchNCE(G, H, X) + λ_Y L_PatchNCE(G, H, Y)                   (eq. 5)

x ∈ X: source, y ∈ Y: target, of different patients, ŷ = G(x). A patch of ŷ must find its own patch of x among
others of x, in the features of G's own encoder seen through the projector H: what is where stays, how it looks
may change. One generator and one discriminator, no way back. CUT: λ_X = λ_Y = 1 (as the authors' code, the mean
of the two terms). FastCUT: λ_X = 10, λ_Y = 0, and half of the time G is given the mirrored image, of which the
features, mirrored back, must be those of the unmirrored one. SinCUT, from a single volume a side, is
configs/paper/sincut.yaml.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from medgen.arguments import deal
from medgen.losses.adversarial import Objective
from medgen.losses.adversary import Adversary, optimizers
from medgen.losses.patchnce import patch_nce, sample_places
from medgen.losses.preserve import Preserve
from medgen.networks.blocks.background import background_kept
from medgen.networks.generator import GeneratorName, Norm, Start, build_generator, features
from medgen.networks.patch_mlp import PatchMLP
from medgen.types import Batch, Count, Update, Weight


class CUT:
    """Unpaired translation in one direction.

    Args:
        spatial_dims: 3, or 2 for slices.
        in_channels, out_channels: contrasts of X and of Y; as many of both, for G's encoder reads both.
        generator, filters, levels, blocks, kernel, norm, dropout, upsample, stem, detail, antialias: see ``networks``.
        residual: G predicts the difference from its input, or from the input's negative.
        keep_background: what is coded -1 in the source (a masked background) stays -1 in the same channel.
        nce_layers: stages of G's encoder whose features are compared; 0 is the image itself (paper's ResNet:
            image, both halvings, blocks 1 and 5); none: that for a ResNet, for a U-Net all but the deepest stage.
        nce_patches: places of each layer (paper: 256).
        nce_width: of the projector (paper: 256).
        temperature: τ (paper: 0.07).
        weight_gan: of generator_loss; 2 is the paper's balance, whose least squares for G have no ½.
        weight_nce: λ_X (CUT: 1, FastCUT: 10).
        nce_identity: also compare y with G(y) (λ_Y; CUT: on, FastCUT: off).
        flip_equivariance: FastCUT: on.
        weight_identity: of ‖G(y) - y‖₁ (SinCUT: 1).
        objective: adversarial loss (paper: least_squares).
        lr, betas: of Adam, for all networks.
        and those of ``losses.adversary`` and ``losses.preserve``.
    """

    generator = "G"

    def __init__(
        self,
        *,
        spatial_dims: Literal[2, 3] = 3,
        in_channels: Count = 1,
        out_channels: Count = 1,
        generator: GeneratorName = "resnet",
        filters: Count = 64,
        levels: Count = 8,
        blocks: Count = 9,
        kernel: Count = 7,
        norm: Norm = "instance",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        upsample: Literal["deconv", "resize"] = "deconv",
        stem: Annotated[int, Field(ge=0)] = 0,
        detail: Annotated[int, Field(ge=0)] = 0,
        antialias: bool = True,
        residual: Start = False,
        keep_background: bool = False,
        nce_layers: tuple[int, ...] | None = None,
        nce_patches: Count = 256,
        nce_width: Count = 256,
        temperature: Annotated[float, Field(gt=0)] = 0.07,
        weight_gan: Weight = 2.0,
        weight_nce: Weight = 1.0,
        nce_identity: bool = True,
        flip_equivariance: bool = False,
        weight_identity: Weight = 0.0,
        objective: Objective = "least_squares",
        discriminator_antialias: bool = True,
        lr: Annotated[float, Field(gt=0)] = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        **shared: Annotated[Any, Adversary, Preserve],
    ) -> None:
        if in_channels != out_channels:
            raise ValueError(
                "CUT's encoder reads input and output, so they need as many channels; "
                f"got {in_channels} and {out_channels}"
            )
        G = build_generator(
            generator,
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            filters=filters,
            norm=norm,
            residual=residual,
            init="xavier",
            levels=levels,
            blocks=blocks,
            kernel=kernel,
            dropout=dropout,
            upsample=upsample,
            stem=stem,
            detail=detail,
            antialias=antialias,
        )
        every = len(G.encoder)  # type: ignore[arg-type]
        default = (0, 2, 3, 4, min(8, every)) if generator == "resnet" else tuple(range(every))
        self.layers = nce_layers if nce_layers is not None else tuple(sorted({n for n in default if n <= every}))
        # the encoder's widths, asked of it rather than known here
        side: int = G.smallest  # type: ignore[assignment]
        probe = torch.zeros(1, in_channels, *(side,) * spatial_dims, device=next(G.parameters()).device)
        with torch.no_grad():
            channels = [f.shape[1] for f in features(G, probe, self.layers)]
        H = PatchMLP(channels, nce_width)
        adversary, preserve = deal(shared, Adversary, Preserve)
        D = Adversary(
            spatial_dims=spatial_dims,
            in_channels=out_channels,
            objective=objective,
            discriminator_antialias=discriminator_antialias,
            **adversary,
        )
        self.preserve = Preserve(
            spatial_dims=spatial_dims, in_channels=in_channels, out_channels=out_channels, **preserve
        )
        self.networks: dict[str, nn.Module] = {"G": G, "H": H, "D": D.network, **self.preserve.networks}
        self.adversaries = {"D": D}
        self.memory: dict[str, nn.Module] = {"pool": D.pool}
        self.patches, self.temperature, self.keep_background = nce_patches, temperature, keep_background
        self.weight_gan, self.weight_nce, self.weight_identity = weight_gan, weight_nce, weight_identity
        self.nce_identity, self.flip_equivariance = nce_identity, flip_equivariance
        self.lr, self.betas = lr, betas

    def optimizers(self) -> dict[str, Optimizer]:
        learn = [self.networks["G"], self.networks["H"]]
        return optimizers(learn, list(self.adversaries.values()), self.lr, self.betas, self.preserve.networks)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of D, then one of G and H. ``batch``: "source" x, "target" y (B, C, X, Y, Z) in [-1, 1]."""
        x, y, n = batch["source"], batch["target"], batch["step"]
        D = self.adversaries["D"]
        both = torch.cat([x, y]) if self.nce_identity or self.weight_identity else x
        mirrored = self.flip_equivariance and coin(n)
        out = self.translate(both.flip(2) if mirrored else both)
        y_hat, y_same = out[: len(x)], out[len(x) :]

        seen = y_hat.flip(2) if mirrored else y_hat  # as x lies
        losses = self.preserve.learn(x, seen, batch, update)
        losses["D"] = D.discriminator_loss(y, y_hat, n)
        update("D", losses["D"])
        if not D.generators_turn(n):
            return losses
        losses["G_gan"] = D.generator_loss(y_hat)
        losses["nce"] = nce = self.nce(x, y_hat, mirrored, n)
        if self.nce_identity:
            losses["nce_identity"] = self.nce(y, y_same, mirrored, n)
            nce = (nce + losses["nce_identity"]) / 2
        total = self.weight_gan * losses["G_gan"] + self.weight_nce * nce
        if self.weight_identity:
            losses["identity"] = (y_same - (y.flip(2) if mirrored else y)).abs().mean()
            total = total + self.weight_identity * losses["identity"]
        kept, weighed = self.preserve(x, seen, batch)
        losses |= kept
        update("G", total + weighed)
        return losses

    def nce(self, x: Tensor, y_hat: Tensor, mirrored: bool, step: int) -> Tensor:
        """PatchNCE between an image and its translation (of the mirrored image, if so), mean over layers."""
        G, H = self.networks["G"], self.networks["H"]
        with torch.no_grad():  # the keys teach nothing, so their graph is not kept
            keys = features(G, x, self.layers)
            places = sample_places(keys, self.patches, step)
            keys = H(keys, places)
        torch.clear_autocast_cache()  # or the queries would reuse the keys' casts of the weights, without gradient
        queries = features(G, y_hat, self.layers)
        if mirrored:
            queries = [q.flip(2) for q in queries]
        pairs = zip(H(queries, places), keys, strict=True)
        return torch.stack([patch_nce(z, v, self.temperature) for z, v in pairs]).mean()

    def translate(self, x: Tensor) -> Tensor:
        """(B, C, X, Y, Z) in [-1, 1] → the same grid."""
        y_hat = self.networks["G"](x)
        return background_kept(x, y_hat) if self.keep_background else y_hat


def coin(step: int) -> bool:
    """A throw that all processes share."""
    return bool(torch.rand((), generator=torch.Generator("cpu").manual_seed(step), device="cpu") < 0.5)

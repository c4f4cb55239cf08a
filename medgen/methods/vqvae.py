"""VQ-VAE: autoencoder with discrete codes (van den Oord et al., NeurIPS 2017), on MONAI's network.

    min_{E,G,e}  E[(x - G(e_k))²] + ‖sg[E(x)] - e_k‖² + β ‖E(x) - sg[e_k]‖²                      (eq. 3)
    k = arg min_j ‖E(x) - e_j‖                                                                   (eq. 2)

At each position of a coarse grid, the output of the encoder E is replaced by the nearest entry e_k of a codebook; the
decoder G sees entries only. sg stops the gradient, and the gradient of G passes the replacement unchanged.

    p(k) = Π_i p(k_i | k_1, ..., k_{i-1}),   min  -E[log p(k(x))]                               (section 3.3)

The prior p, a causal transformer over the positions in their order, learns the codes of the training images; a sample
draws them one by one and decodes them.
Differences from the paper: distances are means, not sums, over the entries' numbers; a transformer in place of a
PixelCNN as the prior, which learns beside the autoencoder, not after it.
"""

from typing import Annotated, Literal, cast

import torch
from monai.networks.nets import VQVAE as MonaiVQVAE
from monai.networks.nets import DecoderOnlyTransformer
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.methods.base import NAME, GenerativeSettings
from medgen.networks.autoencoder import AutoencoderSettings, check_patch, sizes
from medgen.types import Batch, Count, DataShape, Section, Update, Weight


class VQVAESettings(Section):
    filters: Count = Field(32, description="channels of all layers")
    levels: Annotated[int, Field(gt=0, le=6)] = Field(
        2, description="halvings of the grid; patch sides must be multiples of 2^levels"
    )
    embeddings: Annotated[int, Field(ge=2)] = Field(256, description="entries of the codebook")
    embedding: Count = Field(8, description="length of an entry")


class PriorSettings(Section):
    width: Count = Field(64, description="features of a position")
    depth: Count = Field(3, description="layers of the transformer")
    heads: Count = Field(4, description="attention heads; width must be a multiple")
    lr: float = Field(5e-4, gt=0, description="learning rate")
    temperature: float = Field(1.0, gt=0, description="samples: divisor of the logits (1: the distribution itself)")

    @model_validator(mode="after")
    def _divisible(self) -> "PriorSettings":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}; change one of them")
        return self


class Settings(GenerativeSettings):
    name: Literal["vqvae"] = Field("vqvae", description=NAME)
    generator: VQVAESettings = Field(VQVAESettings(), description="encoder, codebook and decoder")
    prior: PriorSettings = Field(PriorSettings(), description="p, the distribution of codes")
    weight_codebook: Weight = Field(1.0, description="weight of the distance that moves entries to codes")
    weight_commitment: Weight = Field(0.25, description="weight of the distance that keeps codes near entries (β)")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam")


class VQVAE:
    """Compress images to entries of a codebook, and generate them; learns from images alone (``data.sources: []``)."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings, s, p = settings, settings.generator, settings.prior
        _, grid = sizes(AutoencoderSettings(levels=s.levels), data.patch)
        self.patch, self.grid = tuple(data.patch), grid
        network = MonaiVQVAE(
            spatial_dims=3,
            in_channels=data.out_channels,
            out_channels=data.out_channels,
            channels=(s.filters,) * s.levels,
            num_res_layers=1,
            num_res_channels=(s.filters,) * s.levels,
            downsample_parameters=((2, 4, 1, 1),) * s.levels,
            upsample_parameters=((2, 4, 1, 1, 0),) * s.levels,
            num_embeddings=s.embeddings,
            embedding_dim=s.embedding,
        )
        network.divisor = 2**s.levels  # type: ignore[assignment]
        entries = network.quantizer.quantizer.embedding.weight  # learn by eq. 3, without MONAI's moving averages
        nn.init.uniform_(entries.requires_grad_(True), -1 / s.embeddings, 1 / s.embeddings)
        network.prior = DecoderOnlyTransformer(  # the last token is that before the first code
            num_tokens=s.embeddings + 1,
            max_seq_len=grid.numel(),
            attn_layers_dim=p.width,
            attn_layers_depth=p.depth,
            attn_layers_heads=p.heads,
        )
        self.networks: dict[str, nn.Module] = {"G": network}
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}

    def optimizers(self) -> dict[str, Optimizer]:
        G, s = self._network, self.settings
        found = optimizers([G.encoder, G.decoder, G.quantizer], [], s.lr, s.betas)
        return found | {"prior": optimizers([cast(nn.Module, G.prior)], [], s.prior.lr, s.betas)["G"]}

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of encoder, codebook and decoder, then one of the prior.

        ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1].
        """
        x, s, G = batch["target"], self.settings, self._network
        z = G.encode(x).float()
        k = self._nearest(z)
        e = self._entries(k)
        losses = {
            "G_l2": (x - G.decode(z + (e - z).detach())).float().square().mean(),
            "codebook": nnf.mse_loss(e, z.detach()),
            "commitment": nnf.mse_loss(z, e.detach()),
        }
        total = losses["G_l2"] + s.weight_codebook * losses["codebook"]
        update("G", total + s.weight_commitment * losses["commitment"])
        losses["nll"] = nnf.cross_entropy(self.logits(k).flatten(0, 1), k.flatten())
        update("prior", losses["nll"])
        return losses

    def logits(self, k: Tensor) -> Tensor:
        """Logits (B, X'·Y'·Z', embeddings) of each code of k (B, X', Y', Z'), given those before it."""
        s = self.settings.generator
        before = nnf.pad(k.flatten(1), (1, 0), value=s.embeddings)[:, :-1]
        return cast(nn.Module, self._network.prior)(before)[..., : s.embeddings].float()

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Images of codes drawn from the prior, one position after the other."""
        check_patch(self.patch, shape)
        s, prior = self.settings, cast(nn.Module, self._network.prior)
        k = torch.full((n, 1), s.generator.embeddings, device=next(prior.parameters()).device)
        for _ in range(self.grid.numel()):
            logits = prior(k)[:, -1, : s.generator.embeddings].double().cpu() / s.prior.temperature
            k = torch.cat([k, torch.multinomial(logits.softmax(1), 1, generator=generator).to(k.device)], 1)
        entries = self._entries(k[:, 1:].unflatten(1, tuple(self.grid)))
        return self._network.decode(entries).float().clamp(-1, 1)

    @property
    def _network(self) -> MonaiVQVAE:
        return cast(MonaiVQVAE, self.networks["G"])

    def _nearest(self, z: Tensor) -> Tensor:
        """k (B, X', Y', Z') of z (B, d, X', Y', Z')."""
        return self._network.quantizer.quantizer.quantize(z.detach())[2]

    def _entries(self, k: Tensor) -> Tensor:
        """e (B, d, X', Y', Z') of k (B, X', Y', Z')."""
        return self._network.quantizer.quantizer.embed(k)

    def encode(self, x: Tensor) -> Tensor:
        """k (B, X', Y', Z'): the number of the entry at each position of the coarse grid."""
        return self._nearest(self._network.encode(x).float())

    def reconstruct(self, x: Tensor) -> Tensor:
        G = self._network
        return G.decode(self._entries(self.encode(x))).float().clamp(-1, 1)

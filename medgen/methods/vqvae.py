"""VQ-VAE: autoencoder with discrete codes (van den Oord et al., NeurIPS 2017), on MONAI's network.

    min_{E,G,e}  E[(x - G(e_k))²] + ‖sg[E(x)] - e_k‖² + β ‖E(x) - sg[e_k]‖²                      (eq. 3)
    k = arg min_j ‖E(x) - e_j‖                                                                   (eq. 2)

At each position of a coarse grid, the output of the encoder E is replaced by the nearest entry e_k of a codebook; the
decoder G sees entries only. sg stops the gradient, and the gradient of G passes the replacement unchanged. The codes
have no prior here, so nothing can be sampled: the method compresses images, and a prior can be learnt of their codes.
Differences from the paper: distances are means, not sums, over the entries' numbers.
"""

from typing import Annotated, Literal, cast

from monai.networks.nets import VQVAE as MonaiVQVAE
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.optim import Optimizer

from medgen.losses.adversary import Adversary, optimizers
from medgen.methods.base import NAME, GenerativeSettings
from medgen.types import Batch, Count, DataShape, Section, Update, Weight


class VQVAESettings(Section):
    filters: Count = Field(32, description="channels of all layers")
    levels: Annotated[int, Field(gt=0, le=6)] = Field(
        2, description="halvings of the grid; patch sides must be multiples of 2^levels"
    )
    embeddings: Annotated[int, Field(ge=2)] = Field(256, description="entries of the codebook")
    embedding: Count = Field(8, description="length of an entry")


class Settings(GenerativeSettings):
    name: Literal["vqvae"] = Field("vqvae", description=NAME)
    generator: VQVAESettings = Field(VQVAESettings(), description="encoder, codebook and decoder")
    weight_codebook: Weight = Field(1.0, description="weight of the distance that moves entries to codes")
    weight_commitment: Weight = Field(0.25, description="weight of the distance that keeps codes near entries (β)")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    betas: tuple[float, float] = Field((0.9, 0.999), description="betas of Adam")


class VQVAE:
    """Compress images to entries of a codebook; learns from images alone (``data.sources: []``)."""

    generator = "G"

    def __init__(self, settings: Settings, data: DataShape) -> None:
        self.settings, s = settings, settings.generator
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
        self.networks: dict[str, nn.Module] = {"G": network}
        self.memory: dict[str, nn.Module] = {}
        self.adversaries: dict[str, Adversary] = {}

    def optimizers(self) -> dict[str, Optimizer]:
        return optimizers([self.networks["G"]], [], self.settings.lr, self.settings.betas)

    def step(self, batch: Batch, update: Update) -> dict[str, Tensor]:
        """One update of encoder, codebook and decoder. ``batch``: "target" x (B, C, X, Y, Z) in [-1, 1]."""
        x, s, G = batch["target"], self.settings, self._network
        z = G.encode(x).float()
        e = self._entries(self._nearest(z))
        losses = {
            "G_l2": (x - G.decode(z + (e - z).detach())).float().square().mean(),
            "codebook": nnf.mse_loss(e, z.detach()),
            "commitment": nnf.mse_loss(z, e.detach()),
        }
        total = losses["G_l2"] + s.weight_codebook * losses["codebook"]
        update("G", total + s.weight_commitment * losses["commitment"])
        return losses

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

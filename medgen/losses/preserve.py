"""Losses between input and output that preserve structure in unpaired translation; optional in several methods."""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.losses.structure import gradient_correlation_loss, mind_loss
from medgen.networks.discriminator import frozen
from medgen.networks.generator import GeneratorSettings, build_generator
from medgen.types import Batch, DataShape, Section, Update, Weight


class PreserveSettings(Section):
    """Keys of ``method.preserve``: weights of the structure losses; 0 switches a loss off."""

    weight_gradient: Weight = Field(0.0, description="weight of 1 - correlation of the gradients of input and output")
    weight_mind: Weight = Field(0.0, description="weight of the difference of the MIND descriptors (Heinrich 2012)")
    weight_segmentation: Weight = Field(
        0.0,
        description="weight of segmentation consistency (SynSeg-Net, Huo 2018; Zhang 2018): a U-Net learns the "
        "source's labels on input and output; the generator must give images in which it finds them; needs data.labels",
    )


SEGMENTER = GeneratorSettings(
    name="unet", filters=8, levels=2, norm="instance", upsample="resize", full_resolution_filters=8
)


class Preserve:
    """Structure losses between x and ŷ = G(x).

    Args:
        settings: weights of the losses.
        spatial_dims: 3 or 2.
        data: channels of x and ŷ (equal for segmentation consistency, because the U-Net S reads both), and classes.

    Raises:
        ValueError: segmentation consistency without labels, or with different numbers of input and output channels.
    """

    def __init__(self, settings: PreserveSettings, *, spatial_dims: int, data: DataShape) -> None:
        self.weights = {
            "gradient": settings.weight_gradient,
            "mind": settings.weight_mind,
            "segmentation": settings.weight_segmentation,
        }
        self.networks: dict[str, nn.Module] = {}
        if not settings.weight_segmentation:
            return
        if data.classes is None:
            raise ValueError("weight_segmentation needs labels: set data.labels to true and data.classes")
        if data.in_channels != data.out_channels:
            raise ValueError(
                "weight_segmentation needs equal numbers of input and output channels, because its segmenter reads both"
            )
        self.networks["S"] = build_generator(
            SEGMENTER,
            spatial_dims=spatial_dims,
            in_channels=data.in_channels,
            out_channels=data.classes,
            tanh=False,
        )

    def __call__(self, x: Tensor, y_hat: Tensor, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Losses by name (those switched on) and their weighted sum.

        Args:
            x, y_hat: (B, C, X, Y[, Z]); with different numbers of channels, the first ones are compared.
            batch: with "labels" (B, 1, X, Y[, Z]) of x for segmentation consistency.
        """
        n = min(x.shape[1], y_hat.shape[1])
        losses: dict[str, Tensor] = {}
        if self.weights["gradient"]:
            losses["gradient"] = gradient_correlation_loss(x[:, :n], y_hat[:, :n])
        if self.weights["mind"]:
            losses["mind"] = mind_loss(x[:, :n], y_hat[:, :n])
        if self.weights["segmentation"]:
            S = self.networks["S"]
            with frozen(S):
                losses["segmentation"] = segmentation_loss(S(y_hat), batch["labels"])
        return losses, sum((self.weights[k] * v for k, v in losses.items()), torch.zeros((), device=x.device))

    def learn(self, x: Tensor, y_hat: Tensor, batch: Batch, update: Update) -> dict[str, Tensor]:
        """Update S, if it exists, on the input and its translation."""
        if "S" not in self.networks:
            return {}
        S, images = self.networks["S"], [x.detach(), y_hat.detach()]
        loss = torch.stack([segmentation_loss(S(image), batch["labels"]) for image in images]).mean()
        update("S", loss)
        return {"S": loss}


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy + 1 - mean soft Dice over the classes present (as in nnU-Net).

    Args:
        logits: (B, K, X, Y[, Z]).
        labels: (B, 1, X, Y[, Z]) int64 in 0 … K-1; of a slab (B, k, X, Y) the middle slice is used.
    """
    logits = logits.float()
    labels = labels[:, labels.shape[1] // 2]
    truth = nnf.one_hot(labels, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    axes = [0, *range(2, logits.ndim)]
    p = logits.softmax(1)
    overlap, size = (p * truth).sum(axes), (p + truth).sum(axes)
    present = (truth.sum(axes) > 0).to(p.dtype)
    dice = (present * 2 * overlap / size.clamp_min(1e-6)).sum() / present.sum()
    return nnf.cross_entropy(logits, labels) + 1 - dice

"""What an unpaired translation must not change: losses between input and output, for any method to switch on."""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.losses.structure import gradient_correlation_loss, mind_loss
from medgen.networks.discriminator import frozen
from medgen.networks.generator import build_generator
from medgen.types import Batch, Count, Update, Weight


class Preserve:
    """Structure losses between x and ŷ = G(x).

    Args:
        spatial_dims, in_channels, out_channels: of x and ŷ; as many for segmentation consistency, as S reads both.
        weight_gradient: of 1 - gradient correlation, see ``losses.structure``.
        weight_mind: of the difference of MIND descriptors, see ``losses.structure``.
        weight_segmentation: of segmentation consistency, as SynSeg-Net (Huo 2018) and Zhang 2018: a U-Net S learns
            the source's labels on x and on ŷ, and G is asked for images in which S finds them; needs data.labels.
        classes: of the labels, background included.

    Raises:
        ValueError: segmentation consistency without the number of classes.
    """

    def __init__(
        self,
        *,
        spatial_dims: Literal[2, 3],
        in_channels: Count,
        out_channels: Count,
        weight_gradient: Weight = 0.0,
        weight_mind: Weight = 0.0,
        weight_segmentation: Weight = 0.0,
        classes: Annotated[int, Field(ge=2)] | None = None,
    ) -> None:
        if weight_segmentation and classes is None:
            raise ValueError("weight_segmentation needs labels: set data.labels to true and data.classes")
        if weight_segmentation and in_channels != out_channels:
            raise ValueError("weight_segmentation needs as many channels in as out: its segmenter reads both images")
        self.weights = {"gradient": weight_gradient, "mind": weight_mind, "segmentation": weight_segmentation}
        self.networks: dict[str, nn.Module] = {}
        if weight_segmentation and classes:
            shape: dict[str, Any] = {"in_channels": in_channels, "out_channels": classes, "residual": False}
            shape |= {"filters": 8, "levels": 2, "norm": "instance", "dropout": 0.0, "upsample": "resize", "stem": 8}
            self.networks["S"] = build_generator("unet", spatial_dims=spatial_dims, tanh=False, **shape)

    def __call__(self, x: Tensor, y_hat: Tensor, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Losses by name (those switched on) and their weighted sum.

        Args:
            x, y_hat: (B, C, X, Y[, Z]); of different numbers of channels the first ones are compared.
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
        """One update of S, if there is one, on the input and on its translation."""
        if "S" not in self.networks:
            return {}
        S, images = self.networks["S"], [x.detach(), y_hat.detach()]
        loss = torch.stack([segmentation_loss(S(image), batch["labels"]) for image in images]).mean()
        update("S", loss)
        return {"S": loss}


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy + 1 - mean soft Dice over the classes present (as nnU-Net).

    Args:
        logits: (B, K, X, Y[, Z]).
        labels: (B, 1, X, Y[, Z]) int64 in 0 … K-1; of a slab's slices (B, k, X, Y) the middle one counts.
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

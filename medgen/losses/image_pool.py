"""A history of translations for the discriminator (Shrivastava 2017; CycleGAN, section 4)."""

import torch
from torch import Tensor, nn


class ImagePool(nn.Module):
    """Return each sample unchanged or, with probability ½, swap it with a stored one.

    A module without weights, so that checkpoints include the stored images and a resumed run shows the discriminator
    the same ones. Draws from torch's global generator.

    Args:
        size: number of images kept; 0 switches the pool off.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.images: list[Tensor] = []

    def forward(self, batch: Tensor) -> Tensor:
        """(B, ...) detached translations → (B, ...), some of them replaced by earlier ones."""
        if self.size == 0:
            return batch
        return torch.stack([self._swap(image) for image in batch])

    def _swap(self, image: Tensor) -> Tensor:
        if len(self.images) < self.size:
            self.images.append(image.clone())
            return image
        if torch.rand((), device="cpu") < 0.5:
            return image
        i = int(torch.randint(self.size, (), device="cpu"))
        old, self.images[i] = self.images[i], image.clone()
        return old.to(image)  # images from a checkpoint are on the CPU

    def get_extra_state(self) -> Tensor:
        return torch.stack([image.cpu() for image in self.images]) if self.images else torch.empty(0)

    def set_extra_state(self, state: Tensor) -> None:
        self.images = list(state.clone())

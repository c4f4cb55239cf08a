"""A history of translations that the discriminator is shown (Shrivastava 2017; CycleGAN, section 4)."""

import torch
from torch import Tensor, nn


class ImagePool(nn.Module):
    """Half of the time a sample goes through as it is, else it changes places with a stored one.

    A module without weights, so that its content travels with the checkpoint and a resumed run shows the
    discriminator the same images. Draws from torch's global generator.

    Args:
        size: images kept; 0 switches the pool off.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.images: list[Tensor] = []

    def forward(self, batch: Tensor) -> Tensor:
        """(B, ...) detached translations → (B, ...) some of them from the past."""
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
        return old.to(image)  # a checkpoint brings its images back to the CPU

    def get_extra_state(self) -> Tensor:
        return torch.stack([image.cpu() for image in self.images]) if self.images else torch.empty(0)

    def set_extra_state(self, state: Tensor) -> None:
        self.images = list(state.clone())

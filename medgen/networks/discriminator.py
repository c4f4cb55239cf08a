"""PatchGAN discriminators, at one or several scales, on MONAI's ``PatchDiscriminator``."""

from contextlib import contextmanager

from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.networks.generator import Norm, norm_spec
from medgen.networks.init import initialise


class Discriminator(nn.Module):
    """One PatchGAN a scale; scale k sees the input average-pooled k times (pix2pixHD, Wang 2018; SPADE).

    MONAI's own multi-scale network deepens the discriminator instead of shrinking its input, which is not
    the published one.

    Args:
        spatial_dims: 3 or 2.
        in_channels: channels of the input (image, or condition and image).
        filters: channels of the first layer (paper: 64).
        layers: layers between first and last (3: the 70-voxel PatchGAN).
        scales: number of discriminators.
        norm: "instance" rather than the paper's batch: real and fake batches do not mix their statistics;
            "none" leaves absolute values (HU) in sight, which instance norm takes away.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        filters: int = 64,
        layers: int = 3,
        scales: int = 1,
        norm: Norm = "instance",
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.scales = nn.ModuleList(
            PatchDiscriminator(
                spatial_dims=spatial_dims,
                channels=filters,
                in_channels=in_channels,
                num_layers_d=layers,
                norm=norm_spec(norm, filters),
                bias=norm == "none",
            )
            for _ in range(scales)
        )
        initialise(self, "kaiming" if norm == "none" else "normal")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, X, Y[, Z]) → raw logits (B, 1, x, y[, z]) of every scale, finest first."""
        pool = nnf.avg_pool3d if self.spatial_dims == 3 else nnf.avg_pool2d
        logits = []
        for i, scale in enumerate(self.scales):
            if i:
                x = pool(x, kernel_size=3, stride=2, padding=1, count_include_pad=False)
            logits.append(scale(x)[-1])
        return logits


@contextmanager
def frozen(*networks: nn.Module):
    """Within, the networks pass gradients on but collect none: the generator's update leaves them alone."""
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)

"""PatchGAN discriminators at one or several scales, based on MONAI's ``PatchDiscriminator``."""

from contextlib import contextmanager

from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn import functional as nnf

from medgen.networks.blocks.blur import BlurDown
from medgen.networks.blocks.init import CONVOLUTIONS, initialise
from medgen.networks.blocks.minibatch import Minibatch, minibatch_features
from medgen.networks.blocks.quick import quicken
from medgen.networks.blocks.spectral import add_spectral_norm
from medgen.networks.generator import Norm, norm_spec


class Discriminator(nn.Module):
    """One PatchGAN per scale; scale k sees the input after k average poolings (pix2pixHD, Wang 2018; SPADE).

    MONAI's own multi-scale network is not used: it adds layers to the discriminator instead of downsampling its input,
    which differs from both papers.

    Args:
        spatial_dims: 3 or 2.
        in_channels: channels of the input (image, or condition and image).
        filters: channels of the first layer (paper: 64).
        layers: layers between the first and the last (3: the 70-voxel PatchGAN).
        scales: number of discriminators.
        norm: norm after convolutions. "instance" (default): unlike the paper's "batch", it does not mix the statistics
            of real and fake images. "none" keeps absolute values (HU), which instance and group norm remove.
        antialias: convolve at full resolution and blur before each halving (CUT; Zhang 2019).
        spectral_norm: keep the largest singular value of every convolution at 1 (Miyato 2018).
        out_channels: channels of the patch map: 1 for real or fake, more for a classifier.
        minibatch: what the last convolution sees of the other images of a batch.
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
        antialias: bool = False,
        spectral_norm: bool = False,
        out_channels: int = 1,
        minibatch: Minibatch = "none",
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.scales = nn.ModuleList(
            PatchDiscriminator(
                spatial_dims=spatial_dims,
                channels=filters,
                in_channels=in_channels,
                out_channels=out_channels,
                num_layers_d=layers,
                norm=norm_spec(norm, filters),
                bias=norm == "none",
            )
            for _ in range(scales)
        )
        for scale in self.scales if minibatch != "none" else ():
            _add_minibatch_features(scale, minibatch, spatial_dims)
        initialise(self, "kaiming" if norm == "none" else "xavier" if antialias else "normal")
        for scale in self.scales if antialias else ():
            _blur_before_halving(scale, spatial_dims)
        for module in list(self.modules()) if spectral_norm else ():
            if isinstance(module, CONVOLUTIONS):
                add_spectral_norm(module)
        quicken(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, X, Y[, Z]) → raw logits (B, out_channels, x, y[, z]) of every scale, finest first."""
        return [layers[-1] for layers in self.layers(x)]

    def layers(self, x: Tensor) -> list[list[Tensor]]:
        """(B, C, X, Y[, Z]) → the outputs of all layers of every scale, the logits last."""
        pool = nnf.avg_pool3d if self.spatial_dims == 3 else nnf.avg_pool2d
        outputs = []
        for i, scale in enumerate(self.scales):
            if i:
                x = pool(x, kernel_size=3, stride=2, padding=1, count_include_pad=False)
            outputs.append(scale(x))
        return outputs


def _blur_before_halving(network: nn.Module, dims: int) -> None:
    """Replace each convolution of stride 2 by one of stride 1, followed by a blur and downsampling by 2."""
    for name, block in list(network.named_children()):
        convolution = next(m for m in block.modules() if isinstance(m, CONVOLUTIONS))
        if 2 in convolution.stride:  # type: ignore[operator]
            convolution.stride = (1,) * dims  # type: ignore[assignment]
            setattr(network, name, nn.Sequential(block, BlurDown(dims)))


def _add_minibatch_features(network: nn.Module, kind: Minibatch, dims: int) -> None:
    """Put features of the batch before the last convolution, which gets as many more input channels."""
    last = next(m for m in network.final_conv.modules() if isinstance(m, CONVOLUTIONS))  # type: ignore[union-attr]
    features = minibatch_features(kind, last.in_channels)  # type: ignore[arg-type]
    convolution = nn.Conv3d if dims == 3 else nn.Conv2d
    wider = convolution(last.in_channels + features.added, last.out_channels, 4, padding=1)  # type: ignore
    network.final_conv = nn.Sequential(features, wider)


@contextmanager
def frozen(*networks: nn.Module):
    """Context manager: gradients pass through the networks to their inputs, but the parameters get none.

    Used in a generator's update, which must not change the discriminators.
    """
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    for p in parameters:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in parameters:
            p.requires_grad_(True)

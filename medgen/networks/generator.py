"""The generator that ``method.generator`` describes."""

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from medgen.networks.blocks.init import initialise
from medgen.networks.noise import Noisy
from medgen.networks.residual import Residual
from medgen.networks.resnet import ResNet
from medgen.networks.unet import UNet
from medgen.types import Count, Section

Norm = Literal["batch", "instance", "group", "none"]
Start = bool | Literal["negative"]  # of training: what a residual generator adds to, if it is one


class GeneratorSettings(Section):
    """Keys of ``method.generator``: of a U-Net ``levels``, ``dropout``, ``upsample``, ``full_resolution_filters`` and
    ``pointwise_features``, of a ResNet ``blocks``, ``kernel`` and ``antialias``; the others of both."""

    name: Literal["unet", "resnet"] = Field(
        "resnet", description="unet: strided from its first layer, so several times faster in 3D; resnet"
    )
    filters: Count = Field(64, description="channels of the first layer (papers: 64, in 2D)")
    levels: Annotated[int, Field(gt=0, le=16)] = Field(
        8, description="unet: halvings of the grid (paper: 8 for 256²); patch sides must be multiples of 2^levels"
    )
    blocks: Annotated[int, Field(gt=0, le=256)] = Field(
        9, description="resnet: residual blocks (paper: 9 for 256², 6 for 128²)"
    )
    kernel: Annotated[int, Field(gt=0, le=31)] = Field(
        7, description="resnet: width of the first and last convolution, odd (paper: 7)"
    )
    norm: Norm = Field("instance", description="after convolutions; instance and group take absolute values (HU) away")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="unet: share of features dropped in layers 5 to 7 of the decoder, in training only"
    )
    upsample: Literal["deconv", "resize"] = Field(
        "deconv",
        description="unet: transposed convolution (paper), or nearest voxel and a convolution, which cannot leave a "
        "checkerboard",
    )
    full_resolution_filters: Annotated[int, Field(ge=0)] = Field(
        0, description="unet: filters of an extra level at full resolution, for detail of one voxel; 0: none (paper)"
    )
    pointwise_features: Annotated[int, Field(ge=0)] = Field(
        0,
        description="unet: features that a last pointwise layer reads beside the input, so that a voxel's own "
        "intensity counts; cheaper than full_resolution_filters and not together with it; 0: none (paper)",
    )
    antialias: bool = Field(False, description="resnet: blur before halving, interpolate before convolving (CUT: true)")
    residual: Start = Field(
        False,
        description="predict the difference from the input (true) or from its negative (negative); training then "
        "starts as the identity or the negative",
    )


def build_generator(
    settings: GeneratorSettings,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    init: Literal["normal", "xavier"] = "normal",
    noise: int = 0,
    tanh: bool = True,
) -> nn.Module:
    """U-Net or ResNet, freshly initialised.

    Args:
        settings: which one, and its size.
        spatial_dims: 3 or 2.
        in_channels, out_channels: of the images.
        init: of the weights; with norm none it is Kaiming's.
        noise: channels of noise beside the input, see ``networks.noise``.
        tanh: end in tanh; a residual generator never does.

    The result has ``divisor``: input sides must be multiples of it, and ``smallest``: the least side.

    Raises:
        ValueError: a residual generator with more channels out than in.
    """
    s = settings
    common: dict[str, Any] = {
        "spatial_dims": spatial_dims,
        "in_channels": in_channels + noise,
        "out_channels": out_channels,
    }
    common |= {"filters": s.filters, "norm": norm_spec(s.norm, s.filters), "tanh": tanh and not s.residual}
    network: nn.Module
    if s.name == "unet":
        unet: dict[str, Any] = {
            key: getattr(s, key)
            for key in ("levels", "dropout", "upsample", "full_resolution_filters", "pointwise_features")
        }
        network = UNet(**common, **unet)
    else:
        network = ResNet(**common, blocks=s.blocks, kernel=s.kernel, antialias=s.antialias)
    initialise(network, "kaiming" if s.norm == "none" else init)
    if s.residual:
        sides = {"in_channels": in_channels, "out_channels": out_channels}
        network = Residual(network, **sides, negative=s.residual == "negative")
    return Noisy(network, noise) if noise else network


def features(generator: nn.Module, x: Tensor, stages: tuple[int, ...]) -> list[Tensor]:
    """Outputs of the encoder's stages, for the losses that compare them; the deeper part is not run.

    Args:
        generator: one with an ``encoder``, the list of its stages.
        x: (B, C_in, X, Y[, Z]).
        stages: ascending; 0 is x itself, n the output of stage n.

    Raises:
        ValueError: stages that the encoder does not have.
    """
    encoder: list[nn.Module] = generator.encoder  # type: ignore[assignment]
    if not stages or list(stages) != sorted(set(stages)) or not 0 <= stages[0] <= stages[-1] <= len(encoder):
        raise ValueError(f"layers {list(stages)} must ascend within 0 and {len(encoder)} for this generator")
    found = [x] if stages[0] == 0 else []
    for n, stage in enumerate(encoder[: stages[-1]], 1):
        x = stage(x)
        if n in stages:
            found.append(x)
    return found


def norm_spec(norm: Norm, filters: int) -> Any:
    """MONAI's name of a norm; group norm takes the largest number of groups up to 8 that divides ``filters``."""
    if norm == "none":
        return None
    return ("group", {"num_groups": max(n for n in range(1, 9) if filters % n == 0)}) if norm == "group" else norm

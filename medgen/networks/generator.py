"""Build the generator that ``method.generator`` describes."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from medgen.networks.blocks.init import initialise
from medgen.networks.blocks.quick import quicken
from medgen.networks.noise import Noisy
from medgen.networks.residual import Residual
from medgen.networks.residual_unet import ResidualUNet
from medgen.networks.resnet import ResNet
from medgen.networks.unet import UNet
from medgen.types import Count, Section

Norm = Literal["batch", "instance", "group", "none"]
Start = bool | Literal["negative"]  # add the output to the input (True) or to the negated input; False: not residual


class GeneratorSettings(Section):
    """Keys of ``method.generator``.

    For a U-Net only: ``levels``, ``dropout``, ``upsample``, ``full_resolution_filters`` and ``pointwise_features``. For
    a ResNet only: ``blocks``, ``kernel`` and ``antialias``. For a residual U-Net only: ``windows`` and ``replace``; it
    has ``levels``, and always group norm. For a bundle: ``network`` and ``residual``. The others apply to all.
    """

    name: Literal["unet", "resnet", "residual_unet", "bundle"] = Field(
        "resnet",
        description="unet (strided from the first layer, so several times faster in 3D), resnet, or residual_unet "
        "(residual encoder, group norm; for regression), or bundle (a network of MONAI, see network)",
    )
    filters: Count = Field(64, description="channels of the first layer (papers: 64, in 2D)")
    levels: Annotated[int, Field(gt=0, le=16)] = Field(
        8,
        description="unet, residual_unet: halvings of the grid (paper: 8 for 256²); patch sides must be multiples of "
        "2^levels",
    )
    blocks: Annotated[int, Field(gt=0, le=256)] = Field(
        9, description="resnet: residual blocks (paper: 9 for 256², 6 for 128²)"
    )
    kernel: Annotated[int, Field(gt=0, le=31)] = Field(
        7, description="resnet: width of the first and last convolution, odd (paper: 7)"
    )
    norm: Norm = Field(
        "instance", description="norm after convolutions; instance and group remove absolute values (HU)"
    )
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="unet: share of features dropped in layers 5 to 7 of the decoder, in training only"
    )
    upsample: Literal["deconv", "resize"] = Field(
        "deconv",
        description="unet: deconv: transposed convolution (paper); resize: nearest-neighbour upsampling and a "
        "convolution, which avoids checkerboard artefacts",
    )
    full_resolution_filters: Annotated[int, Field(ge=0)] = Field(
        0, description="unet: filters of an extra level at full resolution, for single-voxel detail; 0: none (paper)"
    )
    pointwise_features: Annotated[int, Field(ge=0)] = Field(
        0,
        description="unet: features that a last pointwise layer combines with the input, so that each voxel's own "
        "intensity is used; cheaper than full_resolution_filters, cannot be combined with it; 0: none (paper)",
    )
    antialias: bool = Field(False, description="resnet: blur before halving, interpolate before convolving (CUT: true)")
    windows: tuple[tuple[float, float], ...] = Field(
        (), description="residual_unet: further input channels, as (low, high) in encoded units: small differences grow"
    )
    replace: tuple[float, float] | None = Field(
        None,
        description="residual_unet: the output sets structures to a level between these two encoded values, instead of "
        "adding a difference; for contrast removal",
    )
    network: dict[str, Any] | None = Field(
        None,
        description="bundle: folder of a MONAI bundle whose network_def is used, with new weights; a class of "
        "monai.networks.nets with plain arguments. It is replaced by the definition itself, _target_ and arguments",
    )
    residual: Start = Field(
        False,
        description="true: predict the difference from the input, so that training starts at the identity; negative: "
        "predict the difference from the negated input, so that training starts at the negation",
    )

    @field_validator("network", mode="before")
    @classmethod
    def _read_bundle(cls, value: Any) -> Any:
        if not isinstance(value, str | Path):
            return value
        from medgen.networks.bundle import bundle_network_def

        return bundle_network_def(Path(value))

    @model_validator(mode="after")
    def _network_of_bundle(self) -> "GeneratorSettings":
        if (self.name == "bundle") != (self.network is not None):
            raise ValueError("generator.name=bundle and generator.network belong together; set both or neither")
        if self.name == "bundle" and (self.replace or self.windows):
            raise ValueError("generator.replace and generator.windows need residual_unet; set them to null and []")
        return self


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
    """Build the network with initial weights.

    Args:
        settings: type and size of the network.
        spatial_dims: 3 or 2.
        in_channels, out_channels: channels of the images.
        init: weight initialisation; ignored for norm "none", which always uses Kaiming.
        noise: number of noise channels added to the input, see ``networks.noise``.
        tanh: end in tanh; ignored for a residual generator, which never has a tanh.

    Returns:
        The network. Input sides must be multiples of its ``divisor`` and at least ``smallest``.

    Raises:
        ValueError: a residual generator with more output than input channels, or with ``replace``.
    """
    s = settings
    if s.replace and s.residual:
        raise ValueError("replace already starts near the identity; set residual to false")
    common: dict[str, Any] = {
        "spatial_dims": spatial_dims,
        "in_channels": in_channels + noise,
        "out_channels": out_channels,
    }
    common |= {"filters": s.filters, "norm": norm_spec(s.norm, s.filters), "tanh": tanh and not s.residual}
    network: nn.Module
    if s.name == "residual_unet":
        del common["norm"]
        network = ResidualUNet(**common, levels=s.levels, windows=s.windows, replace=s.replace)
    elif s.name == "bundle":
        from medgen.networks.bundle import BundleNetwork

        del common["norm"], common["filters"]
        network = BundleNetwork(s.network or {}, **common)
    elif s.name == "unet":
        unet: dict[str, Any] = {
            key: getattr(s, key)
            for key in ("levels", "dropout", "upsample", "full_resolution_filters", "pointwise_features")
        }
        network = UNet(**common, **unet)
    else:
        network = ResNet(**common, blocks=s.blocks, kernel=s.kernel, antialias=s.antialias)
    if s.name not in ("residual_unet", "bundle"):
        initialise(network, "kaiming" if s.norm == "none" else init)
    if s.residual:
        sides = {"in_channels": in_channels, "out_channels": out_channels}
        network = Residual(network, **sides, negative=s.residual == "negative")
    return quicken(Noisy(network, noise) if noise else network)


def features(generator: nn.Module, x: Tensor, stages: tuple[int, ...]) -> list[Tensor]:
    """Return the outputs of encoder stages, for losses that compare them; deeper stages are not run.

    Args:
        generator: network whose ``encoder`` is the list of its stages.
        x: (B, C_in, X, Y[, Z]).
        stages: in ascending order; 0 is x itself, n the output of stage n.

    Raises:
        ValueError: no stages, stages that are not in ascending order, or stages that the encoder does not have.
    """
    encoder: list[nn.Module] = generator.encoder  # type: ignore[assignment]
    if not stages or list(stages) != sorted(set(stages)) or not 0 <= stages[0] <= stages[-1] <= len(encoder):
        raise ValueError(f"layers {list(stages)} must ascend and lie between 0 and {len(encoder)} for this generator")
    outputs = [x] if stages[0] == 0 else []
    for n, stage in enumerate(encoder[: stages[-1]], 1):
        x = stage(x)
        if n in stages:
            outputs.append(x)
    return outputs


def norm_spec(norm: Norm, filters: int) -> Any:
    """Return MONAI's specification of a norm; group norm has the most groups up to 8 that divide ``filters``."""
    if norm == "none":
        return None
    return ("group", {"num_groups": max(n for n in range(1, 9) if filters % n == 0)}) if norm == "group" else norm

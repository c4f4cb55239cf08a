"""One call that builds the generator a config names."""

from typing import Any, Literal

from torch import Tensor, nn

from medgen.networks.blocks.init import initialise
from medgen.networks.noise import Noisy
from medgen.networks.residual import Residual
from medgen.networks.resnet import ResNet
from medgen.networks.unet import UNet

Norm = Literal["batch", "instance", "group", "none"]
GeneratorName = Literal["unet", "resnet"]
Start = bool | Literal["negative"]  # of training: what a residual generator adds to, if it is one


def build_generator(
    name: GeneratorName,
    *,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    filters: int,
    norm: Norm,
    residual: Start,
    init: Literal["normal", "xavier"] = "normal",
    levels: int = 8,
    blocks: int = 9,
    kernel: int = 7,
    dropout: float = 0.5,
    upsample: Literal["deconv", "resize"] = "deconv",
    stem: int = 0,
    detail: int = 0,
    antialias: bool = False,
    noise: int = 0,
    tanh: bool = True,
) -> nn.Module:
    """U-Net (``levels``, ``dropout``, ``upsample``, ``stem``, ``detail``) or ResNet (``blocks``, ``kernel``,
    ``antialias``).

    Args:
        residual: predict the difference from the input, or from its negative, see ``networks.residual``.
        noise: channels of noise beside the input, see ``networks.noise``.
        tanh: end in tanh; a residual generator never does.
        others: see the networks' classes.

    The result has ``divisor``: input sides must be multiples of it, and ``smallest``: the least side.

    Raises:
        ValueError: a residual generator with more channels out than in.
    """
    common: dict[str, Any] = {
        "spatial_dims": spatial_dims,
        "in_channels": in_channels + noise,
        "out_channels": out_channels,
    }
    common |= {"filters": filters, "norm": norm_spec(norm, filters), "tanh": tanh and not residual}
    network: nn.Module
    if name == "unet":
        network = UNet(**common, levels=levels, dropout=dropout, upsample=upsample, stem=stem, detail=detail)
    else:
        network = ResNet(**common, blocks=blocks, kernel=kernel, antialias=antialias)
    initialise(network, "kaiming" if norm == "none" else init)
    if residual:
        sides = {"in_channels": in_channels, "out_channels": out_channels}
        network = Residual(network, **sides, negative=residual == "negative")
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

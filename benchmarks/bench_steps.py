"""A ResNet generator's forward pass, and training steps, compared with plain modules and separate passes (peers/)."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.networks.nets import PatchDiscriminator
from peers import networks, steps
from timing import compare, largest_difference, rate, size

from medgen.checkpoint import build_method
from medgen.config import load_settings, parse_settings
from medgen.methods.base import Method
from medgen.networks.generator import GeneratorSettings, build_generator

CONFIGS = Path(__file__).parents[1] / "configs"
FILTERS = size(16, 4)
DEVICE = "cuda" if "--cuda" in sys.argv else "cpu"
CLOSE = 1e-4 if DEVICE == "cpu" else 5e-3  # of outputs in [-1, 1]: GPUs convolve with 10 bits of precision (TF32)


def forward() -> None:
    """The ResNet as it is built for training, without gradients."""
    torch.manual_seed(0)
    settings = GeneratorSettings(name="resnet", filters=FILTERS)
    ours = build_generator(settings, spatial_dims=3, in_channels=1, out_channels=1).to(DEVICE).eval()
    peer = networks.ResNet(FILTERS).to(DEVICE).eval()
    networks.copy_weights(ours, peer)
    side = size(96, 24)
    x = torch.rand(1, 1, side, side, side, device=DEVICE) * 2 - 1
    with torch.inference_mode():
        record = compare(
            __file__,
            f"ResNet generator, {FILTERS} filters, forward {side}³ (plain module)",
            lambda: ours(x).cpu(),
            lambda: peer(x).cpu(),
            tolerance=CLOSE,
        )
        rate(__file__, record, lambda: peer(x))


def steps_of(method: Method, x: torch.Tensor, y: torch.Tensor) -> Callable[[], dict[str, float]]:
    """A call that takes one step and returns its losses."""
    optimizers = method.optimizers()
    number = iter(range(10**6))

    def update(key: str, loss: torch.Tensor) -> None:
        optimizers[key].zero_grad(set_to_none=True)
        loss.backward()
        optimizers[key].step()

    def step() -> dict[str, float]:
        losses = method.step({"source": x, "target": y, "step": next(number)}, update)
        return {name: float(value.detach()) for name, value in losses.items()}

    return step


def relative(ours: dict[str, float], peer: dict[str, float]) -> float:
    """The largest difference of losses relative to their size."""
    return max(largest_difference(ours[k], peer[k]) / max(abs(peer[k]), 1e-2) for k in peer)


def in_64_bits(method: Method, peer: Any) -> float:
    """The difference of the losses after one update, in 64 bits on a small patch: the gradients are equal.

    In 32 bits Adam makes much of rounding: a gradient of CycleGAN by separate passes is 0.6 % off, ours 0.05 %.
    """
    x, y = (torch.rand(2, 1, 1, 32, 32, 32, device=DEVICE, dtype=torch.float64) * 2 - 1).unbind()
    exact, other = copy.deepcopy(method), copy.deepcopy(peer)
    for network in (*exact.networks.values(), *(v for v in vars(other).values() if isinstance(v, torch.nn.Module))):
        network.double()
    step = steps_of(exact, x, y)
    step(), other.step(x, y)
    return relative(step(), other.step(x, y))


def row(name: str, method: Method, peer: Any, side: int) -> None:
    """A step from the same weights in each round: over several, rounding grows as in any training."""
    torch.manual_seed(1)
    x, y = torch.rand(2, 1, 1, side, side, side, device=DEVICE) * 2 - 1
    gradients = in_64_bits(method, peer)
    record = compare(
        __file__,
        f"{name} step, {side}³ (separate passes)",
        lambda: steps_of(copy.deepcopy(method), x, y)(),
        lambda: copy.deepcopy(peer).step(x, y),
        tolerance=2 * CLOSE,
        difference=lambda a, b: max(relative(a, b), gradients),
        rounds=3,
    )
    rate(__file__, record, lambda: copy.deepcopy(peer).step(x, y))


def discriminator(channels: int, like: torch.nn.Module, bias: bool = False) -> torch.nn.Module:
    D = PatchDiscriminator(
        spatial_dims=3, channels=FILTERS, in_channels=channels, out_channels=1, norm="instance", bias=bias
    )
    networks.copy_weights(like, D)
    return D.to(DEVICE)


def built(settings: Any) -> Method:
    torch.manual_seed(0)
    method = build_method(settings)
    for network in method.networks.values():
        network.to(DEVICE)
    return method


def cyclegan(side: int) -> None:
    section = {"name": "cyclegan", "generator": {"filters": FILTERS}, "adversary": {"filters": FILTERS, "pool": 50}}
    method = built(parse_settings({"method": section, "data": {"paired": False}}, "benchmark"))
    G, F = networks.ResNet(FILTERS).to(DEVICE), networks.ResNet(FILTERS).to(DEVICE)
    networks.copy_weights(method.networks["G"], G)
    networks.copy_weights(method.networks["F"], F)
    D_X, D_Y = (discriminator(1, method.networks[name]) for name in ("D_X", "D_Y"))
    row("CycleGAN", method, steps.CycleGAN(G, F, D_X, D_Y), side)


def pix2pix(side: int) -> None:
    words = [f"method.generator.filters={FILTERS}", f"method.adversary.filters={FILTERS}"]
    settings = load_settings(CONFIGS / "ct_contrast_pix2pix.yaml", words)
    method = built(settings)
    G = networks.UNet(FILTERS, 4, 8).to(DEVICE)
    networks.copy_weights(method.networks["G"], G)
    peer = steps.Pix2Pix(G, discriminator(2, method.networks["D"]), settings.method.lr)
    row("Pix2Pix", method, peer, side)


def regression(side: int) -> None:
    generator = {"name": "residual_unet", "filters": 2 * FILTERS, "levels": 4}
    method = built(parse_settings({"method": {"name": "regression", "generator": generator}}, "benchmark"))
    G = networks.ResidualUNet(2 * FILTERS, 4).to(DEVICE)
    networks.copy_weights(method.networks["G"], G)
    row("regression", method, steps.Regression(G), side)


def main() -> None:
    forward()
    cyclegan(128 if DEVICE == "cuda" else size(48, 24))
    pix2pix(size(64, 32))
    regression(size(64, 32))


if __name__ == "__main__":
    main()

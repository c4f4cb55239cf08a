"""Where bfloat16 is computed by the hardware, and where its results are wrong."""

from functools import partial

import torch
from torch import Tensor, nn


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether the hardware multiplies matrices in bfloat16: NVIDIA GPUs since Ampere, CPUs with AMX or AVX-512 BF16.

    Emulated, bfloat16 is many times slower than 32 bits.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    features: dict = getattr(torch.cpu, "get_capabilities", dict)()  # not in older torch
    return bool(features.get("amx_bf16") or features.get("avx512_bf16"))


def guard_small_convolutions(network: nn.Module) -> None:
    """Compute the 3D convolutions of a network in 32 bits where an image is smaller than the kernel, on the CPU.

    In bfloat16, torch 2.13 (oneDNN, AVX-512 BF16) then reads memory beyond the image: weight gradients of up to 1e38,
    infinite or NaN, at random, and sometimes a crash. Measured with 16 channels and sides of 1 to 6: wrong if the first
    side is 2 or more and smaller than the kernel (3, 5, 7; also 4 with stride 2), or the second is 2 with a kernel of
    7; right otherwise.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv3d) and max(module.kernel_size) > 1:
            module._conv_forward = partial(_conv_forward, module)  # type: ignore[method-assign]


def _conv_forward(conv: nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    small = any(n < k for n, k in zip(x.shape[2:], conv.kernel_size, strict=True))
    if not small or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return nn.Conv3d._conv_forward(conv, x, weight, bias)
    with torch.autocast("cpu", enabled=False):
        return nn.Conv3d._conv_forward(conv, x.float(), weight.float(), None if bias is None else bias.float())

"""Where bfloat16 is computed by the hardware. Emulated, it is many times slower than 32 bits."""

import torch


def has_bfloat16(device: torch.device | str) -> bool:
    """Whether the hardware multiplies matrices in bfloat16: NVIDIA GPUs since Ampere, CPUs with AMX or AVX-512 BF16."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind != "cpu":
        return False
    features: dict = getattr(torch.cpu, "get_capabilities", dict)()  # not in older torch
    return bool(features.get("amx_bf16") or features.get("avx512_bf16"))

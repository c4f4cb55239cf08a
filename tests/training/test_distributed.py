"""train.precision=auto follows the hardware."""

import pytest
import torch

from medgen.training.distributed import _precision


@pytest.mark.parametrize(
    "gpu, gpu_bfloat16, cpu, accelerator, expected",
    [
        (False, False, {"amx_bf16": True}, "auto", "bf16-mixed"),
        (False, False, {"avx512_bf16": True}, "cpu", "bf16-mixed"),
        (False, False, {"avx2": True}, "auto", "32-true"),
        (True, True, {}, "auto", "bf16-mixed"),
        (True, False, {"amx_bf16": True}, "cuda", "32-true"),
        (True, True, {"avx2": True}, "cpu", "32-true"),
    ],
)
def test_auto_is_bfloat16_where_the_hardware_computes_in_it(monkeypatch, gpu, gpu_bfloat16, cpu, accelerator, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: gpu_bfloat16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    assert _precision("auto", accelerator) == expected


def test_a_named_precision_is_kept():
    assert _precision("16-mixed", "auto") == "16-mixed"

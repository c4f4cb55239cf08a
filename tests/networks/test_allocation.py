import sys

import pytest
import torch

from medgen.networks import allocation
from medgen.networks.allocation import memory_kept


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_reused_without_page_faults_and_returned_after():
    import resource

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(3):
            torch.zeros(2**24).add_(1)  # 64 MiB: more than glibc keeps by itself
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with memory_kept():
        faults()
        kept = faults()
    assert kept < 1000
    assert faults() > 2 * kept + 60  # 49,152 small pages, or 96 huge ones


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    allocation._glibc.cache_clear()
    with memory_kept():
        assert allocation._glibc() is None
    monkeypatch.undo()
    allocation._glibc.cache_clear()

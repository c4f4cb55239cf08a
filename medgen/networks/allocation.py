"""Keep the memory of large tensors in the process while a network runs, instead of returning it to the system."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
NEVER = 2**31 - 1  # bytes
# What glibc itself reaches in a process that has freed one block of 32 MiB (mallopt(3), "dynamic" threshold).
USUAL = {M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 64 * 2**20}


@contextmanager
def memory_kept() -> Iterator[None]:
    """While the context lasts, freed memory is reused; at its end it goes back to the system.

    glibc asks the system for each block above a threshold of at most 32 MiB, and returns it when it is freed. Each page
    of the next tensor is then a page fault, and the kernel fills it with zeros. In a U-Net on windows of 64³ this took
    a third of the time (docs/decisions/quick_layers.md). Results do not change. Elsewhere than on Linux with glibc this
    does nothing.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(M_MMAP_THRESHOLD, NEVER)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    try:
        yield
    finally:
        for option, value in USUAL.items():
            libc.mallopt(option, value)
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None

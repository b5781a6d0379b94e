"""Memory of the process: what is freed between passes through a model is kept, and garbage is left alone for a while.

glibc maps large tensors one by one and returns them as soon as they are freed, so that every layer of every pass
begins by having its pages faulted in again: a fifth of the time of attacks and training on small images. The switches
belong to glibc's mallopt(3); elsewhere (macOS, Windows, musl) nothing happens.
"""

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_NEVER_TRIM = 2**31 - 1
# Touching a switch ends glibc's automatic rule, so afterwards stand the values that the rule ends at once large blocks
# have been freed: the threshold's upper limit, and twice that for trimming.
_USUAL_MMAP_MAX, _USUAL_MMAP_THRESHOLD, _USUAL_TRIM = 65536, 32 * 2**20, 64 * 2**20


@contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, freed memory stays with the process for the next tensor; afterwards it is given back."""
    libc = _glibc()
    if libc is None:
        yield
        return
    mallopt: Callable[[int, int], int] = libc.mallopt
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)
    try:
        yield
    finally:
        mallopt(_M_MMAP_MAX, _USUAL_MMAP_MAX)
        mallopt(_M_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _USUAL_TRIM)
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version") else None


@contextmanager
def without_collection() -> Iterator[None]:
    """Leave Python's garbage alone: imports make many objects and no garbage, and a search among them takes time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()

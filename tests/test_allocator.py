"""What the process does with freed memory."""

import ctypes
import sys
from pathlib import Path

import pytest
import torch

from robustctl.allocator import kept_memory

MIB = 2**20
SIZE = 200 * MIB

glibc = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="the switches are glibc's",
)


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def after_freeing_a_large_tensor() -> int:
    torch.ones(SIZE // 4)
    return resident()


@glibc
def test_freed_memory_stays_inside_and_is_given_back_afterwards() -> None:
    before = after_freeing_a_large_tensor()
    with kept_memory():
        assert after_freeing_a_large_tensor() - before > SIZE // 2
    assert resident() - before < SIZE // 2


@glibc
def test_after_an_error_memory_is_given_back_as_well() -> None:
    before = resident()
    with pytest.raises(ValueError, match="stop"), kept_memory():
        torch.ones(SIZE // 4)
        raise ValueError("stop")
    assert after_freeing_a_large_tensor() - before < SIZE // 2


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with kept_memory():
        assert torch.ones(3).sum() == 3

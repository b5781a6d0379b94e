"""Whether what was asked for fits into the memory, before any of it is read."""

import contextlib
import os
from pathlib import Path

from robustctl.errors import RequestError

SHARE = 0.9
"""A share of the memory that is free now."""


def require_memory(size: int, what: str) -> None:
    """Raise RequestError if ``size`` bytes are more than the free memory; systems that do not tell it take all."""
    free = _free()
    if free is not None and size > SHARE * free:
        raise RequestError(
            f"{what} would take {size / 1e9:.1f} GB, but {free / 1e9:.1f} GB of memory are free; ask for fewer: --n N"
        )


def _free() -> int | None:
    with contextlib.suppress(OSError, ValueError, StopIteration):
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            line = next(line for line in lines if line.startswith("MemAvailable"))
        return 1024 * int(line.split()[1])
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None

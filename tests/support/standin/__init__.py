"""A device without hardware, for tests: ``standin``, with two cards. See device.cpp for what it promises.

It is registered with torch for good, and before the first backward pass of a process; hence its tests run in a process
of their own (tests/test_standin.py).
"""

import hashlib
import shutil
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

NAME = "standin"
SOURCE = Path(__file__).with_name("device.cpp")


@dataclass
class Traffic:
    """Between host and device, in a block of code.

    Attributes:
        reads: times that the host waited for the device; ``readers`` says for which operations.
        uploads: copies to the device that the host waited for.
    """

    reads: int = 0
    uploads: int = 0
    readers: str = ""


def missing() -> str:
    """Why the stand-in cannot be built here; empty if it can."""
    if not hasattr(torch.accelerator, "get_memory_info"):
        return f"the stand-in device is written for a newer torch than {torch.__version__}"
    tools = [tool for tool in ("c++", "ninja") if shutil.which(tool) is None]
    return f"the stand-in device needs {' and '.join(tools)}" if tools else ""


def register() -> None:
    """Compile the device (once per machine and source), and make it known to torch."""
    from torch.utils.cpp_extension import load

    source = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:8]  # so that two checkouts do not build in turns
    load(f"robustctl_standin_{source}", [str(SOURCE)], is_python_module=False, extra_cflags=["-O1", "-w"])
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module())
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    torch.ops.standin.activate()


def _module() -> types.ModuleType:
    """What torch looks up as ``torch.standin``."""
    module = types.ModuleType(f"torch.{NAME}")
    functions = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: 2,
        "current_device": torch.accelerator.current_device_index,
        "device": lambda device: torch.accelerator.device_index(torch.device(device).index or 0),
        "set_device": lambda device: torch.accelerator.set_device_index(device),
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "manual_seed": lambda seed: _default(None).manual_seed(seed),
        "manual_seed_all": lambda seed: [_default(index).manual_seed(seed) for index in range(2)],
        "get_rng_state": lambda device=None: _default(device).get_state(),
        "set_rng_state": lambda state, device=None: _default(device).set_state(state),
        "synchronize": lambda device=None: torch.accelerator.synchronize(device),
        "get_device_name": lambda device=None: "the stand-in",
        "is_bf16_supported": lambda: True,
        "empty_cache": torch.accelerator.empty_cache,
        "mem_get_info": lambda device=None: torch.accelerator.get_memory_info(device),
        "max_memory_allocated": lambda device=None: torch.accelerator.max_memory_allocated(device),
        "reset_peak_memory_stats": lambda device=None: torch.accelerator.reset_peak_memory_stats(device),
    }
    for name, function in functions.items():
        setattr(module, name, function)
    return module


def _default(device: torch.device | str | int | None) -> torch.Generator:
    index = device if isinstance(device, int) else torch.device(device or NAME).index
    return torch._C._accelerator_getDefaultGenerator(index or 0)


@contextmanager
def traffic() -> Iterator[Traffic]:
    """Count what goes between host and device inside; the numbers are there at the end."""
    counted = Traffic()
    torch.ops.standin.reset()
    yield counted
    counted.reads, counted.uploads = torch.ops.standin.reads(), torch.ops.standin.uploads()
    counted.readers = torch.ops.standin.readers()


@contextmanager
def memory(size: int) -> Iterator[None]:
    """Inside, the device has room for ``size`` bytes more than are taken now; more raises ``OutOfMemoryError``."""
    torch.ops.standin.limit(torch.ops.standin.allocated() + size)
    try:
        yield
    finally:
        torch.ops.standin.limit(0)

"""Devices: whatever depends on the kind of device is decided here, and nowhere else.

A device is ``torch.device`` everywhere. The CPU is the host; torch has a module for every other kind, such as
``torch.cuda`` or ``torch.xpu``. Only CUDA's and the CPU's own switches are named; the rest holds for all.
"""

import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustctl.errors import RequestError

HOST = torch.device("cpu")


def is_host(device: torch.device) -> bool:
    """Whether tensors there are in the memory of the host."""
    return device.type == "cpu"


def pick_device(name: str) -> torch.device:
    """The device of a name; ``auto`` is the accelerator that torch finds if it does all that is needed, else the CPU.

    Raises:
        RequestError: a device that torch does not know, that this machine lacks, or that has no float64.
    """
    if name == "auto":
        found = _accelerator()
        return found if found is not None and _fault(found) is None else HOST
    try:
        with warnings.catch_warnings(action="ignore"):  # of names that torch no longer uses
            device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or str(device) != name:  # torch takes the last 8 bits of a number that is too large
        raise RequestError(f"unknown device {name!r}; use auto, cpu, cuda, cuda:N, xpu or xpu:N")
    require_present(device)
    if fault := _fault(device):
        raise RequestError(f"device {name!r} does not work here: {fault}")
    return device


def require_present(device: torch.device) -> None:
    """Raise RequestError if the machine has no such card."""
    if not is_host(device) and (device.index or 0) >= (n := _count(device)):
        kind = device.type.upper()
        raise RequestError(f"device '{device}' is not here: torch {torch.__version__} sees {n} {kind} devices")


def _accelerator() -> torch.device | None:
    """The accelerator that torch finds, or None."""
    try:
        found = torch.accelerator.current_accelerator()
    except RuntimeError:  # torch 2.6 raises it if it was built for an accelerator that the machine lacks
        return None
    return found if found is not None and _count(found) else None


def _count(device: torch.device) -> int:
    """Devices of this kind here."""
    try:
        count: Callable[[], int] = torch.get_device_module(device).device_count
    except (RuntimeError, AttributeError):
        return 1  # torch has no such module; whether the device works is tried
    return count()


def _fault(device: torch.device) -> str | None:
    """Why the device cannot be used, or None. The referee measures distances in float64, which not all devices have."""
    if device.type == "meta":
        return "its tensors have no values"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, NotImplementedError, AssertionError, ImportError) as error:
        if isinstance(error, ImportError | NotImplementedError) or "INTERNAL ASSERT" in str(error):
            return f"this torch ({torch.__version__}) has nothing for it"
        return str(error).splitlines()[0].partition(". ")[0].rstrip(".")  # torch goes on at length
    try:
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, NotImplementedError, TypeError):
        return "it has no float64, in which the distances of adversarial points are measured; use cpu"
    return None


def device_name(device: torch.device) -> str:
    """The device as results name it: a card's model, or the processor and its threads."""
    if is_host(device):
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(_ask(device, "get_device_name", platform.machine()))


def processor() -> str:
    """The model of the machine's processor."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def hardware(device: torch.device) -> dict[str, object]:
    """The machine that a time was measured on: its device or processor, threads of torch and processor cores."""
    name = processor() if is_host(device) else device_name(device)
    return {"device": name, "threads": torch.get_num_threads(), "cores": os.cpu_count()}


def inventory() -> dict[str, str]:
    """Every accelerator here, with its model and memory."""
    found = _accelerator()
    if found is None:
        return {}
    devices = [torch.device(found.type, index) for index in range(_count(found))]
    sizes = [memory_of(device) for device in devices]
    return {
        str(device): device_name(device) + (f", {size[1] / 2**30:.0f} GiB" if size else "")
        for device, size in zip(devices, sizes, strict=True)
    }


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 natively, and not by converting."""
    if is_host(device):
        flags = Path("/proc/cpuinfo")
        return flags.is_file() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.read_text("utf-8").split())
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(_ask(device, "is_bf16_supported", False, of_device=False))


@contextmanager
def true_float32(device: torch.device) -> Iterator[None]:
    """Inside, float32 is computed as such and the same each time; the settings are put back afterwards.

    Autocast is off, and TF32 (products of 19 bits, on NVIDIA's cards since 2020), and bfloat16 if
    ``set_float32_matmul_precision`` has allowed it on a CPU. cuDNN takes the same deterministic kernels each time.
    """
    cudnn = torch.backends.cudnn
    switches = [*_precision_switches(), (cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    before = [getattr(owner, name) for owner, name, _ in switches]
    matmul = None if _has_precisions() else torch.get_float32_matmul_precision()
    for owner, name, value in switches:
        setattr(owner, name, value)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for (owner, name, _), value in zip(switches, before, strict=True):
            setattr(owner, name, value)
        if matmul is not None:  # allow_tf32 knows fewer states than this switch
            torch.set_float32_matmul_precision(matmul)


def _has_precisions() -> bool:
    """Whether torch has a precision for each backend, as it does since 2.9."""
    return hasattr(torch.backends, "fp32_precision")


def _precision_switches() -> list[tuple[Any, str, object]]:
    backends: Any = torch.backends
    if not _has_precisions():
        return [(backends.cudnn, "allow_tf32", False), (backends.cuda.matmul, "allow_tf32", False)]
    owners = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    return [(owner, "fp32_precision", "ieee") for owner in (*owners, backends.mkldnn.matmul, backends.mkldnn.conv)]


@contextmanager
def kept_random(*devices: torch.device) -> Iterator[None]:
    """Inside, numbers may be drawn from torch's global generators; afterwards they go on as if none had been.

    Args:
        devices: those whose generators are kept, besides the CPU's.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for device in {device for device in devices if not is_host(device)}:
            where = () if device.type == "mps" else (device,)
            module = torch.get_device_module(device)
            stack.callback(module.set_rng_state, module.get_rng_state(*where), *where)
        yield


def memory_of(device: torch.device) -> tuple[int, int] | None:
    """Free and whole memory of an accelerator in bytes; None for the host, and if torch cannot tell."""
    found: tuple[int, int] | None = None if is_host(device) else _ask(device, "mem_get_info", None)
    return found


def release_memory() -> None:
    """Give back what torch keeps of an accelerator's memory for later tensors."""
    found = _accelerator()
    if found is not None:
        _ask(found, "empty_cache", None, of_device=False)


def memory_peak(device: torch.device) -> int:
    """The most bytes of an accelerator that this process's tensors have taken at once since ``forget_peak``."""
    return int(_ask(device, "max_memory_allocated", 0))


def forget_peak(device: torch.device) -> None:
    """Let ``memory_peak`` begin anew."""
    if not is_host(device):
        _ask(device, "reset_peak_memory_stats", None)


def wait_for(device: torch.device) -> None:
    """Return when the device has done all that it was given; a clock may be read then."""
    if not is_host(device):
        torch.get_device_module(device).synchronize()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, of the device or (a plain RuntimeError of the allocator) of the CPU."""
    words = ("allocate memory", "enough memory", "ALLOC_FAILED")  # the last is of cuDNN and cuBLAS
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def backend(device: torch.device) -> str:
    """The backend by which processes exchange tensors of this device, as ``torch.distributed`` names it."""
    return {"cuda": "nccl", "xpu": "xccl"}.get(device.type, "gloo")


def of_rank(device: torch.device, local_rank: int) -> torch.device:
    """The device of one of several processes: an accelerator each; all are on the host if that was asked."""
    return device if is_host(device) else torch.device(device.type, local_rank)


class Arriving:
    """A tensor on its way to the host: whoever takes it waits for it alone, not for what the device was given since."""

    def __init__(self, value: Tensor) -> None:
        self.value = value.detach()
        self.arrived: torch.Event | None = None
        if not is_host(value.device):
            self.value = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self.value.copy_(value.detach(), non_blocking=True)
            self.arrived = torch.Event(value.device)
            self.arrived.record(torch.accelerator.current_stream(value.device))

    def tensor(self) -> Tensor:
        """The tensor, on the host."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.value

    def __float__(self) -> float:
        """The number of a scalar."""
        return float(self.tensor())


def upload(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on the device. The host goes on before one of the host has arrived; the device waits for it."""
    if is_host(device) or not is_host(x.device):
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def _ask(device: torch.device, name: str, default: object, *, of_device: bool = True) -> Any:
    """The answer of the device's module, or ``default`` if it has no such function."""
    function = getattr(torch.get_device_module(device), name, None)
    if function is None:
        return default
    return function(device) if of_device else function()

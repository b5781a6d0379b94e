"""Names of devices, and what is switched off where float32 must be true."""

from types import SimpleNamespace

import pytest
import torch

from robustctl import devices
from robustctl.errors import RequestError


@pytest.mark.parametrize(
    ("name", "words"), [("gpu", "unknown device"), ("cuda:99", "is not here"), ("meta", "does not work")]
)
def test_devices_that_cannot_be_used_are_refused(name: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        devices.pick_device(name)


def test_a_device_without_float64_is_refused_and_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Apple's mps, and some of Intel's cards."""
    real = torch.zeros

    def zeros(*size: int, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        if dtype == torch.float64:
            raise TypeError("the framework doesn't support float64")
        return real(*size)

    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace(device_count=lambda: 1))
    with pytest.raises(RequestError, match="no float64"):
        devices.pick_device("mps")
    assert devices.pick_device("auto") == devices.HOST


def test_processes_take_a_card_each_and_the_exchange_that_fits_it() -> None:
    cuda, xpu, cpu = (torch.device(name) for name in ("cuda", "xpu", "cpu"))
    assert [devices.backend(device) for device in (cuda, xpu, cpu)] == ["nccl", "xccl", "gloo"]
    assert devices.of_rank(cuda, 3) == torch.device("cuda", 3)
    assert devices.of_rank(cpu, 3) == cpu


def test_true_float32_switches_off_what_rounds_and_puts_it_back() -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(torch.backends, "fp32_precision"):
        name, conv, rounding, exact = "fp32_precision", cudnn.conv, "tf32", "ieee"
    else:  # before torch 2.9
        name, conv, rounding, exact = "allow_tf32", cudnn, True, False
    switches = [(matmul, name), (conv, name), (cudnn, "benchmark"), (cudnn, "deterministic")]

    def now() -> list[object]:
        return [getattr(owner, name) for owner, name in switches]

    def turn(values: list[object]) -> None:
        for (owner, name), value in zip(switches, values, strict=True):
            setattr(owner, name, value)

    before = now()
    turn([rounding, rounding, True, False])
    try:
        with (
            torch.autocast("cpu", torch.bfloat16),
            pytest.raises(ZeroDivisionError),
            devices.true_float32(devices.HOST),
        ):
            assert now() == [exact, exact, False, True]
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            raise ZeroDivisionError
        assert now() == [rounding, rounding, True, False]
    finally:
        turn(before)


def test_matrices_that_a_cpu_may_round_are_not_rounded_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's ``set_float32_matmul_precision("medium")`` allows bfloat16 on CPUs that have it."""

    def allowed() -> str:
        if devices._has_precisions():
            return torch.backends.mkldnn.matmul.fp32_precision
        return {"highest": "ieee", "medium": "bf16"}[torch.get_float32_matmul_precision()]

    torch.set_float32_matmul_precision("medium")
    try:
        with devices.true_float32(devices.HOST):
            assert allowed() == "ieee"
        assert allowed() == "bf16"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_older_torch_has_one_switch_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    matmul, cudnn = SimpleNamespace(allow_tf32=True), SimpleNamespace(allow_tf32=True)
    old = SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), cudnn=cudnn)
    monkeypatch.setattr(torch, "backends", old)
    for owner, name, value in devices._precision_switches():
        setattr(owner, name, value)
    assert (matmul.allow_tf32, cudnn.allow_tf32) == (False, False)


@pytest.mark.parametrize(("capability", "able"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_cards_since_ampere_multiply_in_bf16(
    capability: tuple[int, int], able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert devices.has_bf16(torch.device("cuda")) == able

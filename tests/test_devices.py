"""Names of devices, and what is switched off where float32 must be true."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from robustctl import devices
from robustctl.errors import RequestError
from robustctl.processes import local_device


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "unknown device"),
        ("CUDA", "unknown device"),
        ("tpu", "use auto, cpu, cuda"),
        ("", "unknown device ''"),
        ("cuda:-1", "unknown device"),
        ("cuda:99", "is not here"),
        ("cuda:256", "unknown device"),
        ("vulkan", "has nothing for it"),
        ("mtia:99", "is not here"),
        ("meta", "its tensors have no values"),
        ("hpu", "does not work here"),
        ("opengl", "has nothing for it"),
        ("mkldnn", "does not work here"),
        ("privateuseone", "does not work here"),
    ],
)
def test_devices_that_cannot_be_used_are_refused_in_a_line(name: str, words: str) -> None:
    with warnings.catch_warnings(action="error"), pytest.raises(RequestError, match=words) as caught:
        devices.pick_device(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 160


def test_each_process_needs_a_card_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_device_module", lambda _: SimpleNamespace(device_count=lambda: 2))
    for rank, present in ((0, True), (1, True), (2, False)):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert local_device(devices.HOST) == devices.HOST
        if present:
            assert local_device(torch.device("cuda")) == torch.device("cuda", rank)
        else:
            with pytest.raises(RequestError, match=r"'cuda:2' is not here: .* sees 2 CUDA devices"):
                local_device(torch.device("cuda"))


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

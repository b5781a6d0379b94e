"""What the package decides by the kind of device, on one that is not the CPU."""

import pytest
import standin
import torch

from robustctl import devices
from robustctl.errors import RequestError


def test_the_accelerator_is_found_and_named(device: torch.device) -> None:
    assert devices.pick_device("auto").type == device.type
    assert devices.pick_device("standin:1") == torch.device("standin", 1)
    assert devices.device_name(device) == "the stand-in"
    assert list(devices.inventory()) == ["standin:0", "standin:1"]
    with pytest.raises(RequestError, match="sees 2 STANDIN devices"):
        devices.pick_device("standin:2")


def test_its_generator_is_kept(device: torch.device) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4, device=device), torch.rand(4)
    torch.manual_seed(3)
    with devices.kept_random(device):
        torch.rand(2, device=device)
        torch.rand(2)
    assert torch.equal(torch.rand(4, device=device), expected[0])
    assert torch.equal(torch.rand(4), expected[1])


def test_a_scalar_arrives_without_a_wait_of_the_host(device: torch.device) -> None:
    value = torch.tensor(0.25, device=device)
    with standin.traffic() as traffic:
        assert float(devices.Arriving(value)) == 0.25
    assert traffic.reads == 0


def test_uploads_do_not_wait(device: torch.device) -> None:
    with standin.traffic() as traffic:
        there = devices.upload(torch.arange(3), device)
    assert there.device == device
    assert traffic.uploads == 0


def test_memory_is_measured(device: torch.device) -> None:
    free, whole = devices.memory_of(device) or (0, 0)
    assert 0 < free <= whole
    before = torch.ops.standin.allocated()
    devices.forget_peak(device)
    torch.zeros(1_000_000, device=device)
    assert 4_000_000 <= devices.memory_peak(device) - before < 4_001_000
    devices.release_memory()
    devices.wait_for(device)

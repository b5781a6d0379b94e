"""The stand-in keeps its promises; otherwise the other tests here would prove nothing."""

import pytest
import standin
import torch
from torch import nn
from torch.nn import functional as F


def test_devices_do_not_mix(device: torch.device, conv_model: nn.Module) -> None:
    here, there = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8, device=device)
    for mixed in (lambda: here + there, lambda: torch.cat([there, here]), lambda: conv_model.to(device)(here)):
        with pytest.raises(RuntimeError, match="device|Input type"):
            mixed()
    with pytest.raises(RuntimeError, match="same device"):
        there + there.to("standin:1")
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device=device, generator=torch.Generator())
    assert torch.equal((there * torch.tensor(2.0)).cpu(), there.cpu() * 2)  # a number of the host may go along


@pytest.mark.parametrize(
    "read",
    [
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).any()),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.index_put_((x > 0,), x + 1),
        lambda x: torch.equal(x, x + 1),
    ],
)
def test_what_makes_the_host_wait_is_counted(read: object, device: torch.device) -> None:
    x = torch.rand(5, device=device)
    with standin.traffic() as traffic:
        read(x)  # type: ignore[operator]
    assert traffic.reads == 1


def test_what_does_not_make_it_wait_is_not(device: torch.device) -> None:
    x, host = torch.rand(5, device=device), torch.empty(5).pin_memory()
    with standin.traffic() as traffic:
        x[x > 0.5] = 0.0
        x.masked_fill(x > 0.5, 0.0).sort().values.cumsum(0)
        host.copy_(x, non_blocking=True)
        host.to(device, non_blocking=True)
    assert (traffic.reads, traffic.uploads) == (0, 0)
    with standin.traffic() as traffic:
        torch.tensor([1.0], device=device)
    assert traffic.uploads == 1


def test_training_steps_are_those_of_the_cpu(device: torch.device) -> None:
    def weights(on: torch.device) -> list[torch.Tensor]:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4)).to(on)
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
        x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(on)
        for _ in range(3):
            F.cross_entropy(net(x), torch.arange(6, device=on) % 4).backward()
            optimizer.step()
        return [tensor.cpu() for tensor in net.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(weights(torch.device("cpu")), weights(device), strict=True))


def test_results_stay_on_their_card() -> None:
    x = torch.rand(4, 3, device="standin:1")
    found = [x + 1, x.abs(), x.sum(), x.sort().values, x.nonzero(), torch.zeros_like(x), x.max(1).indices, x[x > 0.5]]
    assert {one.device for one in found} == {torch.device("standin", 1)}


def test_memory_runs_out(device: torch.device) -> None:
    with standin.memory(4000):
        kept = torch.zeros(500, device=device)
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(1000, device=device)
        del kept
        torch.zeros(900, device=device)

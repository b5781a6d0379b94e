"""Our path sampling against a direct transcription of the thesis's Algorithm 5 with its leapfrog (equation 3.19)."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robustctl import seeds
from robustctl.allocator import kept_memory
from robustctl.architectures import device_of
from robustctl.data import ImageData
from robustctl.devices import hardware, wait_for
from robustctl.oracle import Oracle
from robustctl.sampling import quadrature
from robustctl.sampling.annealing import anneal
from robustctl.sampling.build import make_sampler
from robustctl.sampling.estimators import path_sampling
from robustctl.sampling.log_loss import log_ce
from robustctl.sampling.noise import Noise
from robustctl.sampling.perturbation import Perturbation
from robustctl.seeds import Purpose
from robustctl.trusted_copy import trusted_copy

CHAINS = 2
STEP = 0.3  # of the widest, for both: the time of a leapfrog step does not depend on its length


class Counted(nn.Module):
    """A model that counts the images it sees."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.images = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, k)."""
        self.images += len(x)
        logits: Tensor = self.model(x)
        return logits


def transcription(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, q: float, *, samples: int, leapfrog: int
) -> Tensor:
    """log Z_q (n,) of the uniform distribution on the l_inf ball, as the thesis writes it: momenta of unit mass, two
    gradients a leapfrog step, the loss anew for each energy. The pixel box is left out, as there.
    """

    def log_loss(delta: Tensor) -> Tensor:
        return log_ce(model(x + delta), y)

    def gradient(delta: Tensor) -> Tensor:
        delta = delta.detach().requires_grad_(True)
        (grad,) = torch.autograd.grad(log_loss(delta).sum(), delta)
        return grad

    alpha = STEP * 4 * eps / leapfrog
    delta = eps * (2 * torch.rand_like(x) - 1)
    total = torch.zeros(len(x), device=x.device)
    for i in range(samples):
        t = q * i / (samples - 1)
        p = start = torch.randn_like(x)
        moved = delta
        for _ in range(leapfrog):
            p = p + alpha * t * gradient(moved) / 2
            moved = moved + alpha * p
            while (outside := moved.abs() > eps).any():
                p = torch.where(outside, -p, p)
                moved = torch.where(outside, 2 * eps * moved.sign() - moved, moved)
            p = p + alpha * t * gradient(moved) / 2
        with torch.no_grad():
            old, new = log_loss(delta), log_loss(moved)
            rise = t * (new - old) - (p.square() - start.square()).flatten(1).sum(1) / 2
            accepted = torch.rand(len(x), device=x.device) < rise.exp()
            delta = torch.where(accepted[:, None, None, None], moved, delta)
            total += torch.where(accepted, new, old)
    return total / samples


def compare(
    model: nn.Module,
    data: ImageData,
    perturbation: Perturbation,
    *,
    qs: Sequence[float],
    samples: int,
    leapfrog: int,
    rounds: int,
    report: Callable[[str], None],
) -> dict[str, object]:
    """Time both, in turns: one annealing run for the largest q with equal samples, leapfrog steps and grid; and the
    estimates of all q, which the thesis anneals for one after the other and we together, burn-in included.

    Returns:
        The JSON of ``robustctl bench intermediate``; the ratios are the transcription's seconds over ours.
    """
    device = device_of(model)
    x, y = data.images(range(len(data))).to(device), data.y.to(device)
    assert perturbation.size is not None
    eps = perturbation.size
    peer = Counted(model)
    fast = trusted_copy(model, "float32", x)

    def ours_single() -> int:
        with kept_memory(), Oracle(model, fast) as oracle:
            sampler = make_sampler(perturbation, oracle, x, y, leapfrog)
            noise = Noise(seeds.generators(0, Purpose.BENCH, range(len(x))), 1, x)
            anneal(sampler, quadrature.uniform(max(qs), samples).t, STEP, noise)
            return oracle.gradients

    def ours_all() -> int:
        with kept_memory(), Oracle(model, fast) as oracle:
            rows = x.repeat_interleave(CHAINS, 0), y.repeat_interleave(CHAINS)
            sampler = make_sampler(perturbation, oracle, *rows, leapfrog)
            noise = Noise(seeds.generators(0, Purpose.BENCH, range(len(x))), CHAINS, x)
            path_sampling(sampler, qs, samples=samples, chains=CHAINS, noise=noise)
            return oracle.gradients

    def theirs(several: Sequence[float]) -> int:
        before = peer.images
        for q in several:
            transcription(peer, x, y, eps, q, samples=samples, leapfrog=leapfrog)
        return peer.images - before

    calls = {
        "single": (ours_single, lambda: theirs([max(qs)])),
        "all": (ours_all, lambda: theirs(qs)),
    }
    result: dict[str, object] = {
        "schema": "robustctl.bench-intermediate/1",
        "distribution": str(perturbation),
        "q": list(qs),
        "n": len(data),
        "samples": samples,
        "leapfrog": leapfrog,
        "rounds": rounds,
        "hardware": hardware(device),
    }
    for name, (ours, peers) in calls.items():
        result[name] = timed = _in_turns(ours, peers, rounds, len(data), device)
        report(f"{name}: {timed['ratio']:.2f} times faster")
    return result | {"ratio": result["single"]["ratio"]}  # type: ignore[index]


def _in_turns(
    ours: Callable[[], int], peers: Callable[[], int], rounds: int, images: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of both, model evaluations per image, and the median ratio. Each round runs both in turn."""
    ours_seconds, peer_seconds, evaluations = [], [], (0, 0)
    for _ in range(rounds):
        ours_time, ours_count = _timed(ours, device)
        peer_time, peer_count = _timed(peers, device)
        ours_seconds.append(ours_time)
        peer_seconds.append(peer_time)
        evaluations = ours_count // images, peer_count // images
    ratios = [peer / own for peer, own in zip(peer_seconds, ours_seconds, strict=True)]
    return {
        "ours_seconds": statistics.median(ours_seconds),
        "peer_seconds": statistics.median(peer_seconds),
        "ours_evaluations": evaluations[0],
        "peer_evaluations": evaluations[1],
        "ratio": statistics.median(ratios),
    }


def _timed(call: Callable[[], int], device: torch.device) -> tuple[float, int]:
    start = time.perf_counter()
    count = call()
    wait_for(device)
    return time.perf_counter() - start, count

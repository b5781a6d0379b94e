"""Runs independent attackers against the points that survive a protocol of robustctl.

    python tests/support/attackers.py MODEL --data D --attack standard --n 50

needs ``pip install -e '.[attackers]'`` and ``pip install --no-deps adv-lib==0.2.8``. The attackers are FMN, DDN, ALMA,
PDGD and PDPGD of adversarial-library, and the attack of Brendel and Bethge of foolbox. They share no code with
robustctl; what they find is projected onto ball and box and judged by the referee.
"""

import argparse
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import robustctl
from robustctl import geometry
from robustctl.data import ImageData
from robustctl.evaluation import referee
from robustctl.results.union import UnionResult
from robustctl.threats import Norm, Threat

STEPS = 300
ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
Attacker = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


@dataclass
class Report:
    """Which survivors of one norm fall, by attacker; positions in the images."""

    norm: Norm
    survivors: list[int]
    fell: dict[str, set[int]] = field(default_factory=dict)

    @property
    def together(self) -> set[int]:
        return set().union(*self.fell.values())

    def __str__(self) -> str:
        each = ", ".join(f"{name} {len(points)}" for name, points in self.fell.items())
        return f"{self.norm}: {len(self.together)} of {len(self.survivors)} survivors fall ({each})"


def attackers(norm: Norm) -> dict[str, Attacker]:
    """Those that can do a norm; each takes a model, images, labels and points of other classes to start from."""
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # adversarial-library draws with it if asked to
    from adv_lib.attacks import alma, ddn, fmn, pdgd, pdpgd

    found: dict[str, Attacker] = {
        "FMN": lambda model, x, y, _: fmn(model, x, y, norm=ORDER[norm], steps=STEPS),
        "PDPGD": lambda model, x, y, _: pdpgd(model, x, y, norm=ORDER[norm], num_steps=STEPS),
        "Brendel-Bethge": lambda model, x, y, starts: _brendel_bethge(norm, model, x, y, starts),
    }
    if norm != "linf":
        found["ALMA"] = lambda model, x, y, _: alma(model, x, y, distance=norm, num_steps=STEPS)
    if norm == "l2":
        found["DDN"] = lambda model, x, y, _: ddn(model, x, y, steps=STEPS, levels=None)
        found["PDGD"] = lambda model, x, y, _: pdgd(model, x, y, num_steps=STEPS)
    return found


def _brendel_bethge(norm: Norm, model: nn.Module, x: Tensor, y: Tensor, starts: Tensor) -> Tensor:
    import foolbox
    from foolbox import attacks

    kind = {
        "linf": attacks.LinfinityBrendelBethgeAttack,
        "l2": attacks.L2BrendelBethgeAttack,
        "l1": attacks.L1BrendelBethgeAttack,
    }[norm]
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    found, _, _ = kind(steps=100)(wrapped, x, y, epsilons=None, starting_points=starts)
    return found


def starting_points(model: nn.Module, data: ImageData, positions: list[int]) -> Tensor:
    """For each point the nearest other image that the model puts into another class."""
    everything, labels = data.images(range(len(data))), data.y
    predicted = referee.logits(model, everything).argmax(1)
    distances = torch.cdist(everything[positions].flatten(1), everything.flatten(1))
    distances[predicted[None] == labels[positions][:, None]] = torch.inf
    return everything[distances.argmin(1)]


def attack_survivors(model: nn.Module, data: ImageData, result: UnionResult) -> Iterator[Report]:
    """One report per norm of a result on these images."""
    with torch.random.fork_rng():
        for norm, accuracy in result.norms.items():
            threat = Threat(norm, accuracy.eps, accuracy.eps_text)
            survivors = [position for position, robust in enumerate(result.points.robust[norm]) if robust]
            report = Report(norm, survivors)
            for name, attack in attackers(norm).items() if survivors else ():
                torch.manual_seed(0)
                report.fell[name] = _fallen(attack, model, data, survivors, threat)
            yield report


def _fallen(attack: Attacker, model: nn.Module, data: ImageData, positions: list[int], threat: Threat) -> set[int]:
    x, y = data.images(positions), data.y[positions]
    found = attack(model, x, y, starting_points(model, data, positions)).detach().float().nan_to_num(0.5)
    inside = geometry.project(found, x, threat.norm, threat.eps)
    inside = geometry.shrink_inside(inside, x, threat.norm, threat.eps)
    broken = referee.judge(model, x, y, inside, threat).broken
    return {position for position, is_broken in zip(positions, broken.tolist(), strict=True) if is_broken}


def main() -> None:
    """Evaluate, attack the survivors, print a line per norm."""
    parser = argparse.ArgumentParser(description="independent attackers against the survivors of a protocol")
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--attack", default="standard")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eps", default=None, help="such as linf:0.3,l2:2,l1:10")
    asked = parser.parse_args()
    from robustctl import data as images

    model = robustctl.load_model(asked.model).requires_grad_(False)
    taken = images.load(asked.data, "test", asked.n)
    result = robustctl.evaluate(
        model, data=taken, protocol=asked.attack, seed=asked.seed, threats=asked.eps, precision="float32"
    )
    print(f"{asked.model}, --attack {asked.attack}, n {len(taken)}, seed {asked.seed}: union {result.union.acc:.1%}")
    start = time.monotonic()
    union: set[int] = {i for i, robust in enumerate(result.points.union()) if robust}
    fallen: set[int] = set()
    for report in attack_survivors(model, taken, result):
        print(f"  {report}", flush=True)
        fallen |= report.together
    print(f"  union: {len(fallen & union)} of {len(union)} survivors fall; {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()

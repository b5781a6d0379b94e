"""How near to the best known witnesses each minimum-norm attack comes: AttackBench's optimality.

    python tests/support/optimality.py MODEL --data D --eps linf:8/255,l2:0.5,l1:12,l0:9 --n 50

needs ``pip install -e '.[attackers]'`` and ``pip install --no-deps adv-lib==0.2.8``. An attack may ask the model so
many times for an image (a forward pass and a backward pass are a query each); the nearest misclassified point among
all that it asked about counts (arXiv:2404.19460). The envelope is the nearest point of all attacks for each image, and
an attack's optimality is the share of the area above the envelope's curve that lies above its own, up to the radius at
which the envelope has broken every image:

    sum over images of (r - min(d, r)), divided by the same of the envelope's distances

Our own figure is the accuracy against radius that ``robustctl eval --curve`` finds, with its own number of queries.
"""

import argparse
import math
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

import robustctl
from robustctl.data import ImageData
from robustctl.evaluation import referee
from robustctl.threats import CurveNorm

ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0, "l0": 0.0}
QUERIES = 2000
UP_TO = 20.0
"""The end of our curve in multiples of the radii, far beyond the farthest image."""
RESAMPLES = 2000
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Spent(Exception):
    """The budget of queries is used up."""


class Asked(nn.Module):
    """A model that counts its queries for an image and keeps the nearest misclassified point of each image."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, norm: CurveNorm, budget: int) -> None:
        super().__init__()
        self.model, self.x, self.y, self.norm, self.budget = model, x, y, norm, budget
        self.queries = 0.0
        self.distance = torch.full((len(x),), math.inf, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """Logits; a batch of all images is looked through."""
        if self.queries >= self.budget:
            raise Spent
        out: Tensor = self.model(x)
        self.queries += len(x) / len(self.x)
        if len(x) == len(self.x):
            self.look(x.detach(), out.detach())
        if out.requires_grad:
            out.register_hook(self._backward)
        return out

    def _backward(self, grad: Tensor) -> None:
        self.queries += len(grad) / len(self.x)

    def look(self, x: Tensor, out: Tensor) -> None:
        """Take in a batch of all images and its logits."""
        inside = referee.in_box(x) & (out.argmax(1) != self.y)
        sizes = torch.where(inside, referee.distance(x, self.x, self.norm), torch.inf)
        self.distance = torch.minimum(self.distance, sizes)


def attacks(norm: CurveNorm, steps: int) -> dict[str, Attack]:
    """Attacks of other libraries that look for the least distance in a norm."""
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))  # adversarial-library draws with it if asked to
    from adv_lib.attacks import alma, ddn, fab, fmn, pdgd, pdpgd
    from adv_lib.attacks.sigma_zero import sigma_zero

    found: dict[str, Attack] = {
        "FMN": partial(fmn, norm=ORDER[norm], steps=steps),
        "PDPGD": partial(pdpgd, norm=ORDER[norm], num_steps=steps),
        "Brendel-Bethge": partial(_brendel_bethge, norm, steps),
    }
    if norm in ("l1", "l2"):
        found["ALMA"] = partial(alma, distance=norm, num_steps=steps)
    if norm == "l2":
        found["DDN"] = partial(ddn, steps=steps, levels=None)
        found["PDGD"] = partial(pdgd, num_steps=steps)
    if norm == "l0":
        found["sigma-zero"] = partial(sigma_zero, num_steps=steps)
    else:
        found["FAB"] = partial(fab, norm=ORDER[norm], n_iter=steps)
    return found


def _brendel_bethge(norm: CurveNorm, steps: int, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    import foolbox
    from foolbox import attacks as theirs

    kinds = {
        "linf": theirs.LinfinityBrendelBethgeAttack,
        "l2": theirs.L2BrendelBethgeAttack,
        "l1": theirs.L1BrendelBethgeAttack,
        "l0": theirs.L0BrendelBethgeAttack,
    }
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    found: Tensor = kinds[norm](steps=steps).run(wrapped, x, foolbox.Misclassification(y))
    return found


def distances(
    attack: Attack, model: nn.Module, x: Tensor, y: Tensor, norm: CurveNorm, budget: int
) -> tuple[Tensor, float]:
    """The nearest misclassified points of an attack, (n,) float64, infinite if there were none; and its queries."""
    asked = Asked(model, x, y, norm, budget)
    torch.manual_seed(0)
    try:
        found = attack(asked.eval(), x, y).detach()
        with torch.no_grad():
            asked.look(found, model(found))
    except Spent:
        pass
    except (ValueError, RuntimeError, AssertionError) as error:  # such as no start of another class
        print(f"  {norm}: {type(error).__name__}: {error}", file=sys.stderr)
    return asked.distance, asked.queries


def optimality(found: Tensor, envelope: Tensor) -> float:
    """AttackBench's optimality in [0,1] of distances (n,) against the nearest known ones (n,)."""
    end = envelope.max()
    return float((end - found.clamp(max=end)).sum() / (end - envelope).sum())


def interval(found: Tensor, envelope: Tensor) -> tuple[float, float]:
    """The 95 % bootstrap interval of the optimality: images (n,) are drawn again with replacement."""
    drawn = torch.randint(len(found), (RESAMPLES, len(found)), generator=torch.Generator().manual_seed(0))
    shares = torch.tensor([optimality(found[rows], envelope[rows]) for rows in drawn], dtype=torch.float64)
    low, high = shares.nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


@dataclass(frozen=True)
class Found:
    """The figures of an attack: optimality with its interval in [0,1], median distance, queries for an image."""

    share: float
    low: float
    high: float
    median: float
    queries: float


def measure(
    model: nn.Module, data: ImageData, eps: dict[CurveNorm, str], budget: int = QUERIES
) -> tuple[dict[CurveNorm, dict[str, Found]], int]:
    """By norm and attack what was found, and the number of images. Images that are wrong as they are do not count."""
    everything = data.images(range(len(data)))
    right = (referee.logits(model, everything).argmax(1) == data.y).nonzero().squeeze(1)
    data = data.select(right.tolist())
    x, y = data.images(range(len(data))), data.y
    table: dict[CurveNorm, dict[str, Found]] = {}
    for norm, text in eps.items():
        curve = robustctl.evaluate_curve(model, data=data, eps=f"{norm}:{text}", norms=norm, up_to=UP_TO).norms[norm]
        ours = torch.tensor([math.inf if one is None else one for one in curve.distance], dtype=torch.float64)
        found = {"robustctl --curve": (ours, 2 * curve.evaluations / len(data))}
        for name, attack in attacks(norm, budget // 2).items():
            found[name] = distances(attack, model, x, y, norm, budget)
            print(f"  {norm} {name}: {found[name][1]:.0f} queries", file=sys.stderr, flush=True)
        envelope = torch.stack([sizes for sizes, _ in found.values()]).amin(0)
        known = envelope.isfinite()
        table[norm] = {
            name: Found(
                optimality(sizes[known], envelope[known]),
                *interval(sizes[known], envelope[known]),
                float(sizes.median()),
                queries,
            )
            for name, (sizes, queries) in found.items()
        }
    return table, len(data)


def main() -> None:
    """Print a table in Markdown, the best attack of each norm first."""
    parser = argparse.ArgumentParser(description="AttackBench's optimality of minimum-norm attacks")
    parser.add_argument("model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--eps", required=True, help="radii that our curve is scaled by, such as linf:0.3,l0:12")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--queries", type=int, default=QUERIES)
    asked = parser.parse_args()
    from robustctl import data as images

    eps = {norm: text for norm, _, text in (part.partition(":") for part in asked.eps.split(","))}
    model = robustctl.load_model(asked.model).requires_grad_(False)
    taken = images.load(asked.data, "test", asked.n)
    table, n = measure(model, taken, {norm: eps[norm] for norm in ORDER if norm in eps}, asked.queries)
    print(f"{n} images, seed 0, {asked.queries} queries\n")
    print("| norm | attack | optimality | median distance | queries |\n|---|---|---|---|---|")
    for norm, rows in table.items():
        for name, one in sorted(rows.items(), key=lambda row: -row[1].share):
            share = f"{100 * one.share:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"
            print(f"| {norm} | {name} | {share} | {one.median:.4g} | {one.queries:.0f} |")


if __name__ == "__main__":
    main()

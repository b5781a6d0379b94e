"""One optimiser step as a method sees it: the batch, the attack, the outer loss, and places for measurements."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustctl import geometry, losses, seeds
from robustctl.attacks.apgd import apgd
from robustctl.attacks.pgd import pgd
from robustctl.oracle import Oracle
from robustctl.recipe.outer import CrossEntropy, Hat, Mart, Score, Trades
from robustctl.recipe.schema import Apgd, Pgd
from robustctl.seeds import Purpose
from robustctl.threats import Threat
from robustctl.training.meter import Meter
from robustctl.training.step_context import StepContext


class Step:
    """One optimiser step.

    Attributes:
        x: this process's images (n, c, h, w) in [0,1], augmented.
        y: labels (n,), or soft labels (n, k) under mixup.
        number: optimiser steps done before this one; with the seed it fixes every random choice.
        points: what ``run`` and ``look`` found in this step, in order. A step that is given them finds the same without
            an attack.
        error: share of wrong predictions at the points that ``losses`` saw last, over all processes.
    """

    def __init__(
        self,
        context: StepContext,
        x: Tensor,
        y: Tensor,
        number: int,
        watch: bool = False,
        points: Sequence[Tensor] | None = None,
    ) -> None:
        self.context = context
        self.points: list[Tensor] = []
        self._known = None if points is None else list(points)
        self.x = x
        self.y = y
        self.number = number
        self.watch = watch
        self.error = torch.zeros((), device=x.device)

    @property
    def model(self) -> nn.Module:
        return self.context.model

    @property
    def labels(self) -> Tensor:
        """Labels (n,); under mixup the heavier of the two."""
        return self.y.argmax(1) if self.y.dim() == 2 else self.y

    @cached_property
    def generator(self) -> torch.Generator:
        """The same in all processes; a function of seed and step number."""
        return seeds.generator(self.context.seed, Purpose.TRAIN_NORM, self.number)

    @cached_property
    def generators(self) -> list[torch.Generator]:
        """One an image of this process; an image's does not depend on the number of processes."""
        first = self.context.world.rank * len(self.x)
        positions = range(first, first + len(self.x))
        return seeds.generators(self.context.seed, Purpose.TRAIN_START, positions, self.number)

    def choose(self, probabilities: Sequence[float]) -> int:
        """Draw an index; all processes draw the same."""
        weights = torch.tensor(probabilities, dtype=torch.float64)
        return int(torch.multinomial(weights, 1, generator=self.generator))

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, k) with a graph, in training mode."""
        with self.context.autocast():
            out = self.context.network(x)
        return out if out.dtype == torch.float64 else out.float()

    def in_parts(self, work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Rows with a graph that ``work``, some function of the model, gives for images (n, c, h, w)."""
        with self.context.autocast():
            return self.context.network(x, work).float()

    @cached_property
    def clean_logits(self) -> Tensor:
        """``logits`` of the clean batch, computed once."""
        return self.logits(self.x)

    @contextmanager
    def oracle(self) -> Iterator[Oracle]:
        """The oracle that attacks ask: the model in eval mode, or a copy that is equal to it, with the present
        weights."""
        with self.context.autocast(), self.context.attacked.oracle(self.x) as oracle:
            yield oracle

    def begun_again(self) -> "Step":
        """The same step from its beginning."""
        return Step(self.context, self.x, self.y, self.number, self.watch)

    def replay(self) -> "Step":
        """The same step once more: the same random choices and points, no attack, and nothing is measured."""
        context = replace(self.context, meter=Meter())
        return Step(context, self.x, self.y, self.number, points=self.points)

    def attack(self, threat: Threat, rows: Tensor | None = None) -> Tensor:
        """Adversarial points (n, c, h, w) of the batch by the recipe's attack.

        Args:
            rows: (n,), true for the images that are attacked; the others stay as they are.
        """
        return self.run(lambda oracle, target: self._attack(oracle, target, threat, rows))

    def run(self, attack: Callable[[Oracle, Tensor], Tensor]) -> Tensor:
        """Points (n, c, h, w) that ``attack(oracle, target)`` finds.

        ``target`` is what ``losses.ce`` compares logits with: labels, or soft labels (n, k). The largest perturbation
        is recorded, and in the first steps the guards compare the losses.
        """
        if self._known is not None:
            return self._known.pop(0)
        with self.oracle() as oracle:
            target = self._target(oracle)
            x_adv = attack(oracle, target)
            if self.watch:
                self._compare(oracle, x_adv, target)
        self.points.append(x_adv)
        self.record("perturbation", geometry.norm(x_adv - self.x, "linf").amax())
        return x_adv

    def look(self, measure: Callable[[Oracle], Tensor]) -> Tensor:
        """The value that ``measure(oracle)`` reads off the model in eval mode, without a graph; the same in a
        replay."""
        if self._known is not None:
            return self._known.pop(0)
        with self.oracle() as oracle:
            self.points.append(measure(oracle))
        return self.points[-1]

    def judge(self, x_adv: Tensor, name: str) -> Tensor:
        """The loss (n,) that the attack maximises, at its points, without a graph; the error is recorded under
        ``name``, a norm or another threat."""
        with self.oracle() as oracle:
            logits = oracle.logits(x_adv)
            self.record_error(name, logits)
            return losses.ce(logits, self._target(oracle))

    def natural(self) -> Tensor:
        """Cross-entropy (n,) of the clean batch."""
        return losses.ce(self.clean_logits, self.y)

    def losses(self, x_adv: Tensor, name: str) -> Tensor:
        """The outer loss (n,) at adversarial points, whose error is recorded under ``name``, a norm or a method."""
        logits = self.logits(x_adv)
        self.record_error(name, logits)
        return self.outer(logits, x_adv)

    def outer(self, logits: Tensor, x_adv: Tensor) -> Tensor:
        """The outer loss (n,) of adversarial logits (n, k), which belong to the points x_adv (n, c, h, w)."""
        outer = self.context.outer
        if isinstance(outer, CrossEntropy):
            return F.cross_entropy(logits, self.y, reduction="none", label_smoothing=outer.label_smoothing)
        if isinstance(outer, Mart):
            return mart(self.clean_logits, logits, self.labels, outer.beta)
        if isinstance(outer, Score):
            return score(self.clean_logits, logits, self._soft_labels(outer.label_smoothing), outer.beta)
        clean = F.cross_entropy(self.clean_logits, self.y, reduction="none", label_smoothing=outer.label_smoothing)
        trades = clean + outer.beta * kl(self.clean_logits, logits)
        return trades + outer.gamma * self._farther(x_adv, outer.reach) if isinstance(outer, Hat) else trades

    def mean(self, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """The mean of per-example values (n,) over the batch of all processes, or over the examples in ``mask``.

        The processes' gradients are averaged; an empty mask gives 0.
        """
        if mask is None:
            return values.mean()
        count = self.context.world.mean(mask.sum().to(values.dtype)).clamp_min(1 / self.context.world.size)
        return (values * mask).sum() / count

    def record(self, name: str, value: Tensor | float) -> None:
        """Add a value to the metrics; they report its mean."""
        self.context.meter.add(name, value)

    def record_error(self, name: str, logits: Tensor) -> None:
        """Set ``error``, and report it under ``name`` together with that name's share of the batches."""
        wrong = (logits.detach().argmax(1) != self.labels).float().mean()
        self.error = self.context.world.mean(wrong)
        self.record(f"robust_error/{name}", self.error)

    def record_share(self, name: str, taken: Tensor) -> None:
        """Report the share of images that train on the point called ``name``; taken (n,) is true for those.

        Without this the metrics give the share of batches in which ``record_error`` knew the name.
        """
        self.record(f"share/{name}", taken.float().mean())

    def _target(self, oracle: Oracle) -> Tensor:
        # Cross-entropy with the clean prediction as soft label is TRADES's KL up to a constant of each image.
        if isinstance(self.context.outer, Trades | Hat):
            return oracle.logits(self.x).softmax(1)
        return self.y

    def _farther(self, x_adv: Tensor, reach: float) -> Tensor:
        """Cross-entropy (n,) with the helper's labels of the points, at ``reach`` times their perturbation.

        The farther points are not cut to the box, as in the authors' code (imrahulr/hat at commit 2d8fae7).
        """
        helper = self.context.helper
        assert helper is not None, "the training was built with its helper"
        with torch.no_grad():  # in eval mode, so that the parts of a batch do not touch each other
            labels = torch.cat([helper(x_adv[part]).argmax(1) for part in self.context.room.parts(len(x_adv))])
        return losses.ce(self.logits(self.x + reach * (x_adv - self.x)), labels)

    def _soft_labels(self, smoothing: float) -> Tensor:
        """Labels (n, k) that give ``smoothing`` to all classes alike."""
        k = self.clean_logits.shape[1]
        labels = self.y if self.y.dim() == 2 else F.one_hot(self.y, k).to(self.clean_logits.dtype)
        return labels * (1 - smoothing) + smoothing / k

    def _attack(self, oracle: Oracle, target: Tensor, threat: Threat, rows: Tensor | None) -> Tensor:
        attack = self.context.attack
        assert attack is not None, "the recipe was checked"
        x, generators = self.x, self.generators if attack.start == "random" else []
        if rows is not None:
            x, target = x[rows], target[rows]
        if rows is not None and generators:
            generators = [one for one, taken in zip(generators, rows.tolist(), strict=True) if taken]
        points = climb(oracle, x, target, threat, attack, generators)
        return points if rows is None else self.x.index_put((rows,), points)

    def _compare(self, oracle: Oracle, x_adv: Tensor, target: Tensor) -> None:
        for name, points in (("watch/clean", self.x), ("watch/adversarial", x_adv)):
            self.record(name, losses.ce(oracle.logits(points), target).mean())


def climb(
    oracle: Oracle, x: Tensor, target: Tensor, threat: Threat, attack: Apgd | Pgd, generators: list[torch.Generator]
) -> Tensor:
    """The recipe's attack on images (n, c, h, w); ``generators``, one per image, draw random starts."""
    if not len(x):
        return x
    steps = attack.steps[threat.norm]
    start = geometry.random_start(x, threat.norm, threat.eps, generators) if attack.start == "random" else None
    if isinstance(attack, Apgd):
        return apgd(oracle, x, target, threat, steps=steps, start=start, sparsity=attack.l1_sparsity)
    size = attack.step[threat.norm] * threat.eps
    return pgd(oracle, x, target, threat, steps=steps, step_size=size, start=start)


def kl(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(p || q) in nats of two predictions given by logits (n, k), shape (n,)."""
    log_p, log_q = F.log_softmax(logits_p, 1), F.log_softmax(logits_q, 1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def mart(clean: Tensor, adversarial: Tensor, labels: Tensor, beta: float) -> Tensor:
    """MART's loss (n,) from logits (n, k): Wang et al. 2020, equations 9 to 11.

    Boosted cross-entropy at the adversarial point, plus ``beta`` times the KL between both predictions, weighted by
    how unsure the clean one is of the label.
    """
    p_adversarial = adversarial.softmax(1)
    wrong = p_adversarial.scatter(1, labels[:, None], 0.0).amax(1)
    boosted = losses.ce(adversarial, labels) - torch.log((1 - wrong).clamp_min(losses.TINY))
    unsure = 1 - clean.softmax(1).gather(1, labels[:, None]).squeeze(1)
    return boosted + beta * unsure * kl(clean, adversarial)


def score(clean: Tensor, adversarial: Tensor, soft_labels: Tensor, beta: float) -> Tensor:
    """Squared-error TRADES (n,) from logits (n, k): Pang et al. 2022 (SCORE), equation 12 with the squared distance."""
    p_clean, p_adversarial = clean.softmax(1), adversarial.softmax(1)
    return (p_clean - soft_labels).square().sum(1) + beta * (p_adversarial - p_clean).square().sum(1)

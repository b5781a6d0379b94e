"""MNG-AC (Madaan et al. 2021, arXiv:2006.12135): SAT with noise that is learned, and predictions that agree.

Each batch meets one norm, drawn uniformly. A small network makes noise for every image (the meta noise generator): it
is trained so that one step of the classifier on the noisy images lowers the loss at the adversarial ones (their
equation 6). The predictions at clean, noisy and adversarial images are kept close (equation 7). Followed: train_MNG.py
of the authors' repository at commit c0a1598, where the noise does not depend on the image but through its ball.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from robustctl.recipe.fields import NonNegativeFinite, PositiveFinite
from robustctl.recipe.method import OuterName, SeveralNormsConfig
from robustctl.threats import Threat
from robustctl.training.methods import TrainingMethod

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from robustctl.processes import World
    from robustctl.training.step import Step

WIDTH = 20
"""Channels between the generator's layers."""
MOMENTUM, DECAY = 0.9, 5e-4
"""The momentum and the weight decay of the generator's SGD."""


class Config(SeveralNormsConfig):
    """The ``method`` block.

    Attributes:
        weight: of the Jensen-Shannon divergence of the three predictions.
        rate: of the generator, and of the classifier's step that it looks ahead. The authors change it with the
            classifier's schedule; here it stays.
    """

    name: Literal["mng-ac"]
    weight: NonNegativeFinite = 12.0
    rate: PositiveFinite = 0.1

    def outers(self) -> tuple[OuterName, ...]:
        """The paper's loss is the cross-entropy."""
        return ("cross-entropy",)


class Method(TrainingMethod):
    """Owns the generator: its weights, and their velocity under momentum."""

    alone = True  # the gradients of the generator are not shared

    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.config = config
        self.threats = threats
        self.weights: list[Tensor] = []
        self.velocity: list[Tensor] = []

    def loss(self, step: Step) -> Tensor:
        if not self.weights:
            self._begin(step)
        self.weights = [one.to(step.x) for one in self.weights]  # a state that was read is on the host
        self.velocity = [one.to(step.x) for one in self.velocity]
        threat = self.threats[step.choose([1 / len(self.threats)] * len(self.threats))]
        x_adv = step.attack(threat)
        x_noisy = step.look(lambda _: self._learn(step, x_adv, threat))
        logits = step.logits(x_adv)
        step.record_error(threat.norm, logits)
        apart = divergence([step.clean_logits, logits, step.logits(x_noisy)])
        step.record("js_divergence", step.mean(apart))
        return step.mean(step.outer(logits, x_adv)) + self.config.weight * step.mean(apart)

    def _begin(self, step: Step) -> None:
        import torch

        from robustctl import seeds

        channels = step.x.shape[1]
        generator = seeds.generator(step.context.seed, seeds.Purpose.GENERATOR, 0)
        for n_in, n_out, size in ((channels, WIDTH, 1), (WIDTH, WIDTH, 3), (WIDTH, WIDTH, 1), (WIDTH, channels, 1)):
            drawn = torch.randn(n_out, n_in, size, size, generator=generator) * math.sqrt(2 / (size * size * n_out))
            self.weights += [drawn.to(step.x), torch.zeros(n_out).to(step.x)]
        self.velocity = [torch.zeros_like(one) for one in self.weights]

    def _learn(self, step: Step, x_adv: Tensor, threat: Threat) -> Tensor:
        """One step of the generator; noisy images (n, c, h, w) that it makes afterwards."""
        import torch

        # ``look`` has the model in eval mode: the statistics of batch norm are the classifier's own business.
        with torch.enable_grad():
            loss, found = self._slopes(step, x_adv, drawn(step), threat)
        step.record("generator_loss", loss)
        with torch.no_grad():
            # New tensors: a step that is done again goes back to the old ones, which ``remembered`` holds.
            decayed = [slope + DECAY * one for slope, one in zip(found, self.weights, strict=True)]
            self.velocity = [MOMENTUM * old + slope for old, slope in zip(self.velocity, decayed, strict=True)]
            self.weights = [one - self.config.rate * v for one, v in zip(self.weights, self.velocity, strict=True)]
            return fit(step.x, noise(self.weights, drawn(step)), threat)

    def _slopes(self, step: Step, x_adv: Tensor, z: Tensor, threat: Threat) -> tuple[Tensor, list[Tensor]]:
        """The generator's loss (equation 6) for noise z (n, c, h + 2, w + 2), and its gradients in the generator's
        weights.

        The batch goes through in the parts that the device takes at once, and sums over parts are the whole batch's.
        With f the classifier's loss at the noisy images and F the one at adversarial images after the step, the chain
        rule gives ``-rate * <F', d f' / d weights>``, which is a sum over parts too: F' does not wait for a graph.
        """
        import torch
        from torch.func import functional_call

        from robustctl import losses

        x, y, rate = step.x, step.y, self.config.rate
        parts = step.context.room.parts(len(x))
        weights = [one.detach().requires_grad_() for one in self.weights]
        known = {name: one.detach().clone().requires_grad_() for name, one in step.model.named_parameters()}

        def loss(weights_of: dict[str, Tensor], points: Tensor, part: slice) -> Tensor:
            return losses.ce(functional_call(step.model, weights_of, (points,)), y[part]).sum() / len(x)

        def inner(part: slice, *, graph: bool) -> list[Tensor]:
            noisy = fit(x[part], noise(weights, z[part]), threat)
            return list(torch.autograd.grad(loss(known, noisy, part), list(known.values()), create_graph=graph))

        alone = len(parts) == 1
        kept = [inner(part, graph=alone) for part in parts]
        ahead = {
            name: (one - rate * total(slopes)).detach().requires_grad_()
            for (name, one), *slopes in zip(known.items(), *kept, strict=True)
        }
        values, outer = [], []
        for part in parts:
            values.append(loss(ahead, x_adv[part], part))
            outer.append(torch.autograd.grad(values[-1], list(ahead.values())))
        towards = [total(slopes) for slopes in zip(*outer, strict=True)]
        found = []
        for part in parts:
            slopes = kept[0] if alone else inner(part, graph=True)
            found.append(torch.autograd.grad(slopes, weights, [-rate * one for one in towards]))
        return total(values).detach(), [total(slopes) for slopes in zip(*found, strict=True)]

    def state(self) -> dict[str, Any]:
        return {"weights": self.weights, "velocity": self.velocity}

    def load_state(self, state: dict[str, Any], world: World) -> None:
        self.weights = [one.clone() for one in state["weights"]]
        self.velocity = [one.clone() for one in state["velocity"]]


def total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of a batch's parts."""
    return sum(parts[1:], parts[0])


def drawn(step: Step) -> Tensor:
    """Gaussian noise (n, c, h + 2, w + 2), each image's from its own generator."""
    import torch

    from robustctl.devices import upload

    _, c, h, w = step.x.shape
    z = torch.stack([torch.randn(c, h + 2, w + 2, generator=one) for one in step.generators])
    return upload(z, step.x.device).to(step.x.dtype)


def noise(weights: list[Tensor], z: Tensor) -> Tensor:
    """The generator: four convolutions, the second 3x3, and its input added; z (n, c, h + 2, w + 2) -> (n, c, h, w)."""
    from torch.nn import functional as F

    x = z
    for i in range(0, len(weights), 2):
        x = F.conv2d(x, weights[i], weights[i + 1])
        if i + 2 < len(weights):
            x = F.leaky_relu(x)
    return x + z[:, :, 1:-1, 1:-1]


def fit(x: Tensor, delta: Tensor, threat: Threat) -> Tensor:
    """The noisy image x + delta in the ball and the box, differentiable in delta.

    l_inf clips delta, l_2 scales it to the radius, l_1 projects it.
    """
    if threat.norm == "linf":
        delta = delta.clamp(-threat.eps, threat.eps)
    elif threat.norm == "l2":
        delta = delta * (threat.eps / delta.flatten(1).norm(dim=1).clamp_min(1e-12)).view(-1, 1, 1, 1)
    else:
        size = delta.flatten(1).abs()
        largest = size.detach().sort(1, descending=True).values
        excess = (largest.cumsum(1) - threat.eps) / _counts(largest)
        kept = (largest > excess).sum(1, keepdim=True)
        active = size.detach() >= largest.gather(1, kept - 1)
        threshold = ((size * active).sum(1, keepdim=True) - threat.eps) / kept
        shrunk = (size - threshold.clamp_min(0)).clamp_min(0).view_as(delta)
        delta = delta.sign() * shrunk
    return (x + delta).clamp(0, 1)


def _counts(rows: Tensor) -> Tensor:
    import torch

    return torch.arange(1, rows.shape[1] + 1, device=rows.device, dtype=rows.dtype)


def divergence(logits: list[Tensor]) -> Tensor:
    """Jensen-Shannon divergence (n,) in nats of several predictions, given by logits (n, k) each."""
    predictions = [one.softmax(1) for one in logits]
    mixture = (sum(predictions[1:], predictions[0]) / len(predictions)).clamp(1e-7, 1).log()
    apart = [(p * (one.log_softmax(1) - mixture)).sum(1) for p, one in zip(predictions, logits, strict=True)]
    return sum(apart[1:], apart[0]) / len(apart)

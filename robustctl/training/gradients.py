"""The gradients of one step of the optimiser, and what gives way if memory runs out on the way to them."""

import torch
from torch import Tensor

from robustctl.errors import RunError
from robustctl.progress import say
from robustctl.training import optim
from robustctl.training.attacked import Tell
from robustctl.training.parts import Parts
from robustctl.training.passes import Pass
from robustctl.training.recompute import lent_buffers
from robustctl.training.retry import Kept, retried
from robustctl.training.step import Step
from robustctl.training.step_context import StepContext
from robustctl.training.weight_perturbation import moved_uphill


class Gradients:
    """Puts the gradients of a step's loss on the parameters.

    Args:
        tell: takes the line of the metrics that says what gave way.
    """

    def __init__(self, parts: Parts, context: StepContext, tell: Tell) -> None:
        self.model, self.settings, self.method, self.world = parts.model, parts.settings, parts.method, parts.world
        self.seed, self.context, self.tell = parts.seed, context, tell

    def put(self, step: Step, optimizer: torch.optim.Optimizer, this: Pass) -> None:
        """Put the gradients of a step of the pass ``this`` on the parameters, and record its loss.

        If memory runs out, the step begins again and takes less.

        Raises:
            RunError: a single image does not fit, or memory ran out in one of several processes.
        """
        kept = Kept(self.model, self.method, self.context.meter)

        def work() -> None:
            torch.manual_seed((self.seed * 1_000_003 + step.number) % 2**63)  # dropout and the like
            optimizer.zero_grad(set_to_none=True)
            one = step.begun_again()
            one.record("loss", self._backward(one, this))
            if this.kind == "method":
                self.method.after_backward(one)

        def give_way(error: RuntimeError) -> None:
            optimizer.zero_grad(set_to_none=True)
            kept.restore()
            self._give_way(step, error)

        retried(work, give_way)

    def _backward(self, step: Step, this: Pass) -> Tensor:
        """Put the loss's gradient on the parameters; with weight perturbation, the gradient at weights moved uphill."""
        awp = self.settings.awp
        if awp is None or this.kind != "method" or this.epoch < awp.warmup:
            loss = self._loss(step, this)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss
        before = self.method.remembered()
        with lent_buffers(self.model):
            uphill = self._loss(step, this)
        after = self.method.remembered()
        self.method.recall(before)
        with moved_uphill(self.model, uphill, awp.gamma, self.world):
            loss = self._loss(step.replay(), this)
            loss.backward()  # type: ignore[no-untyped-call]
        self.method.recall(after)
        return loss

    def _loss(self, step: Step, this: Pass) -> Tensor:
        loss = self.method.loss(step) if this.kind == "method" else step.mean(step.natural())
        if self.settings.regularize:
            loss = loss + optim.penalty(self.model, self.settings.regularize)
        return loss

    def _give_way(self, step: Step, error: RuntimeError) -> None:
        """Take less room for this process's batch; a line on stderr and one in the metrics tell it."""
        if self.world.size > 1:
            raise RunError(
                f"memory ran out in one of {self.world.size} processes ({error}); take fewer images at once: "
                "--set train.micro_batch=auto"
            )
        room = self.context.room
        change = room.give_way(len(step.x))
        say(f"memory ran out in step {step.number + 1}: {change}")
        self.tell({"kind": "memory", "step": step.number, **room.state()})

"""Exact verdicts on small networks over an l_inf or l_1 ball, by mixed-integer linear programming.

Tjeng et al., ICLR 2019, arXiv:1711.07356, Section 4: a ReLU whose argument cannot change its sign is linear. Each of
the others gets a binary variable that says on which side of 0 its argument is. The solver is HiGHS, by scipy.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from robustctl.certify.relaxed import RELU, Bounds, Function
from robustctl.results.certificate import LEAST_MARGIN
from robustctl.threats import Threat

NORMS = ("linf", "l1")
"""The norms whose balls are given by linear inequalities."""
CUT = 2 * LEAST_MARGIN
"""The solver is asked for a point whose margin is at most this."""
INFEASIBLE = 2
"""The status of scipy's solver if there is no such point."""


class Least(NamedTuple):
    """At most the least margin. ``image`` (1, c, h, w) has a margin that is not positive; None if none was found."""

    bound: float
    image: Tensor | None


def least_margin(
    network: nn.Module, x: Tensor, slopes: Tensor, bounds: Sequence[Bounds], threat: Threat, seconds: float
) -> Least:
    """Whether several linear functions of the logits are positive over the whole ball cut with the box.

    Args:
        network: as for ``bounds.margin_bound``. x: the centre (1, c, h, w).
        slopes: (rows, classes), one function per row. bounds: on the arguments of all ReLUs.
        seconds: after which the solver gives a function up.

    Returns:
        ``CUT`` if all are larger than that, an image if one is not positive there; else minus infinity.
    """
    program = _program(network, x, bounds, threat)
    certified = True
    for slope in slopes:
        function = _affine(network, x, bounds, None, slope[None])
        none, change = _at_most(CUT, program, function, threat, seconds)
        certified &= none
        if change is not None:  # it lies at the cut, on this side or that: ask for one that is clearly broken
            change = _at_most(-CUT, program, function, threat, seconds)[1]
        if change is not None:
            image = (x + torch.as_tensor(change).to(x).view_as(x)).clamp(0, 1)
            margin = float((network(image) @ slopes.T).min())
            if margin <= 0:
                return Least(margin, image)
    return Least(CUT if certified else -np.inf, None)


class _Affine(NamedTuple):
    """``constant + of_image @ (image - x) + of_outputs @ h``, with h the outputs of the ReLUs that can change sign."""

    constant: np.ndarray
    of_image: np.ndarray
    of_outputs: np.ndarray


class _Split(TorchFunctionMode):
    """ReLUs that cannot change their sign are linear; the outputs of the others are given."""

    def __init__(self, bounds: Sequence[Bounds], outputs: Sequence[Tensor], stop: int | None) -> None:
        super().__init__()
        self.argument: Tensor | None = None
        self._bounds, self._outputs, self._stop, self._reached = bounds, outputs, stop, 0

    def __torch_function__(
        self, function: Function, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function not in RELU or not args[0].requires_grad:
            return function(*args, **(kwargs or {}))
        if self.argument is None and self._reached == self._stop:
            self.argument = args[0]
        if self.argument is not None:  # nothing reads what comes after it
            return args[0]
        low, high = self._bounds[self._reached]
        split = ((low < 0) & (high > 0)).expand_as(args[0])
        kept = args[0] * ((low >= 0) & ~split)
        self._reached += 1
        return kept.masked_scatter(split, self._outputs[self._reached - 1])


def _affine(network: nn.Module, x: Tensor, bounds: Sequence[Bounds], stop: int | None, weights: Tensor) -> _Affine:
    """Rows of ``weights`` times the argument of ReLU ``stop`` (None: the logits) as functions of the variables."""
    copies = x.expand(len(weights), *x.shape[1:]).clone().requires_grad_()
    widths = [int(((low < 0) & (high > 0)).sum()) for low, high in bounds]
    outputs = [torch.zeros(len(weights), width, dtype=x.dtype, device=x.device).requires_grad_() for width in widths]
    split = _Split(bounds, outputs, stop)
    with split:
        logits = network(copies)
    value = ((logits if split.argument is None else split.argument).flatten(1) * weights).sum(1)
    slopes = torch.autograd.grad(value.sum(), [copies, *outputs], allow_unused=True)
    of_image, *of_outputs = [
        torch.zeros(len(weights), like.shape[1:].numel()) if one is None else one.flatten(1)
        for one, like in zip(slopes, [copies, *outputs], strict=True)
    ]
    return _Affine(value.detach().cpu().numpy(), of_image.cpu().numpy(), torch.cat(of_outputs, 1).cpu().numpy())


class _Program(NamedTuple):
    """Variables: the image's change (in l_1 its two halves), the outputs of split ReLUs, and a binary for each."""

    low: np.ndarray
    high: np.ndarray
    binary: np.ndarray
    constraints: list[Any]
    pixels: int


def _columns(one: _Affine, threat: Threat) -> np.ndarray:
    """The coefficients of all variables, one row per function."""
    pixels = np.hstack([one.of_image, -one.of_image]) if threat.norm == "l1" else one.of_image
    return np.hstack([pixels, one.of_outputs, 0 * one.of_outputs])


def _program(network: nn.Module, x: Tensor, bounds: Sequence[Bounds], threat: Threat) -> _Program:
    from scipy.optimize import LinearConstraint  # scipy takes a while to load
    from scipy.sparse import csr_array

    parts = [_split_arguments(network, x, bounds, stop) for stop in range(len(bounds))]
    argument = np.vstack([_columns(one, threat) for one, _, _ in parts])
    constant, low, high = (
        np.concatenate(column) for column in zip(*[(a.constant, b, c) for a, b, c in parts], strict=True)
    )
    n, centre = low.size, x.flatten().cpu().numpy()
    pixels = argument.shape[1] - 2 * n
    if threat.norm == "l1":
        ends = np.zeros(pixels), np.concatenate([1 - centre, centre])
    else:
        ends = np.maximum(-centre, -threat.eps), np.minimum(1 - centre, threat.eps)
    eye, none = np.eye(n), np.zeros((n, n))
    output = np.hstack([np.zeros((n, pixels)), eye, none])
    on = np.hstack([np.zeros((n, pixels)), none, eye])
    constraints = [
        # An output h is at least its argument z; it is at most z where its binary is 1, and 0 where that is 0.
        LinearConstraint(csr_array(output - argument), constant, np.inf),
        LinearConstraint(csr_array(output - argument - low[:, None] * on), -np.inf, constant - low),
        LinearConstraint(csr_array(output - high[:, None] * on), -np.inf, 0),
    ]
    constraints = constraints if n else []  # without a split ReLU the network is linear
    if threat.norm == "l1":
        ball = (np.arange(argument.shape[1]) < pixels)[None].astype(float)
        constraints.append(LinearConstraint(ball, -np.inf, threat.eps))
    return _Program(
        low=np.concatenate([ends[0], np.zeros(2 * n)]),
        high=np.concatenate([ends[1], high, np.ones(n)]),
        binary=np.concatenate([np.zeros(pixels + n), np.ones(n)]),
        constraints=constraints,
        pixels=pixels,
    )


def _split_arguments(
    network: nn.Module, x: Tensor, bounds: Sequence[Bounds], stop: int
) -> tuple[_Affine, np.ndarray, np.ndarray]:
    """The arguments of one layer's split ReLUs as functions of the variables, and their bounds."""
    low, high = (one.flatten() for one in bounds[stop])
    split = ((low < 0) & (high > 0)).nonzero()[:, 0]
    weights = torch.zeros(len(split), low.numel(), dtype=x.dtype, device=x.device)
    weights[torch.arange(len(split), device=x.device), split] = 1
    return _affine(network, x, bounds, stop, weights), low[split].cpu().numpy(), high[split].cpu().numpy()


def _at_most(
    cut: float, program: _Program, margin: _Affine, threat: Threat, seconds: float
) -> tuple[bool, np.ndarray | None]:
    """Whether no image has a margin of at most ``cut``, and the change to one that has if one was found."""
    from scipy.optimize import Bounds as Ends
    from scipy.optimize import LinearConstraint, milp

    row = _columns(margin, threat)
    found = milp(
        np.zeros(row.shape[1]),
        integrality=program.binary,
        bounds=Ends(program.low, program.high),
        constraints=[*program.constraints, LinearConstraint(row, -np.inf, cut - margin.constant)],
        options={"time_limit": seconds},
    )
    change = None if found.x is None else found.x[: program.pixels]
    if change is not None and threat.norm == "l1":
        up, down = np.split(change, 2)
        change = up - down
    return found.status == INFEASIBLE, change

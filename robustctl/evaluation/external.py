"""Attacks from outside: the user's own functions, and adversarial images made anywhere. The referee judges them too.

They meet every point that is right without an attack, whatever robustctl's own attacks found there, so that a result
can tell who broke what. They get copies of the model, the images and the labels: to change those changes no verdict.
"""

import copy
import hashlib
import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from robustctl import geometry, seeds
from robustctl.data import ImageData
from robustctl.devices import HOST, kept_random
from robustctl.errors import RequestError, RunError, of_users_code
from robustctl.evaluation import referee
from robustctl.evaluation.audit import chunks
from robustctl.evaluation.store import EXTERNAL, SECOND, Row, Store, encode
from robustctl.evaluation.union_request import UnionRequest
from robustctl.oracle import Oracle
from robustctl.progress import progress, say
from robustctl.results.union import ExternalFigures, ExternalInfo
from robustctl.threats import Norm, Threat

PROBE = 4  # images whose logits must be the same after a batch of the attack
ROUNDING = 1e-4  # proposals that leave the ball by no more than this, relatively, are pulled back into it
SAME = 1e-4  # relative difference of logits that other batches may make


class External(Protocol):
    """An attack from outside: ``name`` for people, ``sha256`` of its code or file."""

    @property
    def name(self) -> str: ...

    @property
    def sha256(self) -> str: ...

    def points(self, data: ImageData, positions: Sequence[int], norm: Norm) -> list[int]:
        """The positions for which it has something to propose."""

    def attempts(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, indices: Sequence[int], seed: int
    ) -> list[Tensor]:
        """Proposals (n, c, h, w) for images (n, c, h, w) in [0,1] with labels (n,); one tensor per attempt."""


@dataclass(frozen=True)
class Others:
    """The others that may break points: ``attacks`` from outside, and ``stores`` of earlier evaluations."""

    attacks: Sequence[External] = ()
    stores: Sequence[Path] = ()


NONE = Others()


@dataclass(frozen=True)
class ExternalAttack:
    """A function of the user's: ``(model, x, y, eps, norm) -> x_adv``, or of the contract in ``robustctl/attacks``.

    The latter has a first parameter called ``oracle``: ``(oracle, x, y, threat, *, ...)``; it may take ``generator``.
    """

    name: str
    sha256: str
    function: Callable[..., Tensor]
    args: dict[str, Any]

    def points(self, data: ImageData, positions: Sequence[int], norm: Norm) -> list[int]:
        """All of them."""
        return list(positions)

    def attempts(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, indices: Sequence[int], seed: int
    ) -> list[Tensor]:
        """The value that the function returns, once."""
        parameters = list(inspect.signature(self.function).parameters)
        with _seeded(f"{seed}/{self.name}/{threat.norm}/{list(indices)}", x.device), torch.enable_grad():
            if parameters[:1] != ["oracle"]:
                return [self.function(model, x, y, threat.eps, threat.norm, **self.args)]
            if "generator" not in parameters:
                with Oracle(model) as oracle:
                    return [self.function(oracle, x, y, threat, **self.args)]
            generator = seeds.generators(seed, seeds.attack(threat.norm, self.name), indices)
            with Oracle(model) as oracle:
                return [self.function(oracle, x, y, threat, generator=generator, **self.args)]


@dataclass(frozen=True)
class ExternalImages:
    """Adversarial images made anywhere: for each norm and index in the split those that were proposed."""

    name: str
    sha256: str
    images: dict[Norm, dict[int, list[Tensor]]]

    def points(self, data: ImageData, positions: Sequence[int], norm: Norm) -> list[int]:
        """The positions that the file has an image for."""
        return [position for position in positions if int(data.indices[position]) in self.images.get(norm, {})]

    def attempts(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, indices: Sequence[int], seed: int
    ) -> list[Tensor]:
        """The first images, the second ones, ...; a point that has fewer repeats its last."""
        found = [self.images[threat.norm][index] for index in indices]
        most = max(map(len, found))
        return [torch.stack([images[min(i, len(images) - 1)] for images in found]).to(x.device) for i in range(most)]


def attack(
    external: External,
    model: nn.Module,
    data: ImageData,
    store: Store,
    request: UnionRequest,
    right: Sequence[int],
) -> None:
    """Let an attack propose for every point of ``right`` that it has not met, judge that, and commit batch by batch.

    Raises:
        RunError: the attack fails, returns something else than images, or changes the model; what was committed stays.
    """
    if isinstance(external, ExternalImages):
        _require_images(external, data)
    probe = data.images(range(min(PROBE, len(data))))
    before = None if request.random else referee.logits(model, probe)
    for threat in request.threats:
        family = family_of(external)
        done = store.judged(threat.norm, family)
        left = [position for position in external.points(data, right, threat.norm) if position not in done]
        if not left:
            continue
        private = copy.deepcopy(model).eval().requires_grad_(False)
        with progress(f"{external.name} {threat}", len(left)) as advance:
            for chunk in chunks(left, request.batch_size):
                x, y = data.images(chunk), data.y[chunk]
                try:
                    attempts = _attempts(external, private, x, y, threat, data.indices[chunk].tolist(), request.seed)
                except NotImplementedError:
                    say(f"{external.name} does not attack in {threat.norm}")
                    break
                _require_unchanged(external, model, private, probe, before)
                store.add(threat.norm, family, _judged(model, x, y, attempts, threat, chunk, request.passes))
                advance(len(chunk))


def family_of(external: External) -> str:
    """The name of its verdicts in the store; another content under the same name is another family."""
    return f"{EXTERNAL}{external.name} {external.sha256[:12]}"


def infos(store: Store, threats: Sequence[Threat], right: Sequence[int]) -> list[ExternalInfo] | None:
    """The points that each attack from outside broke, if the store has its verdicts; None if there is no such
    attack."""
    families = store.families()
    found = [family for family in families if family.startswith(EXTERNAL)]
    if not found:
        return None
    counted = [family for family in families if not family.startswith((EXTERNAL, SECOND))]
    own = {threat.norm: set().union(*(store.broken(threat.norm, one) for one in counted)) for threat in threats}
    whole = set(right)
    listed = []
    for family in found:
        figures = {}
        for threat in threats:
            broken = store.broken(threat.norm, family)
            if met := len(store.judged(threat.norm, family)):
                figures[threat.norm] = ExternalFigures(
                    met=met,
                    broken=len(broken),
                    beyond=len(broken - own[threat.norm]),
                    own_robust=len(whole - own[threat.norm]),
                )
        name, _, sha256 = family.removeprefix(EXTERNAL).rpartition(" ")
        listed.append(ExternalInfo(name=name, sha256=sha256, norms=figures))
    return listed


def described(protocol: str, found: list[ExternalInfo] | None) -> str:
    """The protocol in a line, with the attacks from outside: results with others do not compare."""
    return "; ".join([protocol, *(f"external {one.name} {one.sha256}" for one in found or ())])


def _attempts(
    external: External, private: nn.Module, x: Tensor, y: Tensor, threat: Threat, indices: list[int], seed: int
) -> list[Tensor]:
    """Ask the attack, with copies of everything; proposals as float32 on the CPU, without what is only rounding."""
    device = next((one.device for one in [*private.parameters(), *private.buffers()]), HOST)
    with of_users_code(f"attack {external.name} fails in {threat} with ", RunError, NotImplementedError):
        found = external.attempts(private, x.clone().to(device), y.clone().to(device), threat, indices, seed)
    return [_proposal(external, one, x, threat) for one in found]


def _proposal(external: External, proposed: object, x: Tensor, threat: Threat) -> Tensor:
    if not isinstance(proposed, Tensor) or proposed.shape != x.shape:
        what = list(proposed.shape) if isinstance(proposed, Tensor) else type(proposed).__name__
        raise RunError(f"attack {external.name} returns {what} in {threat}; expected images {list(x.shape)}")
    x_adv = proposed.detach().to(HOST, torch.float32)
    finite = x_adv.isfinite().flatten(1).all(dim=1).view(-1, 1, 1, 1)
    x_adv = torch.where(finite, x_adv, torch.full_like(x, 2.0))  # outside the box: such a proposal is not counted
    near = referee.distance(x_adv, x, threat.norm) <= threat.eps * (1 + ROUNDING)
    near &= ((x_adv >= -ROUNDING) & (x_adv <= 1 + ROUNDING)).flatten(1).all(dim=1)
    return torch.where(near.view(-1, 1, 1, 1), geometry.shrink_inside(x_adv, x, threat.norm, threat.eps), x_adv)


def _judged(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attempts: list[Tensor],
    threat: Threat,
    positions: Sequence[int],
    passes: int,
) -> list[Row]:
    """The verdict of each point: broken if one attempt breaks it; else inside if all were."""
    verdicts = [referee.judge(model, x, y, x_adv, threat, passes) for x_adv in attempts]
    rows = []
    for i, position in enumerate(positions):
        best = max(range(len(attempts)), key=lambda k: (bool(verdicts[k].broken[i]), float(verdicts[k].margin[i])))
        broken = bool(verdicts[best].broken[i])
        inside = broken or all(bool(one.inside[i]) for one in verdicts)
        packed = encode(attempts[best][i], x[i]) if broken else None
        rows.append(Row(position, broken, inside, float(verdicts[best].margin[i]), packed))
    return rows


def _require_unchanged(
    external: External, model: nn.Module, private: nn.Module, probe: Tensor, before: Tensor | None
) -> None:
    """Raise RunError if the attack has changed its copy of the model, or how the model itself computes."""
    theirs = private.state_dict()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, theirs.get(name, tensor))]
    # A random model computes something else each time.
    if before is not None and not torch.allclose(before, referee.logits(model, probe), rtol=SAME, atol=SAME):
        changed.append("what it computes")
    if changed or theirs.keys() != model.state_dict().keys():
        what = ", ".join(changed[:3]) or "its tensors"
        raise RunError(f"attack {external.name} changes the model ({what}); what it proposed then is not counted")


@contextmanager
def _seeded(text: str, device: torch.device) -> Iterator[None]:
    """Inside, the generators of Python, NumPy and torch are seeded by ``text``; afterwards they are as before."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest())
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with kept_random(device):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _require_images(external: ExternalImages, data: ImageData) -> None:
    """Raise RequestError for adversarial images of points that are not evaluated, or of another size."""
    known = set(data.indices.tolist())
    source = external.name
    for norm, found in external.images.items():
        if strange := sorted(set(found) - known):
            raise RequestError(
                f"{source}: {norm} has an image of index {strange[0]}, which is not among the {len(data)} points of "
                f"{data.where}"
            )
        for index, attempts in found.items():
            if attempts[0].shape != torch.Size(data.shape):
                shape = list(attempts[0].shape)
                raise RequestError(
                    f"{source}: the image of index {index} is {shape}, the data's are {list(data.shape)}"
                )

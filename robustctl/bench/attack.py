"""Our attacks against the reference package: same points, same budget, alternating runs in one process."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import TypeVar

from torch import Tensor

from robustctl.allocator import kept_memory
from robustctl.architectures import Classifier, device_of
from robustctl.data import ImageData
from robustctl.devices import hardware, wait_for
from robustctl.evaluation import adaptive, referee, reference
from robustctl.evaluation.audit import clean_verdicts
from robustctl.evaluation.families import gathered, run_family
from robustctl.evaluation.jobs import Setting
from robustctl.evaluation.protocols import ROUNDS, families
from robustctl.evaluation.row_scheduler import FamilyRun, Finished
from robustctl.evaluation.store import Store
from robustctl.files import scratch
from robustctl.oracle import Loss, Oracle
from robustctl.precision import Precision
from robustctl.processes import World
from robustctl.threats import Norm, Threat
from robustctl.trusted_copy import PROBE, trusted_copy

PEER = {"standard": ("apgd-ce", "apgd-t"), "full": ("apgd-ce", "apgd-t", "fab-t", "square")}
PEER |= {"adaptive": PEER["standard"], "adaptive+": PEER["full"]}
"""The reference's attacks that make up the same protocol as ours; of an adaptive one, the protocol that it replaces."""


Result = TypeVar("Result")


@dataclass
class Side:
    """The time that one implementation took, and its findings. ``robust`` holds a verdict a point, of the first
    round."""

    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    seconds_by_norm: dict[Norm, list[float]] = field(default_factory=dict)
    robust: dict[Norm, list[bool]] = field(default_factory=dict)
    gradients: int = 0
    forwards: int = 0
    seconds_in_model: float = 0.0

    def accuracies(self) -> dict[str, float]:
        """Robust accuracy by norm and of the union, in [0,1]."""
        union = [all(verdicts) for verdicts in zip(*self.robust.values(), strict=True)]
        return {norm: statistics.fmean(verdicts) for norm, verdicts in self.robust.items()} | {
            "union": statistics.fmean(union)
        }


@dataclass(frozen=True)
class Contest:
    """The points that both implementations attack, and how; precision and order in memory are of our attacks."""

    model: Classifier
    data: ImageData
    threats: Sequence[Threat]
    protocol: str
    precision: Precision
    seed: int
    channels_last: bool = True

    @property
    def probe(self) -> Tensor:
        """The first images, on the model's device."""
        return self.data.images(range(min(PROBE, len(self.data)))).to(device_of(self.model))


class TimedOracle(Oracle):
    """An oracle that measures the time spent in the model; on CUDA it waits for each result."""

    seconds = 0.0

    def logits(self, x: Tensor) -> Tensor:
        return self._timed(lambda: super(TimedOracle, self).logits(x))

    def exact(self, x: Tensor) -> Tensor:
        return self._timed(lambda: super(TimedOracle, self).exact(x))

    def loss_and_grad(self, x: Tensor, y: Tensor, loss: Loss, *, exact: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        return self._timed(lambda: super(TimedOracle, self).loss_and_grad(x, y, loss, exact=exact))

    def _timed(self, call: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        result = call()
        wait_for(self.device)
        self.seconds += time.perf_counter() - start
        return result


def compare(
    model: Classifier,
    data: ImageData,
    threats: Sequence[Threat],
    *,
    protocol: str,
    precision: Precision,
    seed: int,
    batch_size: int,
    peer_batch_size: int,
    rounds: int,
    peer: bool,
    report: Callable[[str], None],
    channels_last: bool = True,
) -> dict[str, object]:
    """Attack the same points by us and, with ``peer``, by the reference in its float32, in turns.

    Args:
        protocol: a key of ``PEER``.
        precision: of our attacks; float32 takes its place, in the JSON too, if the model cannot be run in bf16.
        rounds: runs of each; the medians are compared.
        report: takes a line after each run.
        channels_last: the order in memory of the copy that our attacks run on, where the model's code runs so.

    Returns:
        The JSON of ``robustctl bench attack``; ``ratio`` is the reference's median seconds divided by ours.
    """
    ours, theirs = Side(), Side()
    asked = Contest(model, data, threats, protocol, precision, seed, channels_last)
    fast = trusted_copy(model, precision, asked.probe, channels_last=channels_last)
    contest = replace(asked, precision=fast.precision)
    if fast.reason:
        report(f"the fast copy is not the model: {fast.reason}")
    for number in range(rounds):
        _our_round(ours, contest, batch_size)
        report(f"round {number + 1}: ours {ours.seconds[-1]:.1f} s {_show(ours)}")
        if peer:
            _peer_round(theirs, contest, peer_batch_size)
            report(f"round {number + 1}: pyautoattack {theirs.seconds[-1]:.1f} s {_show(theirs)}")
    result: dict[str, object] = {
        "schema": "robustctl.bench-attack/1",
        "protocol": protocol,
        "precision": fast.precision,
        "fast_copy": fast.copied,
        "n": len(data),
        "data": {"source": data.source, "split": data.split, "index_sha256": data.index_sha256},
        "threats": {threat.norm: threat.eps_text for threat in threats},
        "seed": seed,
        "batch_size": {"ours": batch_size, "peer": peer_batch_size},
        "rounds": rounds,
        "ours": _summary(ours) | _work(ours),
        "hardware": hardware(device_of(model)),
        "versions": {name: version(name) for name in ("robustctl", "torch", "pyautoattack")},
    }
    if peer:
        result["peer"] = _summary(theirs)
        result["ratio"] = statistics.median(theirs.seconds) / statistics.median(ours.seconds)
        # Time of this process alone: on a machine shared with others, with one thread, the fairer of the two.
        result["ratio_of_cpu_seconds"] = statistics.median(theirs.cpu_seconds) / statistics.median(ours.cpu_seconds)
        result["ratio_by_norm"] = {
            norm: statistics.median(theirs.seconds_by_norm[norm]) / statistics.median(seconds)
            for norm, seconds in ours.seconds_by_norm.items()
        }
        result["points_broken_by_one_only"] = {norm: _only(ours, theirs, norm) for norm in ours.robust}
    return result


def _our_round(side: Side, contest: Contest, batch_size: int) -> None:
    start, cpu = time.perf_counter(), time.process_time()
    fast = trusted_copy(contest.model, contest.precision, contest.probe, channels_last=contest.channels_last)
    with kept_memory(), TimedOracle(contest.model, fast) as oracle:
        for threat in contest.threats:
            if contest.protocol in ROUNDS:
                _play(side, contest, oracle, threat, batch_size)
                continue
            runs = [
                FamilyRun(oracle, contest.data, threat, family, contest.seed, batch_size)
                for family in families(contest.protocol, threat.norm)
            ]
            _run_norm(side, contest, threat, [partial(run_family, run) for run in runs], batch_size)
    side.seconds.append(time.perf_counter() - start)
    side.cpu_seconds.append(time.process_time() - cpu)
    side.forwards = oracle.forwards
    side.gradients, side.seconds_in_model = oracle.gradients, side.seconds_in_model + oracle.seconds


def _play(side: Side, contest: Contest, oracle: Oracle, threat: Threat, batch_size: int) -> None:
    """An adaptive protocol in one norm, with a verdict store as in an evaluation, without a second opinion."""
    start = time.perf_counter()
    model, data = contest.model, contest.data
    with scratch() as folder, Store(folder / "verdicts.sqlite", {}) as store:
        correct = clean_verdicts(model, data, store, batch_size, 1)
        right = [position for position, is_right in enumerate(correct) if is_right]
        setting = Setting(model, oracle, data, store, contest.seed, batch_size)
        adaptive.attack(setting, contest.protocol, [threat], right, False, World(), lambda n, note="", total=None: None)
        survivors = set(right) - store.broken(threat.norm)
    side.seconds_by_norm.setdefault(threat.norm, []).append(time.perf_counter() - start)
    side.robust.setdefault(threat.norm, [position in survivors for position in range(len(data))])


def _peer_round(side: Side, contest: Contest, batch_size: int) -> None:
    start, cpu = time.perf_counter(), time.process_time()
    for threat in contest.threats:
        attacks = [
            lambda left, name=name, threat=threat: reference.run(
                contest.model, contest.data, left, set(), threat, name, seed=contest.seed, batch_size=batch_size
            )
            for name in PEER[contest.protocol]
        ]
        _run_norm(side, contest, threat, attacks, batch_size)
    side.seconds.append(time.perf_counter() - start)
    side.cpu_seconds.append(time.process_time() - cpu)


def _run_norm(
    side: Side,
    contest: Contest,
    threat: Threat,
    attacks: Sequence[Callable[[list[int]], Iterable[Finished]]],
    batch_size: int,
) -> None:
    """Each attack meets the points that those before it left; the referee says which, as in an evaluation."""
    model, data = contest.model, contest.data
    start = time.perf_counter()
    right = referee.predictions(model, data, batch_size) == data.y
    left = right.nonzero().squeeze(1).tolist()
    for attack in attacks:
        for finished in gathered(attack(list(left)), batch_size):
            x, y = data.images(finished.positions), data.y[finished.positions]
            verdicts = referee.judge(model, x, y, finished.x_adv, threat)
            broken = {p for p, is_broken in zip(finished.positions, verdicts.broken.tolist(), strict=True) if is_broken}
            left = [position for position in left if position not in broken]
    side.seconds_by_norm.setdefault(threat.norm, []).append(time.perf_counter() - start)
    survivors = set(left)
    side.robust.setdefault(threat.norm, [position in survivors for position in range(len(data))])


def _summary(side: Side) -> dict[str, object]:
    record = asdict(side)
    return {
        "seconds": side.seconds,
        "median_seconds": statistics.median(side.seconds),
        "cpu_seconds": side.cpu_seconds,
        "seconds_by_norm": record["seconds_by_norm"],
        "accuracy": side.accuracies(),
    }


def _work(side: Side) -> dict[str, object]:
    return {
        "gradient_evaluations": side.gradients,
        "forward_passes": side.forwards,
        "gradient_evaluations_per_second": side.gradients / statistics.median(side.seconds),
        "share_of_time_in_the_model": side.seconds_in_model / sum(side.seconds),
    }


def _only(ours: Side, theirs: Side, norm: Norm) -> dict[str, int]:
    pairs = list(zip(ours.robust[norm], theirs.robust[norm], strict=True))
    return {"ours": pairs.count((False, True)), "peer": pairs.count((True, False))}


def _show(side: Side) -> str:
    return " ".join(f"{name} {100 * value:.1f}" for name, value in side.accuracies().items())

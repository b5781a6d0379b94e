import time
from typing import Any

import pytest
import torch

from robustctl.devices import Arriving
from robustctl.processes import World
from robustctl.threats import Threat
from robustctl.training.methods.e_at import Config, Method

THREATS = (Threat.of("linf", "0.1"), Threat.of("l1", "1.5"))


def method(sampling: str = "adaptive") -> Method:
    return Method(Config(name="e-at", sampling=sampling), THREATS)


def seen(target: Method, *batches: tuple[int, float]) -> None:
    target.recent += [(chosen, Arriving(torch.tensor(error))) for chosen, error in batches]
    target._count(keep=0)


def test_probabilities_follow_the_running_errors() -> None:
    adaptive = method()
    assert adaptive.probabilities() == [0.5, 0.5]
    seen(adaptive, (0, 0.25))
    assert adaptive.probabilities() == [0.5, 0.5], "halves until both norms have met a batch"
    seen(adaptive, (1, 0.5), (1, 1.0))
    assert adaptive.probabilities() == [0.25, 0.75], "means 0.25 and 0.75; averages of that norm's batches alone"


def test_statistics_start_anew_with_every_epoch() -> None:
    adaptive = method()
    seen(adaptive, (0, 0.25), (1, 0.75))
    adaptive.start_epoch()
    assert adaptive.probabilities() == [0.5, 0.5]


def test_uniform_sampling_ignores_the_errors() -> None:
    uniform = method("uniform")
    seen(uniform, (0, 0.1), (1, 0.9))
    assert uniform.probabilities() == [0.5, 0.5]


def test_no_errors_at_all_are_no_division_by_zero() -> None:
    adaptive = method()
    seen(adaptive, (0, 0.0), (1, 0.0))
    assert adaptive.probabilities() == [0.5, 0.5]


def test_state_restores_batches_that_are_not_counted_yet() -> None:
    adaptive, other = method(), method()
    seen(adaptive, (0, 0.25), (1, 0.75))
    adaptive.recent.append((0, Arriving(torch.tensor(1.0))))
    other.load_state(adaptive.gathered_state(World()), World())
    adaptive._count(keep=0)
    other._count(keep=0)
    assert other.probabilities() == adaptive.probabilities()


def test_reading_gives_the_value_itself() -> None:
    assert float(Arriving(torch.tensor(0.1))) == float(torch.tensor(0.1))


@pytest.mark.gpu
def test_reading_waits_for_no_later_work() -> None:
    x = torch.rand(8192, 8192, device="cuda")
    (x @ x).sum().item()
    reading = Arriving(x[0, 0])
    for _ in range(200):
        y = x @ x
    start = time.monotonic()
    value = float(reading)
    waited = time.monotonic() - start
    torch.cuda.synchronize()
    assert value == float(x[0, 0]) and waited < (time.monotonic() - start) / 2, y.shape


def test_the_metrics_have_the_probability_of_each_norm(example: Any) -> None:
    method = Method(Config(name="e-at"), (Threat.of("linf", "0.1"), Threat.of("l1", "1.5")))
    method.loss(example.step())
    shown = example.meter.means()
    assert (shown["probability/linf"], shown["probability/l1"]) == tuple(
        Method(Config(name="e-at"), method.threats).probabilities()
    )

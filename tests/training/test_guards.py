import importlib
import math
import os
import pkgutil
import signal

import pytest

from robustctl.errors import RunError
from robustctl.training import methods
from robustctl.training.guards import Guards, stop_signal


def guards(attacks: bool = True) -> Guards:
    return Guards(attacks, n_classes=10)


@pytest.mark.parametrize("means", [{"loss": math.nan}, {"loss": math.inf}, {"loss": 1.0, "grad_norm": math.nan}])
def test_value_that_is_not_finite_stops(means: dict[str, float]) -> None:
    with pytest.raises(RunError, match="not finite"):
        guards().check(means, 1)


def test_loss_far_above_the_first_one_stops_and_noise_does_not() -> None:
    watch = guards()
    watch.check({"loss": 2.0}, 5)
    watch.check({"loss": 8.0}, 50)
    with pytest.raises(RunError, match="exploded: 30 by step 100, 2 in the first"):
        watch.check({"loss": 30.0}, 100)


def test_high_loss_of_a_natural_model_in_the_first_steps_is_no_explosion() -> None:
    watch = guards()
    watch.check({"loss": 60.0}, 1)
    watch.check({"loss": 80.0}, 50)


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ({"loss": 1.0, "perturbation": 0.0}, "perturbs nothing"),
        ({"loss": 1.0, "watch/clean": 1.5, "watch/adversarial": 1.5}, "does not attack"),
    ],
)
def test_attack_that_does_nothing_stops_methods_that_attack(means: dict[str, float], expected: str) -> None:
    with pytest.raises(RunError, match=expected):
        guards().check(means, 1)
    guards(attacks=False).check(means, 1)


def test_first_loss_survives_a_resumption() -> None:
    watch, resumed = guards(), guards()
    watch.check({"loss": 0.1}, 5)
    resumed.load_state(watch.state())
    assert resumed.first_loss == 0.1


def test_first_signal_asks_and_the_second_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), stop_signal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        os.kill(os.getpid(), signal.SIGINT)


def test_a_terminal_that_is_closed_asks_and_its_second_signal_cuts_nothing_off() -> None:
    with stop_signal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.asked


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_only_methods_that_climb_the_loss_are_asked_whether_it_rose() -> None:
    names = [module.name for module in pkgutil.iter_modules(methods.__path__)]
    modules = {name: importlib.import_module(f"{methods.__name__}.{name}") for name in names}
    at_random = {name for name, module in modules.items() if hasattr(module, "Method") and not module.Method.attacks}
    assert {"natural", "z_mc", "z_ps", "prl"} <= at_random
    assert not at_random & {"at", "avg", "e_at", "fgsm", "free", "max", "msd", "ramp", "sat"}

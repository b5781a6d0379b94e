"""The loop: resuming is bit-exact for every method, what it writes, and what stops it."""

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from method_cases import cases

from robustctl import checkpoint
from robustctl.errors import InterruptedRun, RunError
from robustctl.processes import World
from robustctl.training import state_file
from robustctl.training.guards import WATCHED_STEPS, StopSignal
from robustctl.training.step import Step

CASES = cases("e-at", but=("mixed", "mixed-margin", "mng-ac", "rcrt", "prl", "z-mc", "z-ps", "mart", "awp", "bf16"))

Make = Callable[..., Any]


def of(settings_for: Make, case: str) -> Any:
    method, changes = CASES[case]
    return settings_for(method, **changes)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read_tensors(directory / "model.safetensors")


def metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of a run without what a clock measured."""
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "seconds")} for line in lines]


@pytest.mark.parametrize("case", CASES)
def test_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(
    case: str, settings_for: Make, make_loop: Make, tmp_path: Path
) -> None:
    settings = of(settings_for, case)
    whole = make_loop(settings, tmp_path / "whole")
    whole.run()
    stop = random.Random(case).randrange(1, whole.position.steps)
    first = make_loop(settings, tmp_path / "parts", save_seconds=0.0)
    first.run(max_steps=stop)
    second = make_loop(settings, tmp_path / "parts", resuming=True)
    assert second.position.step == stop
    second.run()
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "parts")[name]), f"{name} differs after a stop at step {stop}"
    best = [checkpoint.read_tensors(tmp_path / part / "best.safetensors") for part in ("whole", "parts")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert second.best == whole.best


def test_run_killed_between_its_last_step_and_its_end_still_ends(
    settings_for: Make, make_loop: Make, tmp_path: Path
) -> None:
    settings = of(settings_for, "projection")
    whole = make_loop(settings, tmp_path / "whole")
    whole.run()
    killed = make_loop(settings, tmp_path / "parts", save_seconds=0.0)

    finish = killed._finish_pass

    def finish_or_die() -> None:
        if killed.position.step == whole.position.steps:
            raise MemoryError  # stands for a kill: nothing is saved after it
        finish()

    killed._finish_pass = finish_or_die
    with pytest.raises(MemoryError):
        killed.run()
    resumed = make_loop(settings, tmp_path / "parts", resuming=True)
    assert resumed.position.step == whole.position.steps and not resumed.position.is_done()
    resumed.run()
    assert resumed.position.is_done() and resumed.best == whole.best
    assert all(
        torch.equal(value, weights(tmp_path / "parts")[key]) for key, value in weights(tmp_path / "whole").items()
    )


def test_metrics_of_a_resumed_run_have_no_line_twice(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    settings = of(settings_for, "e-at")
    make_loop(settings, tmp_path / "whole", save_seconds=0.0).run()
    make_loop(settings, tmp_path / "parts", save_seconds=0.0).run(max_steps=5)
    state = state_file.load(tmp_path / "parts")
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "written after the last save"}\n')
    assert state is not None
    make_loop(settings, tmp_path / "parts", resuming=True, save_seconds=0.0).run()
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


def test_metrics_name_errors_shares_and_rates(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    make_loop(of(settings_for, "e-at"), tmp_path / "run").run()
    lines = metrics(tmp_path / "run")
    steps = [line for line in lines if line["kind"] == "steps"]
    assert {"loss", "lr", "grad_norm", "perturbation", "epoch", "step"} <= set(steps[0])
    shares = [sum(value for name, value in line.items() if name.startswith("share/")) for line in steps]
    assert shares == pytest.approx([1.0] * len(steps))
    selections = [line for line in lines if line["kind"] == "selection"]
    assert [line["epoch"] for line in selections] == [1, 2]
    assert all(line["union"] <= min(line["linf"], line["l2"], line["l1"], line["clean"]) for line in selections)


def test_sigterm_saves_and_says_how_to_go_on(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    make_loop(of(settings_for, "at"), tmp_path / "whole").run()
    loop = make_loop(of(settings_for, "at"), tmp_path / "run")
    one_step = loop._one_step

    def step_and_signal(this: Any) -> None:
        one_step(this)
        if loop.position.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    loop._one_step = step_and_signal  # type: ignore[method-assign]
    with pytest.raises(InterruptedRun, match="--resume"):
        loop.run()
    resumed = make_loop(of(settings_for, "at"), tmp_path / "run", resuming=True)
    assert resumed.position.step == 3
    resumed.run()
    assert all(torch.equal(value, weights(tmp_path / "run")[key]) for key, value in weights(tmp_path / "whole").items())


def test_sigterm_while_the_pair_is_measured_leaves_a_run_that_resumes(
    settings_for: Make, make_loop: Make, tmp_path: Path
) -> None:
    make_loop(of(settings_for, "ramp-auto"), tmp_path / "whole", start_norm="l1").run()
    loop = make_loop(of(settings_for, "ramp-auto"), tmp_path / "run", start_norm="l1")
    measure = loop.method.prepare

    def prepare(probe: Any, start_norm: Any) -> Any:
        def probe_and_signal(threat: Any, steps: int) -> float:
            if threat.norm == "l2":
                os.kill(os.getpid(), signal.SIGTERM)
            return float(probe(threat, steps))

        return measure(probe_and_signal, start_norm)

    loop.method.prepare = prepare
    with pytest.raises(InterruptedRun, match="before the first step.*--resume"):
        loop.run()
    resumed = make_loop(of(settings_for, "ramp-auto"), tmp_path / "run", resuming=True)
    assert resumed.start_norm == "l1"
    resumed.run()
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert all(torch.equal(value, weights(tmp_path / "run")[key]) for key, value in weights(tmp_path / "whole").items())


def test_pair_is_measured_once(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    settings = of(settings_for, "ramp-auto")
    loop = make_loop(settings, tmp_path / "run")
    loop._steps = None  # stands for a kill before the first step
    with pytest.raises(TypeError):
        loop.run()
    make_loop(settings, tmp_path / "run", resuming=True).run()
    assert [line["kind"] for line in metrics(tmp_path / "run")].count("prepare") == 1


def test_exploding_loss_stops_and_keeps_the_last_good_weights(
    settings_for: Make, make_loop: Make, tmp_path: Path
) -> None:
    settings = settings_for({"name": "at"}, optim={"lr": 1e6, "weight_decay": 0.0}, schedule={"name": "constant"})
    loop = make_loop(settings, tmp_path / "run")
    start = {name: tensor.clone() for name, tensor in loop.model.net.state_dict().items()}
    with pytest.raises(RunError, match=r"optim\.lr"):
        loop.run()
    assert all(torch.equal(value, start[name]) for name, value in weights(tmp_path / "run").items())


def test_attack_without_effect_stops_the_run(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    loop = make_loop(of(settings_for, "at"), tmp_path / "run")
    with torch.no_grad():
        loop.model.net[-1].weight.zero_()  # constant logits: no gradient reaches the image
    with pytest.raises(RunError, match="perturbs nothing"):
        loop.run()


def test_when_the_state_is_saved_does_not_change_the_guards_judgement_of_the_first_steps(
    settings_for: Make, make_loop: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = Step.attack

    def idle_once(step: Step, *arguments: Any) -> torch.Tensor:
        return step.run(lambda oracle, target: step.x) if step.number == 3 else attack(step, *arguments)

    monkeypatch.setattr(Step, "attack", idle_once)
    loop = make_loop(of(settings_for, "at"), tmp_path / "run", save_seconds=0.0)
    loop.run(max_steps=5)
    assert loop.position.step == 5


@pytest.mark.parametrize("before", [{"pretrain": {"epochs": 2, "lr": 0.05}}, {"projection": {"beta": 0.5}}])
def test_attack_that_does_not_attack_is_found_after_natural_training(
    before: dict[str, Any], settings_for: Make, make_loop: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backwards(step: Step, oracle: Any, x_adv: torch.Tensor, target: torch.Tensor) -> None:
        step.record("watch/clean", 1.0)
        step.record("watch/adversarial", 0.9)

    monkeypatch.setattr(Step, "_compare", backwards)
    loop = make_loop(settings_for({"name": "at"}, **before), tmp_path / "run")
    natural = sum(
        one.steps for one in loop.position.passes[: [one.kind for one in loop.position.passes].index("method")]
    )
    with pytest.raises(RunError, match="does not attack"):
        loop.run()
    assert loop.position.step == natural + 1 > WATCHED_STEPS


def test_catastrophic_overfitting_stops_before_the_bad_weights_are_saved(
    settings_for: Make, make_loop: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for({"name": "fgsm", "start": "zero", "step": 1.0}, overfitting_check={"steps": 2, "drop": 0.2})
    accuracies = iter([0.5, 0.0])
    monkeypatch.setattr("robustctl.training.selection.pgd_accuracy", lambda *args: next(accuracies))
    loop = make_loop(settings, tmp_path / "run")
    with pytest.raises(RunError, match=r"catastrophic overfitting in epoch 2.*0\.500 to 0\.000"):
        loop.run()
    assert loop.position.step == 10
    state = state_file.load(tmp_path / "run")
    assert state is not None and state["at"] == [1, 0, 5]
    assert all(torch.equal(state["model"][name], value) for name, value in weights(tmp_path / "run").items())


def test_every_process_knows_when_all_have_saved(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    loop = make_loop(of(settings_for, "at"), tmp_path / "run", world=World(rank=1))
    before = loop.saved = loop.saved - 1000
    loop.save()
    assert loop.saved > before + 999 and not list((tmp_path / "run").iterdir()), "only the leading process writes"


def test_average_that_is_kept_follows_the_weights_of_every_step(
    settings_for: Make, make_loop: Make, tmp_path: Path
) -> None:
    loop = make_loop(of(settings_for, "average"), tmp_path / "run")
    seen, one_step = [], loop._one_step

    def watched(this: Any) -> None:
        one_step(this)
        seen.append({name: parameter.detach().clone() for name, parameter in loop.model.net.named_parameters()})

    start = {name: parameter.detach().clone() for name, parameter in loop.model.net.named_parameters()}
    loop._one_step = watched
    loop.run(3)
    kept = weights(tmp_path / "run")
    assert len(seen) == 3 and set(start) <= set(kept)
    for name, first in start.items():
        terms = (0.9**3 * first, 0.081 * seen[0][name], 0.09 * seen[1][name], 0.1 * seen[2][name])
        torch.testing.assert_close(kept[name], sum(terms), rtol=1e-5, atol=1e-7)
        assert not torch.equal(kept[name], first), "the start is not what is shipped"


def test_average_is_what_is_kept(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    loop = make_loop(of(settings_for, "average"), tmp_path / "run")
    loop.run()
    kept, raw = weights(tmp_path / "run"), loop.model.net.state_dict()
    assert any(not torch.equal(kept[name], raw[name]) for name in raw)


def test_measured_pair_is_recorded_and_the_start_unchanged(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    loop = make_loop(of(settings_for, "ramp-auto"), tmp_path / "run")
    start = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
    loop._prepare(StopSignal())
    assert all(torch.equal(value, start[name]) for name, value in loop.model.state_dict().items())
    (line,) = [one for one in metrics(tmp_path / "run") if one["kind"] == "prepare"]
    own = line["own_robust_accuracy"]
    assert set(own) == {"linf", "l2", "l1"} and set(line["pair"]) == set(sorted(own, key=own.get)[:2])


def test_images_per_second_are_of_training_alone_and_seconds_of_everything(
    settings_for: Make, make_loop: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for({"name": "natural"}, overfitting_check={})
    loop = make_loop(settings, tmp_path / "run")
    now = [0.0]

    def lasting(seconds: float, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            now[0] += seconds
            return call(*args, **options)

        return timed

    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("robustctl.training.loop.time", clock)
    monkeypatch.setattr("robustctl.training.monitor.time", clock)
    monkeypatch.setattr("robustctl.training.selection.pgd_accuracy", lasting(100, lambda *args: 0.5))
    monkeypatch.setattr("robustctl.training.loop.state_file.save", lasting(100, state_file.save))
    monkeypatch.setattr(loop, "_one_step", lasting(1, loop._one_step))
    outcome = loop.run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["images_per_second"] for line in lines if line["kind"] == "steps"} == {8.0}
    assert outcome.seconds == 10 * 1 + 2 * 100 + 3 * 100, "steps, checks, and all saves but the last"


def test_learning_rate_follows_the_schedule_over_the_epochs(
    settings_for: Make, make_loop: Make, tmp_path: Path
) -> None:
    settings = settings_for({"name": "natural"}, schedule={"name": "piecewise", "at": [1], "by": 0.5})
    make_loop(settings, tmp_path / "run").run()
    rates = {line["epoch"]: line["lr"] for line in metrics(tmp_path / "run") if line["kind"] == "steps"}
    assert rates == pytest.approx({1: 0.1, 2: 0.05})


def test_pretraining_has_a_rate_of_its_own_and_the_method_starts_at_the_recipes(
    settings_for: Make, make_loop: Make, tmp_path: Path
) -> None:
    settings = settings_for({"name": "at"}, pretrain={"epochs": 2, "lr": 0.03}, schedule={"name": "constant"})
    make_loop(settings, tmp_path / "run").run()
    steps = [line for line in metrics(tmp_path / "run") if line["kind"] == "steps"]
    rates = {(line["pass"], line["epoch"]): line["lr"] for line in steps}
    assert rates == pytest.approx(
        {("pretrain", 1): 0.03, ("pretrain", 2): 0.03, ("method", 1): 0.1, ("method", 2): 0.1}
    )
    assert all("robust_error/linf" not in line for line in steps if line["pass"] == "pretrain")


def test_the_room_that_was_found_is_the_log_s_first_line(
    settings_for: Make, make_loop: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("robustctl.training.loop.fit", lambda *parts: asked.append(parts))
    settings = settings_for({"name": "natural"})
    train = settings.train.model_copy(update={"micro_batch": "auto"})
    outcome = make_loop(settings.model_copy(update={"train": train}), tmp_path / "run").run(max_steps=1)
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert len(asked) == 1 and (first["kind"], first["step"]) == ("memory", 0)
    assert outcome.step == 1 and outcome.best is None


def test_every_step_is_taken_in_training_mode(settings_for: Make, make_loop: Make, tmp_path: Path) -> None:
    loop = make_loop(of(settings_for, "average"), tmp_path / "run")
    modes, one_step = [], loop._one_step

    def watched(this: Any) -> None:
        modes.append(loop.model.training)
        one_step(this)

    loop._one_step = watched
    loop.model.eval()
    loop.run(2)
    loop.model.eval()
    loop.run(4)
    assert modes == 4 * [True]

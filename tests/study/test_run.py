"""A study goes on after failures, interruptions and kills; what is done is done once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from robustctl import runs
from robustctl.errors import InterruptedRun, RunError
from robustctl.files import write_text
from robustctl.study import cells
from robustctl.study.cells import StudyPlan, Training
from robustctl.study.pool import Place, places
from robustctl.study.run import carry_out, last_line
from robustctl.study.schema import Study

CPU = [Place("cpu")]


class Made:
    """A job that has ended before anybody looked."""

    def __init__(self, code: int) -> None:
        self.code = code

    def ended(self) -> int:
        return self.code

    def stop(self) -> None: ...

    def wait(self) -> None: ...


class Pretending:
    """Does every step at once: writes the record of a finished run, or a result."""

    def __init__(self, plan: StudyPlan, spoil: Callable[[str], bool] = lambda name: False) -> None:
        self.steps = {one.name: one for one in [*plan.trainings, *plan.evaluations]}
        self.spoil, self.started = spoil, list[str]()
        self.devices: list[str] = []

    def start(self, name: str, arguments: list[str], log: Path, place: Place) -> Made:
        self.started.append(name)
        self.devices.append(arguments[arguments.index("--device") + 1])
        if self.spoil(name):
            write_text(log, "working\nrobustctl: it broke\n")
            return Made(1)
        step = self.steps[name]
        if isinstance(step, Training):
            finish(step)
        else:
            write_text(step.result, "{}")
        return Made(0)


def finish(step: Training) -> None:
    step.run.path.mkdir(parents=True)
    record = {"command": "finetune", "model": "m", "recipe_name": "r", "recipe": {}, "seed": step.seed, "data": {}}
    more = {"device": "cpu", "hardware": "h", "versions": {}, "started": "now", "status": "finished", "step": 2}
    step.run.write(runs.RunRecord.model_validate({**record, **more, "steps": 2}))


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> StudyPlan:
    monkeypatch.setattr("robustctl.study.run.SECONDS_BETWEEN_LOOKS", 0.0)
    study = Study.model_validate({"models": "digits-linf", "recipes": ["e-at", "avg"], "seeds": [0, 1]})
    return cells.plan(study, lambda key, text: pytest.fail(f"{key}: {text}"))


def test_everything_is_done_once_and_nothing_the_second_time(plan: StudyPlan) -> None:
    pool = Pretending(plan)
    carry_out(plan, pool, places(["cuda:0", "cuda:1"], 1), 2, "again")
    assert sorted(pool.started) == sorted(pool.steps) and set(pool.devices) == {"cuda:0", "cuda:1"}
    again = Pretending(plan)
    carry_out(plan, again, CPU, 1, "again")
    assert again.started == []


def test_an_evaluation_follows_its_training(plan: StudyPlan) -> None:
    pool = Pretending(plan)
    carry_out(plan, pool, CPU, 1, "again")
    for one in plan.evaluations:
        assert one.of is not None
        assert pool.started.index(one.name) == pool.started.index(one.of.name) + 1


def test_one_failure_stops_its_own_evaluations_alone_and_is_named(plan: StudyPlan) -> None:
    broken = plan.trainings[1].name
    pool = Pretending(plan, lambda name: name == broken)
    with pytest.raises(RunError, match="2 of the study's steps failed") as failed:
        carry_out(plan, pool, CPU, 1, "robustctl study s.yaml")
    said = str(failed.value)
    assert f"{broken}: robustctl: it broke" in said and "robustctl study s.yaml" in said
    assert sum(one.done() for one in plan.evaluations) == 3
    again = Pretending(plan)
    carry_out(plan, again, CPU, 1, "again")
    assert again.started == [broken, next(one.name for one in plan.evaluations if one.of == plan.trainings[1])]


def test_results_that_are_there_need_no_training(plan: StudyPlan) -> None:
    carry_out(plan, Pretending(plan), CPU, 1, "again")
    (plan.trainings[0].run.path / runs.RECORD).unlink()
    again = Pretending(plan)
    carry_out(plan, again, CPU, 1, "again")
    assert again.started == []


def test_an_interruption_stops_the_steps_and_says_how_to_go_on(plan: StudyPlan) -> None:
    class Endless(Made):
        stopped = 0

        def ended(self) -> None:  # type: ignore[override]
            raise KeyboardInterrupt

        def stop(self) -> None:
            Endless.stopped += 1

    pool = Pretending(plan)
    pool.start = lambda name, arguments, log, place: Endless(0)  # type: ignore[method-assign,assignment]
    with pytest.raises(InterruptedRun, match="0 steps are done and kept. Go on: robustctl study s.yaml"):
        carry_out(plan, pool, CPU, 2, "robustctl study s.yaml")
    assert Endless.stopped == 2


@pytest.mark.parametrize(
    ("left", "goes_on"), [(".last.pt.1-part.tmp", False), ("last.pt", True), ("previous.pt", True)]
)
def test_a_killed_run_goes_on_from_a_saved_state_alone(plan: StudyPlan, left: str, goes_on: bool) -> None:
    one = plan.trainings[0]
    state = one.run.path / "state"
    state.mkdir(parents=True)
    (state / left).write_text("")
    assert ("--resume" in one.arguments("cpu")) == goes_on


def test_the_last_line_of_a_log_is_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("one\n" * 5000 + "two\n\n")
    assert last_line(log) == "two" and last_line(tmp_path / "none") == ""

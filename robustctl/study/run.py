"""Runs the steps of a study that are missing: in parallel, through failures of some, and on after any kill."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from robustctl import runs
from robustctl.errors import InterruptedRun, RunError
from robustctl.files import make_folder, writing
from robustctl.locks import held
from robustctl.study.board import Board, Counts, Row, board
from robustctl.study.cells import FOLDER, Step, StudyPlan, Training
from robustctl.study.pool import Place, Pool, RunningStep

SECONDS_BETWEEN_LOOKS = 0.25
LAST_BYTES = 8000


@dataclass
class _Running:
    step: Step
    started: RunningStep
    slot: int
    begun: float


def carry_out(plan: StudyPlan, pool: Pool, places: Sequence[Place], jobs: int, again: str) -> None:
    """Do all steps that are not done; what is done is kept whatever happens.

    Args:
        places: the steps that run at one time are spread over them.
        jobs: how many steps run at one time.
        again: the command that goes on, for the message of an interruption.

    Raises:
        RunError: some steps failed; the message names them and their logs.
        InterruptedRun: Ctrl-C or SIGTERM; the steps that ran have saved their state.
    """
    with writing(runs.root() / FOLDER):
        for folder in ("results", "logs"):
            (runs.root() / FOLDER / folder).mkdir(parents=True, exist_ok=True)
    with board() as shown:
        _Study(plan, pool, places, jobs, shown).run(again)


class _Study:
    def __init__(self, plan: StudyPlan, pool: Pool, places: Sequence[Place], jobs: int, shown: Board) -> None:
        self.plan, self.pool, self.places, self.board = plan, pool, places, shown
        self.free = list(range(jobs))
        self.running: list[_Running] = []
        self.failed: dict[str, str] = {}
        self.seconds: dict[type, list[float]] = {}
        # The evaluations of a run follow its training, so that the first rows of the table are whole early.
        order: list[Step] = []
        for training in [None, *plan.trainings]:
            order += [training] if training is not None and plan.needed(training) else []
            order += [one for one in plan.evaluations if one.of == training and not one.done()]
        self.left = order
        every = len(plan.trainings) + len(plan.evaluations)
        self.done = every - len(order)

    def run(self, again: str) -> None:
        try:
            while self.left or self.running:
                self._collect()
                self._start()
                self.board.show(self._counts(), [self._row(one) for one in self.running])
                time.sleep(SECONDS_BETWEEN_LOOKS)
        except KeyboardInterrupt:
            self._stop()
            raise InterruptedRun(f"interrupted; {self.done} steps are done and kept. Go on: {again}") from None
        if self.failed:
            listed = "\n  ".join(f"{name}: {reason}" for name, reason in self.failed.items())
            raise RunError(
                f"{len(self.failed)} of the study's steps failed, everything else is done:\n  {listed}\n"
                f"logs: {runs.root() / FOLDER / 'logs'}; try the failed ones again: {again}"
            )

    def _collect(self) -> None:
        """Take note of what has ended."""
        for one in list(self.running):
            code = one.started.ended()
            if code is None:
                continue
            self.running.remove(one)
            self.free.append(one.slot)
            self.free.sort()
            seconds = time.monotonic() - one.begun
            if code == 0 and one.step.done():
                self.done += 1
                self.seconds.setdefault(type(one.step), []).append(seconds)
                self.board.say(f"done: {one.step.name}, {seconds:.0f} s")
            else:
                self._fail(one.step, reason(log_of(one.step)) or f"exit code {code}")

    def _fail(self, step: Step, reason: str) -> None:
        self.failed[step.name] = reason
        self.board.say(f"failed: {step.name}: {reason}")
        if isinstance(step, Training):
            for waiting in [one for one in self.left if not isinstance(one, Training) and one.of == step]:
                self.left.remove(waiting)
                self.failed[waiting.name] = f"not begun, because {step.name} failed"

    def _start(self) -> None:
        """Start what can be started now."""
        for step in list(self.left):
            if not self.free:
                return
            if isinstance(step, Training):
                if step.done():  # by another study meanwhile
                    self.left.remove(step)
                    self.done += 1
                    continue
                if step.run.is_held():  # another process trains it: its result will do
                    continue
            elif step.of is not None and not step.of.done():
                continue
            slot = self.free.pop(0)
            place = self.places[slot % len(self.places)]
            started = self.pool.start(step.name, step.arguments(place.device), log_of(step), place)
            self.left.remove(step)
            self.running.append(_Running(step, started, slot, time.monotonic()))

    def _stop(self) -> None:
        for one in self.running:
            one.started.stop()
        for one in self.running:
            one.started.wait()
            self.done += one.step.done()

    def _row(self, one: _Running) -> Row:
        done, steps = one.step.progress() if isinstance(one.step, Training) else (0, 0)
        far = f"step {done}/{steps}" if steps else last_line(log_of(one.step))
        place = self.places[one.slot % len(self.places)]
        return Row(one.step.name, str(place), far, time.monotonic() - one.begun)

    def _counts(self) -> Counts:
        return Counts(self.done, len(self.left), len(self.failed), self._seconds_left())

    def _seconds_left(self) -> float | None:
        """From the mean time of the steps of a kind that are done; None until one of each kind that is left is."""
        steps = [*self.left, *(one.step for one in self.running)]
        if any(type(step) not in self.seconds for step in steps):
            return None
        means = {kind: sum(times) / len(times) for kind, times in self.seconds.items()}
        gone = sum(min(time.monotonic() - one.begun, means[type(one.step)]) for one in self.running)
        at_once = min(len(self.free) + len(self.running), max(len(steps), 1))
        return max(sum(means[type(step)] for step in steps) - gone, 0.0) / at_once


def log_of(step: Step) -> Path:
    """Where what a step prints is kept, over all its attempts."""
    return runs.root() / FOLDER / "logs" / f"{step.name}.log"


def last_line(log: Path) -> str:
    """The last line of a log that says something; empty if there is none."""
    return next((line.strip() for line in reversed(_end(log)) if line.strip()), "")


def reason(log: Path) -> str:
    """Why a step failed: the last message of robustctl, behind which torchrun prints its own; else the last line."""
    said = [line.strip() for line in _end(log) if line.startswith("robustctl: ")]
    return said[-1] if said else last_line(log)


def _end(log: Path) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(log.stat().st_size - LAST_BYTES, 0))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def only_one(name: str) -> AbstractContextManager[None]:
    """Hold the lock of a study's file, so that no two commands start the same steps."""
    lock = runs.root() / FOLDER / f".{name}.lock"
    make_folder(lock.parent)
    return held(lock, f"another process runs the study {name}; let it finish or stop it", 1.0)

"""Where the steps of a study run: child processes of this machine. No torch here."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from robustctl.errors import RequestError
from robustctl.files import writing

SECONDS_TO_STOP = 60.0
"""A training that is asked to stop finishes its step and saves its state."""


@dataclass(frozen=True)
class Place:
    """A device that runs one step at a time, or the cards of several processes that run one together."""

    device: str
    cards: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ",".join(self.cards) or self.device

    def environment(self) -> dict[str, str]:
        """Shows the processes of a step their own cards alone: the first of them is ``cuda:0`` to it."""
        if not self.cards:
            return {}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        numbers = [int(card.partition(":")[2]) for card in self.cards]
        shown = [visible[one] if one < len(visible) and visible[one] else str(one) for one in numbers]
        return {"CUDA_VISIBLE_DEVICES": ",".join(shown)}


def places(devices: Sequence[str], processes: int) -> list[Place]:
    """Where steps of so many processes can run at one time.

    Raises:
        RequestError: cards that do not come in groups of ``processes``.
    """
    if processes == 1:
        return [Place(device) for device in devices]
    cards = [device for device in devices if device.startswith("cuda:")]
    if not cards:
        return [Place(device) for device in devices]
    if len(cards) != len(devices) or len(cards) % processes:
        raise RequestError(f"--processes {processes} takes a card each; give --devices in groups of {processes}")
    return [Place("cuda", tuple(cards[i : i + processes])) for i in range(0, len(cards), processes)]


def command_line(arguments: list[str], processes: int) -> list[str]:
    """``robustctl ARGUMENTS``, by several processes of torchrun if that is asked."""
    # -P: a queue.py in the working directory would stand for Python's own.
    alone = [sys.executable, "-P", "-m", "robustctl", *arguments]
    if processes == 1:
        return alone
    group = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--no-python"]
    return [sys.executable, "-P", "-m", *group, "--", *alone]  # torchrun would read --n as its own without --


class RunningStep(Protocol):
    """A step that runs."""

    def ended(self) -> int | None:
        """Its exit code, or None while it runs."""

    def stop(self) -> None:
        """Ask it to save what it has and end."""

    def wait(self) -> None:
        """Wait until it has ended; after ``SECONDS_TO_STOP`` it is made to."""


class Pool(Protocol):
    """Starts steps."""

    def start(self, name: str, arguments: list[str], log: Path, place: Place) -> RunningStep:
        """Run ``robustctl ARGUMENTS`` at a place; what it prints goes to the end of ``log``."""


class Processes:
    """Child processes of this machine.

    Args:
        threads: of each process on the CPU, unless ``OMP_NUM_THREADS`` says it.
        processes: of each step; torchrun starts several.
    """

    def __init__(self, threads: int, processes: int = 1) -> None:
        self.processes = processes
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ}

    def start(self, name: str, arguments: list[str], log: Path, place: Place) -> RunningStep:
        """The same as ``Pool.start``."""
        command = command_line(arguments, self.processes)
        with writing(log), log.open("ab") as file:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**self.environment, **place.environment()},
                start_new_session=True,  # Ctrl-C of the terminal is for the study, which then stops its children
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,
            )
        return _Child(child)


class _Child:
    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def ended(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        self.process.terminate()

    def wait(self) -> None:
        try:
            self.process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _end_with_parent() -> None:
    """Ask the kernel to end this child politely if the study is killed: nobody would look after it any more."""
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)

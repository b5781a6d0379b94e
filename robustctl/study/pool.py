"""Where the steps of a study run: child processes of this machine. No torch here."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from robustctl.files import writing

SECONDS_TO_STOP = 60.0
"""A training that is asked to stop finishes its step and saves its state."""


class Job(Protocol):
    """A step that runs."""

    def ended(self) -> int | None:
        """Its exit code, or None while it runs."""

    def stop(self) -> None:
        """Ask it to save what it has and end."""

    def wait(self) -> None:
        """Wait until it has ended; after ``SECONDS_TO_STOP`` it is made to."""


class Pool(Protocol):
    """Starts steps."""

    def start(self, name: str, arguments: list[str], log: Path) -> Job:
        """Run ``robustctl ARGUMENTS``; what it prints goes to the end of ``log``."""


class Processes:
    """Child processes of this machine.

    Args:
        threads: of each child on the CPU, unless ``OMP_NUM_THREADS`` says it.
    """

    def __init__(self, threads: int) -> None:
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ}

    def start(self, name: str, arguments: list[str], log: Path) -> Job:
        """The same as ``Pool.start``."""
        command = [sys.executable, "-m", "robustctl", *arguments]
        with writing(log), log.open("ab") as file:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=self.environment,
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

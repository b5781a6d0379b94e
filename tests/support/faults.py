"""Runs the command line with one failing system call: a process that has everything imported forks for each command.

``python faults.py`` is that process: it reads requests as lines of JSON and answers in kind. It has run each command
once itself, so that a fork imports nothing any more; processes that a command starts are forks too.
"""

import ctypes
import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EROFS", "EDQUOT")}
STAY = ("ENOSPC", "EROFS", "EDQUOT")  # a full disk stays full
KILL_ONE, KILL_ALL, LATE = -1, -2, -3
COUNTS = 10**9
"""The place of a kill that never comes: the calls are counted as for a kill."""


SAID = tempfile.TemporaryDirectory(prefix="faults-")
"""Holds what commands print, outside of the place that is full."""


@dataclass(frozen=True)
class Done:
    """The outcome of a command: how many calls that change files it made below the folder, and its processor time."""

    rc: int
    out: str
    err: str
    calls: int
    seconds: float


def build(folder: Path) -> Path | None:
    """The library, compiled into ``folder``; None where there is no C compiler (or no such way to load it)."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        return None
    library = folder / "faults.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "faults.c"), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


class Forks:
    """Use as a context; ``run`` runs one command in a fork.

    Args:
        warm: commands that the process runs itself before the first fork.
    """

    def __init__(self, library: Path | None = None, warm: list[list[str]] | None = None) -> None:
        self.library, self.warm = library, warm or []

    def __enter__(self) -> "Forks":
        more = {"LD_PRELOAD": str(self.library)} if self.library else {}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__)), json.dumps(self.warm)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **more, "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def run(
        self,
        words: list[str],
        folder: Path,
        *,
        nth: int = 0,
        error: str = "ENOSPC",
        kill_at: int = 0,
        kill_all_at: int = 0,
        kill_after: float = 0.0,
        environment: dict[str, str] | None = None,
    ) -> Done:
        """Run ``robustctl *words`` in ``folder``.

        Args:
            nth: the call that fails (and those after it, if the error is one that stays); 0 lets none fail.
            kill_at: at this call the process that makes it is killed instead.
            kill_all_at: at this call the command is killed with all processes that it has started.
            kill_after: the command is killed after so many seconds of processor time.
        """
        kill = KILL_ALL if kill_all_at else KILL_ONE if kill_at else 0
        fault = {
            "nth": nth or kill_at or kill_all_at,
            "errno": kill or ERRORS[error],
            "stays": error in STAY and not kill,
            "kill_after": kill_after,
        }
        (done,) = self._ask([fault | _asked(words, folder, environment)])
        return done

    def race(self, commands: list[list[str]], folder: Path, environment: dict[str, str]) -> list[Done]:
        """Run several commands in ``folder`` at once, each of whose calls comes late by up to 3 ms."""
        fault = {"nth": 0, "errno": LATE, "stays": False, "kill_after": 0.0}
        return self._ask([fault | _asked(words, folder, environment) for words in commands])

    def _ask(self, commands: list[dict[str, Any]]) -> list[Done]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(commands) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process that forks has ended"
        return [Done(**one) for one in json.loads(answer)]


def _asked(words: list[str], folder: Path, environment: dict[str, str] | None) -> dict[str, Any]:
    return {"words": words, "folder": str(folder), "environment": environment or {}}


def _serve(warm: list[list[str]]) -> None:
    import torch

    torch.set_num_threads(1)
    import robustctl.cli
    import robustctl.hub.client
    import robustctl.models.shelf
    import robustctl.study.run
    import robustctl.training.build
    import robustctl.workflows.evaluate
    import robustctl.workflows.publish_run
    import robustctl.workflows.study
    import robustctl.workflows.train  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    _warm_up(warm)
    for line in sys.stdin:
        started = [_started(asked, number) for number, asked in enumerate(json.loads(line))]
        answers.write(json.dumps([_ended(*one) for one in started]) + "\n")
        answers.flush()


def _warm_up(warm: list[list[str]]) -> None:
    """Run the commands here, in a folder that is deleted, so that whatever they import is imported."""
    before = {**os.environ}
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"ROBUSTCTL_RUNS": f"{folder}/runs", "ROBUSTCTL_HOME": f"{folder}/home"}
        os.chdir(folder)
        os.dup2(os.open("out", os.O_WRONLY | os.O_CREAT), 1)
        for words in warm:
            _replace_processes()
            if code := _command(words):
                sys.exit(f"the command {words} failed: {code}")
        os.chdir("/")
    os.environ.clear()
    os.environ |= before
    tempfile.tempdir = None


def _started(asked: dict[str, Any], number: int) -> tuple[int, dict[str, Path]]:
    files = {name: Path(SAID.name) / f"{name}{number}" for name in ("out", "err", "calls")}
    for file in files.values():
        file.write_text("")
    child = os.fork()
    if child == 0:
        _child(asked, files)
    return child, files


def _ended(child: int, files: dict[str, Path]) -> dict[str, Any]:
    _, status, used = os.wait4(child, 0)
    out, err, calls = (files[name].read_text(errors="replace") for name in ("out", "err", "calls"))
    code = os.waitstatus_to_exitcode(status)
    code = -signal.SIGKILL if code == -signal.SIGPROF else code
    seconds = used.ru_utime + used.ru_stime
    return {"rc": code, "out": out, "err": err, "calls": int(calls or 0), "seconds": seconds}


def _child(asked: dict[str, Any], files: dict[str, Path]) -> None:
    code = 99
    try:
        os.setpgid(0, 0)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(files[name], os.O_WRONLY), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(asked["folder"])
        os.environ.update(asked["environment"])
        _replace_processes()
        library = ctypes.CDLL(None) if "LD_PRELOAD" in os.environ else None
        if library:
            library.faults_arm(asked["folder"].encode(), asked["nth"], asked["errno"], asked["stays"])
        if asked["kill_after"]:
            signal.setitimer(signal.ITIMER_PROF, asked["kill_after"])  # nobody handles SIGPROF, which then kills
        code = _command(asked["words"])
        if library:
            files["calls"].write_text(str(library.faults_calls()))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _command(words: list[str]) -> int:
    from robustctl.cli import main

    sys.argv = ["robustctl", *words]
    try:
        main()
        return 0
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


class Forked:
    """A process that a command starts (``python -m robustctl ...``), as a fork that has everything imported."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 99
            try:
                for number in (signal.SIGTERM, signal.SIGHUP):
                    signal.signal(number, signal.SIG_DFL)
                os.environ.update(options["env"])
                for number, name in ((1, "stdout"), (2, "stderr")):
                    os.dup2(options[name].fileno(), number)
                options["preexec_fn"]()
                code = _command(command[3:])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        if self.returncode is None:
            process, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if process else None
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def wait(self, seconds: float = 0) -> None:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _replace_processes() -> None:
    """Let the steps of a study be forks, and a conversion be made in the command's own process, without its limit."""
    from robustctl.errors import RobustctlError
    from robustctl.models import convert
    from robustctl.study import pool

    def ask(asked: convert.Conversion) -> convert.Answer:
        try:
            return convert._run(asked)
        except RobustctlError as error:
            return convert.Answer(fault=str(error), exit_code=error.exit_code)

    convert._ask, convert._limit_memory = ask, lambda size: None
    pool.subprocess.Popen = Forked  # type: ignore[misc,assignment]


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _serve(json.loads(sys.argv[1]))

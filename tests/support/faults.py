"""Runs the command line with one failing system call: a process that has everything imported forks for each command.

``python faults.py`` is that process: it reads requests as lines of JSON and answers in kind.
"""

import ctypes
import errno
import json
import os
import shutil
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EROFS", "EDQUOT")}
STAY = ("ENOSPC", "EROFS", "EDQUOT")  # a full disk stays full


@dataclass(frozen=True)
class Done:
    """What a command came to, and how many calls that change files it made below the folder."""

    rc: int
    out: str
    err: str
    calls: int


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
    """Use as a context; ``run`` runs one command in a fork."""

    def __init__(self, library: Path | None = None) -> None:
        self.library = library

    def __enter__(self) -> "Forks":
        more = {"LD_PRELOAD": str(self.library)} if self.library else {}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))],
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
        environment: dict[str, str] | None = None,
    ) -> Done:
        """Run ``robustctl *words`` in ``folder``.

        Args:
            nth: the call that fails (and those after it, if the error is one that stays); 0 lets none fail.
            kill_at: at this call the process is killed instead.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        asked = {
            "words": words,
            "folder": str(folder),
            "nth": nth or kill_at,
            "errno": -1 if kill_at else ERRORS[error],
            "stays": error in STAY and not kill_at,
            "environment": environment or {},
        }
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the process that forks has ended"
        return Done(**json.loads(answer))


def _serve() -> None:
    import torch

    torch.set_num_threads(1)
    import robustctl.cli
    import robustctl.hub.client
    import robustctl.models.shelf
    import robustctl.training.build
    import robustctl.workflows.evaluate
    import robustctl.workflows.publish_run
    import robustctl.workflows.train  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        answers.write(json.dumps(_forked(json.loads(line))) + "\n")
        answers.flush()


def _forked(asked: dict[str, Any]) -> dict[str, Any]:
    outside = Path(asked["folder"]).parent
    files = {name: outside / f".{name}" for name in ("out", "err", "calls")}
    for file in files.values():
        file.write_text("")
    child = os.fork()
    if child == 0:
        _child(asked, files)
    _, status = os.waitpid(child, 0)
    out, err, calls = (files[name].read_text(errors="replace") for name in ("out", "err", "calls"))
    return {"rc": os.waitstatus_to_exitcode(status), "out": out, "err": err, "calls": int(calls or 0)}


def _child(asked: dict[str, Any], files: dict[str, Path]) -> None:
    code = 99
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(files[name], os.O_WRONLY), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(asked["folder"])
        os.environ.update(asked["environment"])
        library = ctypes.CDLL(None) if "LD_PRELOAD" in os.environ else None
        if library:
            library.faults_arm(asked["folder"].encode(), asked["nth"], asked["errno"], asked["stays"])
        from robustctl.cli import main

        sys.argv = ["robustctl", *asked["words"]]
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        if library:
            files["calls"].write_text(str(library.faults_calls()))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    _serve()

"""The command line: one file per command. A file is found by its name and holds

- ``command``: a function with typed options (Typer), or
- ``app``: a ``typer.Typer`` with subcommands, or
- neither: what several commands share.

A command parses its options, calls a function of ``robustctl.workflows`` (or of the room it is about) and prints.

These files import nothing heavy at their top: torch and the rooms that need it are imported inside the functions, so
that help answers at once.
"""

import atexit
import contextlib
import errno
import importlib
import os
import re
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated

import typer

from robustctl import discovery, parent, terminal
from robustctl.cli import panels
from robustctl.cli.interruption import Group, interrupted
from robustctl.errors import InterruptedRun, RequestError, RobustctlError, described
from robustctl.progress import sign_of_life
from robustctl.reading import SURROGATE
from robustctl.version import __version__

app = typer.Typer(
    name="robustctl",
    cls=Group,
    help="Fine-tune, evaluate and share image classifiers robust in the union of the l_inf, l_2 and l_1 balls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        terminal.show(f"robustctl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    # Both are read far from here (progress bars, the handler below), and must reach child processes too.
    if debug:
        os.environ["ROBUSTCTL_DEBUG"] = "1"
    if quiet:
        os.environ["ROBUSTCTL_QUIET"] = "1"


for _name in discovery.names(__name__):
    _module = importlib.import_module(f"{__name__}.{_name.replace('-', '_')}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_name)
    elif hasattr(_module, "command"):
        app.command(_name)(_module.command)
panels.arrange(app)


ANYWHERE = ("--debug", "--quiet", "-q")


def _spelt_out(arguments: list[str]) -> list[str]:
    """The arguments with ``--quiet`` and ``--debug`` in front, wherever they stood, and ``-`` after a sole --json."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    front = [one for one in arguments[:end] if one in ANYWHERE]
    rest = []
    kept = [one for one in arguments[:end] if one not in ANYWHERE]
    for i, one in enumerate(kept):
        rest.append(one)
        follows = kept[i + 1] if i + 1 < len(kept) else None
        if one == "--json" and (follows is None or (follows.startswith("-") and follows != "-")):
            rest.append("-")
    return [*front, *rest, *arguments[end:]]


def _require_content(arguments: list[str]) -> None:
    """Refuse an empty argument: a variable of the shell that is not set would quietly choose a default.

    Raises:
        RequestError: one is empty.
    """
    for before, one in zip(["robustctl", *arguments], arguments, strict=False):
        if not one.strip():
            raise RequestError(f"the argument after {before} is empty; is a variable of the shell not set?")
        if re.fullmatch(r"--[\w-]+=\s*", one):
            raise RequestError(f"{one.rstrip()} has no value; is a variable of the shell not set?")


def _require_names_in_utf8() -> None:
    """Start anew in Python's UTF-8 mode if the locale is too poor for a name that was typed (``LC_ALL=C``).

    A name that is no UTF-8 at all is refused: records and results are UTF-8, and could not hold it.
    """
    poor = [word for word in sys.argv[1:] if SURROGATE.search(word)]
    if not poor:
        return
    if sys.flags.utf8_mode:
        terminal.tell(f"robustctl: {poor[0]} is not UTF-8; rename the file")
        raise SystemExit(RequestError.exit_code)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; every error becomes one message on stderr and an exit code (docs/contracts.md)."""
    # Threads of torch that wait for each other spin. Beside other processes they take the very core that the one they
    # wait for needs: an evaluation of digits then took up to 14 times as long. So they spin for a short time alone.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    try:
        _run()
    except KeyboardInterrupt:  # once more, while the first was told
        raise SystemExit(InterruptedRun.exit_code) from None
    finally:
        atexit.register(_be_deaf)  # the last to be registered runs first


def _be_deaf() -> None:
    """Ignore signals from now on: the process ends anyway, and a traceback about it would help nobody."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _run() -> None:
    signal.signal(signal.SIGTERM, _stop)
    # A terminal that is closed ends a command as politely as Ctrl-C, unless nohup forbids it.
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _stop)
    terminal.accept_any_text()
    _require_names_in_utf8()
    parent.watch()
    sys.argv[1:] = _spelt_out(sys.argv[1:])
    try:
        _require_content(sys.argv[1:])
        with sign_of_life():
            app()
        sys.stdout.flush()  # a full disk behind a redirection is noticed here, and not while Python exits
    except RobustctlError as error:
        _fail(f"robustctl: {error}", error.exit_code, error)
    except KeyboardInterrupt as error:
        told = interrupted(None)
        _fail(f"robustctl: {told}", told.exit_code, error)
    except BrokenPipeError:
        # The reader of our output (head, say) has closed it: not an error, but Python would complain while exiting.
        _close_stdout()
        raise SystemExit(1) from None
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # of the user's own code, anything
        if isinstance(error, OSError) and error.errno in FULL:
            _close_stdout()
        _fail(*_judged(error), error)


FULL = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


def _judged(error: BaseException) -> tuple[str, int]:
    """The message and the exit code of an error that robustctl did not raise itself."""
    if _is_out_of_memory(error):
        return OUT_OF_MEMORY, 1
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, OSError) and number in (errno.EMFILE, errno.ENFILE):
        return "robustctl: too many files are open; raise ulimit -n and run the same command again", 1
    if isinstance(error, OSError) and number == errno.ENAMETOOLONG:  # only a name that somebody typed can be so long
        return f"robustctl: a name is longer than the file system takes: {str(error.filename)[:80]}...", 2
    if isinstance(error, OSError) and number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"robustctl: no permission for {error.filename}", 1
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"robustctl: {error.filename} is not here any more; run the same command again", 1
    if isinstance(error, OSError) and number == errno.EIO:
        what = error.filename or "a file or the output"
        return f"robustctl: {what} cannot be read or written: {error.strerror}; mend that and run the command again", 1
    if isinstance(error, OSError) and number in FULL:
        return f"robustctl: cannot write: {error.strerror}; free some space and run the same command again", 1
    return f"robustctl: internal error ({described(error)}). This is a bug; --debug shows where.", 1


OUT_OF_MEMORY = (
    "robustctl: there is not enough memory; use smaller batches or another machine. What was saved stays: "
    "the same command (for a training with --resume) goes on"
)


REFUSED_MEMORY = re.compile(
    "can't allocate memory|[Cc]annot allocate memory|failed to map segment|bad_alloc|can't start new thread"
)
"""How torch, the loader of libraries, C++ and Python say that memory was refused."""


def _memory_is_limited() -> bool:
    try:
        import resource
    except ImportError:  # not on this system
        return False
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch, on the CPU or on an accelerator, was refused memory."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError | ImportError | OSError) and REFUSED_MEMORY.search(str(error)) is not None)
        or (isinstance(error, SystemError) and _memory_is_limited())  # a library that was loaded by half
    )


def _close_stdout() -> None:
    """Drop what is still in the buffer: it cannot be written, and Python would try again while it exits."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, exit_code: int, error: BaseException) -> None:
    if "ROBUSTCTL_DEBUG" in os.environ:
        terminal.tell("".join(traceback.format_exception(error)).rstrip())
    with contextlib.suppress(OSError):  # if nobody can be told, the exit code still says it
        terminal.tell(message)
    raise SystemExit(exit_code) from None

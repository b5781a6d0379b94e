"""The exceptions that a user sees. Their text is the whole message; the command line adds nothing but a prefix."""

from collections.abc import Iterator
from contextlib import contextmanager


class RobustctlError(Exception):
    """Base of every error with a message for the user.

    ``exit_code`` is what the process returns: see the exit codes in docs/contracts.md.
    """

    exit_code = 1


class RequestError(RobustctlError):
    """The request was wrong: bad recipe, unknown name, bad value. Nothing was started."""

    exit_code = 2


class RunError(RobustctlError):
    """Something failed while running. The work that was done so far is kept; the message says how to go on."""

    exit_code = 1


class InterruptedRun(RobustctlError):
    """The user or the scheduler stopped a resumable run; its state is on disk."""

    exit_code = 130


@contextmanager
def of_users_code(what: str, kind: type[RobustctlError] = RequestError, *kept: type[Exception]) -> Iterator[None]:
    """Turn whatever the user's own code raises, ``sys.exit`` too, into one error whose text begins with ``what``.

    Ctrl-C, a lack of memory, robustctl's own errors and the ones to be ``kept`` stay as they are.

    Raises:
        RobustctlError: of that ``kind``.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, GeneratorExit, MemoryError, RobustctlError, *kept)):
            raise
        raise kind(f"{what}{described(error)}") from error


def described(error: BaseException) -> str:
    """Name and text of an exception of any origin, whose own code may fail as well."""
    try:
        text = str(error)
    except Exception:
        text = "it fails to say why"
    return f"{type(error).__name__}: {text}"

"""The exceptions that a user sees. Their text is the whole message; the command line adds nothing but a prefix."""


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

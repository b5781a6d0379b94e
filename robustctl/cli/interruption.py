"""Ctrl-C and SIGTERM end a command with a message: which work is saved, and how to go on."""

import shlex
import sys
from typing import Any

from typer.core import TyperGroup

from robustctl.errors import InterruptedRun

SAVED = {
    "eval": "the verdicts and measurements so far are saved",
    "finetune": "no training was cut off",
    "train": "no training was cut off",
    "study": "the steps that are done are saved",
    "quickstart": "the steps that are done are saved",
    "pull": "files that came whole are kept, and a half one goes on where it is",
    "push": "files that were sent need not be sent again",
    "verify": "downloads and the verdicts of this machine are kept",
}
"""By command; the others change nothing before they are done, or write each file in one piece."""


class Group(TyperGroup):
    """The commands; an interrupted one tells how to go on, whereas Typer alone would end without a word."""

    def invoke(self, context: Any) -> Any:
        """Run a command; KeyboardInterrupt becomes InterruptedRun."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt as error:
            raise interrupted(context.invoked_subcommand) from error


def interrupted(command: str | None) -> InterruptedRun:
    """The message about an interruption of this command."""
    saved = SAVED.get(command or "", "nothing is half written")
    again = shlex.join(["robustctl", *sys.argv[1:]])
    return InterruptedRun(f"interrupted; {saved}. Go on: {again}")

"""The command line, in the tests' own process."""

import sys

from robustctl.cli import main


def robust(*arguments: object) -> int:
    """Run the command line; returns its exit code."""
    sys.argv = ["robustctl", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0

"""Propose a result to somebody's repo."""

from pathlib import Path
from typing import Annotated

import typer

from robustctl import terminal
from robustctl.cli import options


def command(
    repo: Annotated[str, typer.Argument(help="USER/NAME, whose weights the result is of.")],
    result: Annotated[Path, typer.Option(help="JSON file of the result, where its evaluation or a pull left it.")],
    breaks: Annotated[
        bool, typer.Option("--break", help="It must break points that the repo claims to be robust.")
    ] = False,
    data: options.Data = None,
    device: options.Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do all but open the pull request.")] = False,
) -> None:
    """Open a pull request with a result and its witnesses, after judging them here."""
    from robustctl.workflows.propose import propose

    made = propose(repo, result, data=data, breaks=breaks, device=device, dry_run=dry_run)
    for line in made.lines:
        terminal.show(line)
    for name, size in made.sizes.items():
        terminal.show(f"{size:>12,} {name}")
    terminal.show(f"proposed: {made.address}" if made.address else "nothing was proposed (dry run)")

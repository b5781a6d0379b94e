"""A leaderboard of results as static pages."""

from pathlib import Path
from typing import Annotated

import typer

from robustctl import terminal
from robustctl.errors import RequestError


def command(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="Directories, runs, studies (.yaml), USER/NAME[@REVISION], or JSON files of results."),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Directory of the pages.")] = Path("site"),
    entries: Annotated[
        bool, typer.Option("--entries", help="Also a page of the figures that others have published, with sources.")
    ] = False,
) -> None:
    """Write static pages that rank what was verified: a board for each set of images, points and radii."""
    from robustctl.workflows.leaderboard import make_site

    if not what and not entries:
        raise RequestError("name what is to be ranked, e.g. robustctl leaderboard runs -o site")
    made = make_site(what or [], output, entries=entries)
    terminal.show(f"{output / 'index.html'}: {len(made)} board{'' if len(made) == 1 else 's'}")

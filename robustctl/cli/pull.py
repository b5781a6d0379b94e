"""Bring a model here."""

from typing import Annotated

import typer

from robustctl.cli.models import names


def command(
    repo: Annotated[
        str, typer.Argument(help="USER/NAME[@REVISION], file:///path, or the name of an entry.", autocompletion=names)
    ],
    keep_original: Annotated[
        bool, typer.Option("--keep-original", help="Keep the published file of an entry beside the converted one.")
    ] = False,
) -> None:
    """Bring a model here: pinned to a commit, every file checked. Then it can be named in finetune and eval."""
    from robustctl.models import pull
    from robustctl.models.fetch import fetch_entry
    from robustctl.models.find import entry_files, read_entry, split_revision

    if repo in entry_files():
        typer.echo(f"{repo}: {fetch_entry(repo, read_entry(repo), keep_original)}")
        return
    if "/" not in repo:
        read_entry(repo)  # says which name is near
    directory = pull.pull(*split_revision(repo))
    typer.echo(f"{repo}: {directory}")
    typer.echo(f"next: robustctl eval {repo} --union")

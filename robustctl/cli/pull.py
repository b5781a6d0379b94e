"""Bring a model here."""

from typing import Annotated

import typer

from robustctl.cli import completion


def command(
    repo: Annotated[
        str,
        typer.Argument(
            help="USER/NAME[@REVISION], file:///path, or the name of an entry.", autocompletion=completion.model_names
        ),
    ],
    keep_original: Annotated[
        bool, typer.Option("--keep-original", help="Keep the published file of an entry beside the converted one.")
    ] = False,
) -> None:
    """Bring a model here: pinned to a commit, every file checked. Then it can be named in finetune and eval."""
    from robustctl.models.find import entry_files
    from robustctl.workflows.obtain import bring

    place = bring(repo, keep_original=keep_original)
    typer.echo(f"{repo}: {place}")
    if repo not in entry_files():
        typer.echo(f"next: robustctl eval {repo} --union")

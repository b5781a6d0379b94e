"""Publish a run."""

from typing import Annotated

import typer

from robustctl import terminal
from robustctl.allocator import without_collection


def command(
    run: Annotated[str | None, typer.Argument(help="A run's name or directory; the newest without.")] = None,
    repo: Annotated[str, typer.Option(help="USER/NAME, or file:///path for a plain directory.")] = "",
    private: Annotated[bool, typer.Option("--private", help="Make a new repo private.")] = False,
    revision: Annotated[str, typer.Option(help="Branch to push to.")] = "main",
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead of pushing.")] = False,
    licence: Annotated[str | None, typer.Option(help="Hub identifier, where it cannot be inherited.")] = None,
    allow_flags: Annotated[
        bool, typer.Option("--allow-flags", help="Push although the evaluation raised flags; the card names them.")
    ] = False,
    with_code: Annotated[
        bool, typer.Option("--with-code", help="Also publish your own code that builds the model (--model-code).")
    ] = False,
    witnesses: Annotated[
        bool | None,
        typer.Option(
            "--witnesses/--no-witnesses",
            help="Publish the adversarial images too, so that anybody can verify the figures. Without: up to 200 MB.",
        ),
    ] = None,
    weights: Annotated[str, typer.Option(help="last, or best by the selection split.")] = "last",
    eval_results: Annotated[
        bool,
        typer.Option("--eval-results", help="Also write figures on hub data sets to .eval_results."),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be pushed; check the token.")] = False,
) -> None:
    """Push a run to the hub: weights, config, card with results, recipe, evaluations. Twice is the same as once."""
    from robustctl.errors import RequestError

    if not repo:
        raise RequestError("--repo is missing, e.g. --repo USER/NAME or --repo file:///path")
    with without_collection():  # a seventh of the time before the upload
        from robustctl.publish.push import Target
        from robustctl.workflows.publish_run import publish_run

    target = Target(repo, private, revision, create_pr)
    published = publish_run(
        run,
        target,
        licence=licence,
        allow_flags=allow_flags,
        dry_run=dry_run,
        with_code=with_code,
        witnesses=witnesses,
        weights=weights,
        with_eval_results=eval_results,
    )
    if dry_run:
        for name, size in sorted(published.sizes.items()):
            terminal.show(f"{size:>12,} {name}" if size else f"{'card':>12} {name}")
        terminal.show(f"nothing was pushed to {repo} (dry run)")
    else:
        terminal.show(str(published))

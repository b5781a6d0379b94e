"""Bring a model here."""

from typing import Annotated

import typer

from robustctl import terminal
from robustctl.cli import options


def command(
    repo: Annotated[
        str,
        typer.Argument(
            help="USER/NAME[@REVISION], file:///path, or the name of an entry.", autocompletion=options.model_names
        ),
    ],
    keep_original: Annotated[
        bool, typer.Option("--keep-original", help="Keep the published file of an entry beside the converted one.")
    ] = False,
    at: Annotated[
        str | None, typer.Option(help="Where an entry's state dict stands, if the file differs: state_dict.0")
    ] = None,
    strip: Annotated[str | None, typer.Option(help="Prefix that every tensor carries, if the file differs.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Prefix of tensors to leave out, if the file differs.")] = None,
) -> None:
    """Bring a model here: pinned to a commit, every file checked. Then it can be named in finetune and eval."""
    from robustctl.models.find import entry_files, read_entry
    from robustctl.spec import read_spec
    from robustctl.workflows.next_steps import next_lines
    from robustctl.workflows.obtain import bring

    place = bring(repo, keep_original=keep_original, at=at, strip=strip, drop=drop)
    terminal.show(f"{repo}: {place}")
    if repo in entry_files() and (rules := read_entry(repo).keys.changed(at, strip, drop)) != read_entry(repo).keys:
        terminal.tell(f"the entry {repo} should say what you said ({rules.options}); please report this line")
    if repo not in entry_files():
        code = read_spec(place).architecture.code
        by = f" --model-code {place}/robustctl/code/{code.file}:{code.name}" if code else ""
        if code:
            terminal.show("this model is built by code of its own; read it before you let it run")
        for line in next_lines(repo, place):
            terminal.show(f"next: {line}{by}")

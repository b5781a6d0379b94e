"""Publish a run."""

import gc
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from robustctl.publish.push import Package, Target
    from robustctl.results.union import UnionResult
    from robustctl.runs import Record, Run


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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be pushed; no network.")] = False,
) -> None:
    """Push a run to the hub: weights, config, card with results, recipe, evaluations. Twice is the same as once."""
    from robustctl.errors import RequestError, RunError

    if not repo:
        raise RequestError("--repo is missing, e.g. --repo USER/NAME or --repo file:///path")
    with _no_collection():
        from robustctl.publish.push import Target, check_target, publish

        target = Target(repo, private, revision, create_pr)
        check_target(target)
        found = _find(run)
    options = [*(["--licence", licence] if licence else []), *(["--allow-flags"] if allow_flags else [])]
    again = ["robustctl", "push", str(found.path), *target.options(), *options, *(["--dry-run"] if dry_run else [])]
    try:
        with _no_collection():
            package = _prepare(found, target, licence, allow_flags, dry_run)
        address = publish(package, target, dry_run=dry_run)
    except RunError as error:
        raise RunError(f"{error}\n{found.path} is unchanged. Try again: {shlex.join(again)}") from None
    if dry_run:
        for name, content in sorted([*package.files.items(), ("README.md", b"")]):
            size = content.stat().st_size if isinstance(content, Path) else len(content)
            typer.echo(f"{size:>12,} {name}" if size else f"{'card':>12} {name}")
        typer.echo(f"nothing was pushed to {repo} (dry run)")
    else:
        typer.echo(f"pushed {found.name}: {address}" if address else f"{repo} has all of {found.name} already")


@contextmanager
def _no_collection() -> Iterator[None]:
    """Importing makes many objects and no garbage; to look for some took a seventh of the time before the upload."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _find(run: str | None) -> "Run":
    from robustctl import runs
    from robustctl.errors import RequestError

    found = runs.newest() if run is None else runs.find(run)
    if found is None and run is not None and run.endswith(".safetensors"):
        raise RequestError(f"only the last weights of a run can be pushed, not {run}; push the run: {Path(run).parent}")
    if found is None:
        raise RequestError(f"no run {run!r}; robustctl runs lists them")
    return found


def _prepare(run: "Run", target: "Target", licence: str | None, allow_flags: bool, dry_run: bool) -> "Package":
    """The package of a run, after all checks that need no more than it and the token."""
    from robustctl.hub.plain_directory import sha256
    from robustctl.models.safetensors_header import weights_sha256
    from robustctl.publish.push import preflight
    from robustctl.spec import WEIGHTS

    weights = run.path / WEIGHTS
    with ThreadPoolExecutor(2) as beside:  # the hub is asked while the weights are hashed, both ways at once
        tensors, file = beside.submit(weights_sha256, weights), beside.submit(sha256, weights)
        if not dry_run:
            preflight(target.repo, create_pr=target.create_pr)
        package = make_package(run, target, licence, allow_flags, tensors.result())
        return replace(package, sha256={weights: file.result()})


def make_package(run: "Run", target: "Target", licence: str | None, allow_flags: bool, digest: str) -> "Package":
    """Everything of a run, whose tensors have the hash ``digest``, that is published; refuses what must not be.

    Raises:
        RequestError: unfinished run, damaged weights, unknown licence, flagged results.
    """
    from robustctl.errors import RequestError
    from robustctl.publish import push, redact
    from robustctl.publish.card import Story
    from robustctl.report.table import markdown, told_apart
    from robustctl.spec import read_spec

    record = run.read()
    if (status := run.status()) == "running":
        raise RequestError(f"run {run.name} is still running; push it when it has finished")
    if status != "finished":
        raise RequestError(f"run {run.name} is {status}; finish it first: robustctl {record.command} --resume")
    chosen = push.check_licence(licence or record.licence, record.base)
    spec = read_spec(run.path)
    found = _results(run.path / "eval", digest)
    push.check_flags(found, allow_flags)
    found_before = _before(record, found)
    source = str(record.data["source"])
    names = redact.data_names([source, *(one.data.source for one in [*found_before, *found])])
    before = [redact.published(one, names) for one in found_before]
    results = [redact.published(one, names) for one in found]
    columns = told_apart("after" if before else "robustctl", results)
    labelled = [*(("before", one) for one in before), *zip(columns, results, strict=True)]
    paths = _paths(record)
    content = _public(record, paths)
    content["data"] = {**record.data, "source": names[source]}
    provenance = {
        "recipe": " with ".join(filter(None, [content["recipe_name"], ", ".join(content["overrides"])])),
        "seed": str(record.seed),
        "data": f"{names[source]} ({record.data.get('n', '?')} images)",
        "weights": f"the last ones, after {record.step} of {record.steps} steps",
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "SHA-256 of the tensors": digest,
    }
    story = Story(
        place=push.place_of(target),
        spec=spec,
        licence=chosen,
        results=results,
        table=markdown(labelled) if labelled else "",
        base=content["base"],
        base_repo=_base_repo(record),
        provenance=provenance,
        datasets=tuple(filter(None, [redact.hub_dataset(source)])),
    )
    files = push.run_files(run.path, content, [*before, *results], paths)
    return push.Package(story, files, origin=run.path)


def _paths(record: "Record") -> list[str]:
    """What in a record is a local path, in whatever characters: what has a public name is none."""
    from robustctl.publish.redact import hub_dataset

    extra = record.recipe.get("extra")
    found = [extra.get("path")] if isinstance(extra, dict) else []
    found += [record.recipe_name] if record.recipe_name.endswith((".yaml", ".yml")) else []  # others are shipped
    found += [record.data["source"]] if not hub_dataset(record.data["source"]) else []
    found += [record.model, record.base] if not _is_public(record) else []
    return [text for text in map(str, filter(None, found)) if "/" in text or "\\" in text]


def _is_public(record: "Record") -> bool:
    """Whether the start is called by a name that others know: an entry's, or a pulled repo's, but not a directory's."""
    from robustctl.hub.names import FILE
    from robustctl.models.find import entry_files, pulled

    known = record.base in entry_files() or record.base in pulled()
    return record.base == record.model and known and not str(record.base).startswith(FILE)


def _public(record: "Record", paths: list[str]) -> "dict[str, Any]":
    """The content of ``run.json`` for everybody; a start without a public name keeps its last part."""
    from robustctl.publish.redact import last_part, scrubbed

    content: dict[str, Any] = scrubbed(record.model_dump(mode="json", by_alias=True), paths)
    if record.base and not _is_public(record):
        content["base"] = content["model"] = last_part(record.base)
    return content


def _results(folder: Path, weights_sha256: str) -> "list[UnionResult]":
    """The different evaluations of exactly these weights, oldest first."""
    from robustctl.errors import RequestError
    from robustctl.results import union as results

    found = []
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
        try:
            result = results.read(path)
        except RequestError:
            continue  # other schemas (intermediate-q) have their own readers
        if result.weights_sha256 == weights_sha256 and result not in found:
            found.append(result)
    return found


def _before(record: "Record", after: "list[UnionResult]") -> "list[UnionResult]":
    """The newest evaluation of the start that compares with the newest of the run."""
    from robustctl import runs
    from robustctl.results.union import unlike

    if not (record.base and record.base_sha256 and after):
        return []
    found = _results(runs.root() / "eval" / record.base.replace("/", "--"), record.base_sha256)
    return [one for one in found if not unlike(one, after[-1])][-1:]


def _base_repo(record: "Record") -> str | None:
    """The start as a repo of the hub, where it is one."""
    from robustctl.hub.names import REPO_ID
    from robustctl.models.find import entry_files, read_entry

    if not record.base or not _is_public(record):
        return None
    if record.base in entry_files():
        return next((source.repo for source in read_entry(record.base).sources if source.repo), None)
    repo = record.base.partition("@")[0]
    return repo if REPO_ID.fullmatch(repo) else None

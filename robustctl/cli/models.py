"""The model registry."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustctl import terminal
from robustctl.cli import options
from robustctl.cli.output import Json, Sort, listing, require_target

if TYPE_CHECKING:
    from robustctl.models.entry import Accuracy, Entry
    from robustctl.spec import ModelSpec

app = typer.Typer(no_args_is_help=True, help="The model registry: list, show, import, remove, verify, mirror.")


Name = Annotated[str, typer.Argument(help="Name of a model.", autocompletion=options.model_names)]


@app.command("list")
def list_models(
    dataset: Annotated[str | None, typer.Option(help="Only models of this data set.")] = None,
    norm: Annotated[str | None, typer.Option(help="Only models trained in this norm.")] = None,
    arch: Annotated[
        str | None, typer.Option(help="Only this architecture.", autocompletion=options.architectures)
    ] = None,
    max_size: Annotated[float | None, typer.Option(help="At most so many million parameters, or unknown.")] = None,
    here: Annotated[bool, typer.Option("--here", help="Only models whose weights are on this machine.")] = False,
    sort: Sort = None,
    json: Json = None,
) -> None:
    """List the models that can be named; '*' marks those whose weights are here."""
    require_target(json)
    from robustctl import discovery
    from robustctl.errors import RequestError
    from robustctl.models.entry import read
    from robustctl.models.find import entry_files, entry_weights, find_model, pulled
    from robustctl.threats import parse_norm

    models: dict[str, ModelSpec] = {name: read(path) for name, path in sorted(entry_files().items())}
    for repo in pulled():
        try:
            models[repo] = find_model(repo).spec
        except RequestError as error:  # the others are listed all the same
            terminal.tell(f"{repo}: {error}")
    datasets = {spec.dataset for spec in models.values()}
    families = {*discovery.names("robustctl.architectures"), *(spec.architecture.name for spec in models.values())}
    for kind, value, known in (("data set", dataset, datasets), ("architecture", arch, families)):
        if value is not None and value not in known:
            raise discovery.unknown(kind, value, known)
    wanted = {"dataset": dataset, "norm": norm and parse_norm(norm)}
    rows: list[dict[str, object]] = []
    for name, spec in models.items():
        size = getattr(spec, "parameters", None)  # a model of unknown size may be small enough: its line says '?'
        fits = all(value is None or getattr(spec, key) == value for key, value in wanted.items())
        fits &= max_size is None or size is None or size <= max_size * 1e6
        fits &= arch is None or arch in (spec.architecture.name, spec.architecture.name.partition("/")[0])
        present = name not in entry_files() or entry_weights(name).is_file()
        if fits and (present or not here):
            rows.append({"name": name, "here": present, **_row(spec)})
    headings = {"here": "", "name": "model", "dataset": "data", "threat": "threat", "parameters": "size"}
    shown = {
        "here": ["*" if row["here"] else "" for row in rows],
        "parameters": [f"{row['parameters'] / 1e6:.1f} M" if row["parameters"] else "?" for row in rows],  # type: ignore[operator]
        "accuracies": [_accuracies(row["accuracies"]) for row in rows],  # type: ignore[arg-type]
    }
    listing(
        rows, {**headings, "accuracies": "published accuracy in %", "architecture": "architecture"}, json, sort, shown
    )


@app.command()
def show(name: Name) -> None:
    """Everything that is known about a model."""
    import yaml

    from robustctl.models.find import entry_files, entry_weights, find_model, read_entry
    from robustctl.workflows.claimed_figures import claim_lines

    claims: list[str] = []
    if name in entry_files():
        entry = read_entry(name)
        weights = entry_weights(name)
        content = entry.model_dump(by_alias=True, mode="json", exclude_defaults=True)
        loose = [source for source in entry.files if not source.pinned]
    else:
        loose = []
        found_model = find_model(name)
        weights = found_model.weights
        claims = claim_lines(found_model)
        content = found_model.spec.model_dump(by_alias=True, mode="json") | {"licence": found_model.licence}
    terminal.show(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110).rstrip())
    for line in claims:
        terminal.show(line)
    for source in loose:
        binds = "the SHA-256 above" if source.sha256 else "the hash of the first download"
        terminal.show(
            f"not pinned to a commit: {source.repo}@{source.revision} may change; {binds} binds {source.file}"
        )
    terminal.show(f"weights: {weights if weights.is_file() else 'not here; fetched when needed'}")


@app.command("import")
def import_model(
    path: Annotated[Path, typer.Argument(help="A .pt, .ckpt, .pth or .safetensors file.")],
    name: Annotated[str, typer.Option(help="Name of the new entry.")],
    arch: Annotated[str | None, typer.Option(help="Architecture, e.g. wide-resnet.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Its arguments, e.g. depth=10.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set that it classifies, e.g. cifar10.")] = None,
    mean: Annotated[str | None, typer.Option(help="Normalisation: means of the channels, e.g. 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="Normalisation: standard deviations of the channels.")] = None,
    norm: Annotated[str | None, typer.Option(help="Norm that it was trained in: linf, l2 or l1.")] = None,
    eps: Annotated[str | None, typer.Option(help="Radius that it was trained at, e.g. 8/255.")] = None,
    no_normalisation: Annotated[
        bool, typer.Option("--no-normalisation", help="It takes pixels in [0,1] as they are.")
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(help="Number of classes of an unknown data set, or a YAML list of their names."),
    ] = None,
    input_shape: Annotated[str | None, typer.Option(help="C,H,W of an unknown data set, e.g. 3,64,64.")] = None,
    at: Annotated[str | None, typer.Option(help="Where the state dict stands in the file, e.g. state_dict.0.")] = None,
    strip: Annotated[str | None, typer.Option(help="Prefix that every tensor carries, e.g. module.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Prefix of tensors to leave out.")] = None,
    licence: Annotated[str | None, typer.Option(help="Hub identifier of the licence, e.g. mit.")] = None,
    description: Annotated[str | None, typer.Option(help="One line about the model.")] = None,
    from_yaml: Annotated[Path | None, typer.Option(help="Read an entry file; the options above override it.")] = None,
    model_code: options.ModelCode = None,
) -> None:
    """Register weights of your own: convert them to safetensors, load them strictly, write an entry."""
    from robustctl import user_code
    from robustctl.models import fetch, import_options, shelf
    from robustctl.models.find import entry_files, entry_weights, read_entry

    code = user_code.parse("--model-code", model_code) if model_code else None
    asked = import_options.ImportOptions(
        arch=arch,
        set_=set_ or [],
        dataset=dataset,
        mean=mean,
        std=std,
        norm=norm,
        eps=eps,
        classes=classes,
        input_shape=input_shape,
        at=at,
        strip=strip,
        drop=drop,
        licence=licence,
        description=description,
        no_normalisation=no_normalisation,
        model_code=code,
    )
    if (
        code is None
        and arch is None
        and from_yaml is None
        and name in entry_files()
        and not entry_weights(name).is_file()
    ):
        known = read_entry(name)
        terminal.show(f"brought {name}: {fetch.bring(name, known, path, known.keys.changed(at, strip, drop))}")
        return
    entry = import_options.entry_from(asked, from_yaml, path.name)
    said = asked.says_normalisation(from_yaml)
    with user_code.granted(code):
        entry = shelf.import_model(name, path, entry, entry.keys, ask=not said)
    terminal.show(f"imported {name}: {_summary(entry)}")


@app.command()
def architectures(json: Json = None) -> None:
    """List the architectures with their arguments and defaults; '*' marks your own."""
    from dataclasses import asdict

    from robustctl.workflows.architecture_list import architecture_list

    require_target(json)
    found = architecture_list()
    headings = {"own": "", "name": "architecture", "arguments": "arguments. What it is"}
    shown = {
        "own": ["*" if one.own else "" for one in found],
        "arguments": [f"{one.arguments}. {one.summary}" for one in found],
    }
    listing([asdict(one) for one in found], headings, json, None, shown)


@app.command()
def add(path: Annotated[Path, typer.Argument(help="An entry file; its name becomes the model's name.")]) -> None:
    """Add an entry of your own whose weights are fetched when needed."""
    from robustctl.models import entry, shelf

    terminal.show(f"added {shelf.add(path.stem, entry.read(path)).stem}")


@app.command()
def verify(
    name: Annotated[
        str | None, typer.Argument(help="One model; all without.", autocompletion=options.model_names)
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="One table of all entries' sources, and how many are in which state.")
    ] = False,
    local: Annotated[bool, typer.Option("--local", help="Only the weights that are here; no network.")] = False,
) -> None:
    """Check the weights that are here against their hashes, and the sources of entries without fetching weights."""
    from robustctl.errors import RequestError, RunError
    from robustctl.models import fetch
    from robustctl.models.find import entry_files, pulled, read_entry
    from robustctl.models.shelf import verify_weights
    from robustctl.report.sources import sources_lines, sources_table

    if name is not None and every:
        raise RequestError("give the name of one model, or --all")
    if local and every:
        raise RequestError("--all asks every source, --local none; give one of them")
    if name is not None and name not in pulled():
        read_entry(name)
    known = sorted(entry_files())
    asked = [] if local else [one for one in known if name in (None, one)]
    faults = 0
    for found, fault in verify_weights(name):
        terminal.show(f"{found}: {fault or 'is what was fetched'}")
        faults += fault is not None
    list_files = fetch.asked_once()
    answers = [(one, answer) for one in asked for answer in fetch.check_sources(read_entry(one), one, list_files)]
    faults += sum(answer.fault is not None for _, answer in answers)
    for line in sources_table(answers) if every else sources_lines(answers):
        terminal.show(line)
    if faults:
        raise RunError(
            f"{faults} faults; a model whose weights changed: robustctl models remove NAME, then pull it again"
        )


@app.command()
def mirror(
    name: Name,
    repo: Annotated[str, typer.Option(help="USER/NAME, or file:///path for a plain directory.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repo private.")] = False,
    licence: Annotated[str | None, typer.Option(help="Hub identifier, where the entry has none.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fetch and check, but push nothing.")] = False,
) -> None:
    """Put a published model on the hub: fetch, convert, check, push with a card that credits its authors."""
    from robustctl.errors import RunError
    from robustctl.publish.mirror import package
    from robustctl.publish.push import Target, check_target, preflight, publish

    target = Target(repo, private)
    check_target(target)
    options = [*(["--licence", licence] if licence else []), *(["--dry-run"] if dry_run else [])]
    again = ["robustctl", "models", "mirror", name, *target.options(), *options]
    try:
        if not dry_run:
            preflight(repo)
        address = publish(package(name, target, licence), target, dry_run=dry_run)
    except RunError as error:
        raise RunError(f"{error}\nTry again: {shlex.join(again)}") from None
    done = "nothing was pushed (dry run)" if dry_run else address or f"{repo} has it already"
    terminal.show(f"{name}: {done}")


@app.command()
def remove(name: Name) -> None:
    """Delete an entry of your own and its weights, fetched weights, or a pulled repo (USER/NAME@V: one revision)."""
    from robustctl.models import shelf

    for path in shelf.remove(name):
        terminal.show(f"removed {path}")


def _summary(spec: "Entry | ModelSpec") -> str:
    row = _row(spec)
    size = getattr(spec, "parameters", None)
    parts = [row["dataset"], row["threat"], row["architecture"], f"{size / 1e6:.1f} M parameters" if size else None]
    return ", ".join(str(part) for part in parts if part)


def _row(spec: "Entry | ModelSpec") -> dict[str, object]:
    """The listing's row of a model; size and published accuracies are known of entries alone."""
    from robustctl.threats import NORMS

    arguments = ",".join(f"{key}={value}" for key, value in spec.architecture.args.items())
    code = spec.architecture.code
    builder = f"{code.file}:{code.name}" if code else spec.architecture.name
    published: tuple[Accuracy, ...] = getattr(spec, "accuracies", ())
    strongest: dict[str, float] = {one.norm or "clean": one.value for one in published}  # of several protocols the last
    return {
        "dataset": spec.dataset,
        "threat": f"{spec.norm}:{spec.eps}" if spec.norm else None,
        "architecture": f"{builder}({arguments})" if arguments else builder,
        "parameters": getattr(spec, "parameters", None),
        "accuracies": strongest,
        **{key: strongest.get(key) for key in ("clean", *NORMS)},  # to sort by
    }


def _accuracies(published: dict[str, float]) -> str:
    return ", ".join(f"{norm} {100 * value:.1f}" for norm, value in published.items())

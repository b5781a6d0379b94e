"""Publishes a run: its weights, card, recipe and evaluations, after all checks."""

import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from robustctl import runs, user_code
from robustctl.allocator import without_collection
from robustctl.discovery import own_files
from robustctl.errors import RequestError, RunError
from robustctl.files import scratch
from robustctl.hub.names import EVAL_RESULTS, FILE, REPO_ID
from robustctl.hub.plain_directory import sha256
from robustctl.models.find import entry_files, pulled, read_entry
from robustctl.models.safetensors_header import weights_sha256
from robustctl.progress import say
from robustctl.publish import eval_results, push, redact
from robustctl.publish.card import RESULTS, PublishedCode, Story
from robustctl.publish.push import Package, Target, preflight
from robustctl.report.table import before_and_after, markdown
from robustctl.results import union as results
from robustctl.results.union import UnionResult, unlike
from robustctl.runs import Run, RunRecord
from robustctl.spec import WEIGHTS, CodeRecord, ModelSpec, read_spec
from robustctl.user_code import UserCode
from robustctl.workflows.publish_witnesses import Evaluated, make_witnesses


@dataclass(frozen=True)
class Published:
    """The outcome of a push, or of a dry run.

    Attributes:
        run: the run that was pushed.
        repo: where to.
        address: of the commit or the pull request; None if the repo has all of it already, and after a dry run.
        sizes: bytes of each file by its path in the repo; 0 for the card, which is written in the push itself.
    """

    run: Run
    repo: str
    address: str | None
    sizes: Mapping[str, int]

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"pushed {self.run.name}: {self.address}"
            if self.address
            else f"{self.repo} has all of {self.run.name} already"
        )


BEST = "best.safetensors"


@dataclass(frozen=True)
class Choices:
    """The options of a push, apart from run and place; see ``publish_run``."""

    licence: str | None = None
    allow_flags: bool = False
    with_code: bool = False
    witnesses: bool | None = None
    weights: str = "last"
    eval_results: bool = False
    dry_run: bool = False

    def options(self) -> list[str]:
        """The command line's options that say the same."""
        flags = {
            "--allow-flags": self.allow_flags,
            "--with-code": self.with_code,
            "--eval-results": self.eval_results,
            "--dry-run": self.dry_run,
        }
        said = ["--licence", self.licence] if self.licence else []
        said += ["--weights", self.weights] if self.weights != "last" else []
        said += [] if self.witnesses is None else ["--witnesses" if self.witnesses else "--no-witnesses"]
        return [*said, *(name for name, given in flags.items() if given)]


def publish_run(
    run: str | None,
    target: Target,
    *,
    licence: str | None = None,
    allow_flags: bool = False,
    dry_run: bool = False,
    with_code: bool = False,
    witnesses: bool | None = None,
    weights: str = "last",
    with_eval_results: bool = False,
) -> Published:
    """Push a run to a repo of the hub or to a plain directory; twice is the same as once.

    Args:
        run: name or directory; None is the newest.
        target: where to.
        licence: hub identifier, if it cannot be inherited.
        allow_flags: push although the evaluation raised flags; the card names them.
        dry_run: say what would be pushed, and ask the hub only whether the token may do it.
        with_code: also publish the source file of a model that the user's own code builds.
        witnesses: also publish the adversarial images that prove what is broken; None: if they can be made and are
            not large.
        weights: ``last``, or ``best`` by the selection split.
        with_eval_results: also write the figures in the hub's format for leaderboards.

    Raises:
        RequestError: no such run, it must not be published, or the token may not write there.
        RunError: the network or the disk; the run is unchanged.
    """
    if weights not in ("last", "best"):
        raise RequestError(f"--weights {weights!r} is neither last nor best")
    with without_collection():
        push.check_target(target)
        found = find_run(run)
    asked = Choices(licence, allow_flags, with_code, witnesses, weights, with_eval_results, dry_run)
    again = ["robustctl", "push", str(found.path), *target.options(), *asked.options()]
    with scratch() as folder:
        try:
            with without_collection():
                package = _prepare(found, target, asked, folder)
            address = push.publish(package, target, dry_run=dry_run)
        except RunError as error:
            raise RunError(f"{error}\n{found.path} is unchanged. Try again: {shlex.join(again)}") from None
        return Published(found, target.repo, address, {**_sizes(package), "README.md": 0})


def _sizes(package: Package) -> dict[str, int]:
    return {
        name: content.stat().st_size if isinstance(content, Path) else len(content)
        for name, content in package.files.items()
    }


def find_run(run: str | None) -> Run:
    """The run that the user names, the newest for None; RequestError if there is none or it is not a whole run."""
    found = runs.newest() if run is None else runs.find(run)
    if found is None and run is not None and run.endswith(".safetensors"):
        best = " --weights best" if Path(run).name == BEST else ""
        raise RequestError(f"push a run, not a file of weights: robustctl push {Path(run).parent}{best}")
    if found is None:
        raise RequestError(f"no run {run!r}; robustctl runs lists them")
    return found


def _prepare(run: Run, target: Target, asked: Choices, folder: Path) -> Package:
    """The package of a run, after all checks that need no more than it and the token."""
    weights = run.path / (WEIGHTS if asked.weights == "last" else BEST)
    if not weights.is_file():
        raise RequestError(f"{weights} is not there" + ("; without a selection split no weights are the best"))
    with ThreadPoolExecutor(2) as beside:  # the hub is asked while the weights are hashed, both ways at once
        tensors, file = beside.submit(weights_sha256, weights), beside.submit(sha256, weights)
        if not asked.dry_run or _can_ask(target.repo):
            preflight(target.repo, create_pr=target.create_pr)
        package = make_package(run, target, asked, tensors.result(), folder)
        return replace(package, sha256={weights: file.result()})


def _can_ask(repo: str) -> bool:
    """Whether the hub answers; a line on stderr says what a dry run leaves unchecked if it does not."""
    from robustctl.hub import client

    if repo.startswith(FILE) or (not client.is_offline() and client.answers()):
        return True
    say(f"{client.shown_endpoint()} does not answer: whether the token may write to {repo} was not checked")
    return False


def make_package(run: Run, target: Target, asked: Choices, digest: str, folder: Path) -> Package:
    """Everything of a run, whose tensors have the hash ``digest``, that is published; refuses what must not be.

    Args:
        folder: a place for files that are made for the push.

    Raises:
        RequestError: unfinished run, damaged weights, unknown licence, flagged results.
    """
    record = run.read()
    if (status := run.status()) == "running":
        raise RequestError(f"run {run.name} is still running; push it when it has finished")
    if status != "finished":
        again = f"robustctl {record.command} --resume --out {run.path}"
        raise RequestError(f"run {run.name} is {status}; finish it first: {again}")
    chosen = push.check_licence(asked.licence or record.licence, record.base)
    spec = read_spec(run.path)
    folders = run.eval_dirs() if asked.weights == "last" else [runs.eval_dir_of(f"{run.name}/best")]
    places = {place: result for folder in folders for place, result in _results(folder, digest).items()}
    found = list(places.values())
    push.check_flags(found, asked.allow_flags)
    found_before = _before(record, found)
    source = str(record.data["source"])
    names = redact.data_names([source, *(one.data.source for one in [*found_before, *found])])
    before = [redact.published(one, names) for one in found_before]
    results = [redact.published(one, names) for one in found]
    paths = _paths(record)
    content = _public(record, paths)
    content["data"] = {**record.data, "source": names[source]}
    content[RESULTS] = [push.result_name(one) for one in results]
    provenance = {
        "recipe": " with ".join(filter(None, [content["recipe_name"], ", ".join(content["overrides"])])),
        "seed": str(record.seed),
        "data": f"{names[source]} ({record.data.get('n', '?')} images)",
        "weights": _which(record, asked.weights),
        "versions": ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "SHA-256 of the tensors": digest,
    }
    labelled = before_and_after(before, results)
    code, source_file = _code_of(record, spec, asked.with_code)
    story = Story(
        place=push.place_of(target),
        spec=spec,
        licence=chosen,
        results=results,
        table=markdown(labelled) if labelled else "",
        base=content["base"],
        base_repo=_base_repo(record),
        provenance=provenance,
        code=code,
        datasets=tuple(filter(None, [redact.hub_dataset(source)])),
    )
    files = push.run_files(run.path, content, [*before, *results], paths, story)
    if asked.eval_results:
        files[EVAL_RESULTS] = eval_results.content(results)
    if asked.weights == "best":
        files[WEIGHTS] = run.path / BEST
    named = [
        Evaluated(path, one, push.result_name(shown))
        for (path, one), shown in zip(places.items(), results, strict=True)
    ]
    files |= make_witnesses(
        named, spec, record, folder, wanted=asked.witnesses, fetch=asked.witnesses is True and not asked.dry_run
    )
    if code and code.path:
        assert source_file is not None, "code with a path in the repo has a file here"
        files[code.path] = source_file.read_bytes()
    return push.Package(story, files, origin=run.path)


def _code_of(record: RunRecord, spec: ModelSpec, publish: bool) -> tuple[PublishedCode | None, Path | None]:
    """The user's own code that builds a model, as its card tells of it, and its file if that is to be published.

    Raises:
        RequestError: it is to be published, and there is none, or it is not the code that the model was made with.
    """
    recorded, own = spec.architecture.code, own_files("robustctl.architectures").get(spec.architecture.name)
    if recorded is None and own is None:
        if publish:
            raise RequestError(
                f"--with-code: {spec.architecture.name} is robustctl's own architecture; it needs no code"
            )
        return None, None
    named: UserCode | None = None
    if recorded is None:
        assert own is not None, "else there is no code"
        named = UserCode(str(own), own, "build")
        recorded = CodeRecord(file=own.name, name="build", sha256=named.sha256)
    elif publish and record.model_code:
        named = user_code.parse("--model-code", record.model_code)
    code = PublishedCode(recorded.file, recorded.name, recorded.sha256)
    if not publish:
        return code, None
    if named is None or named.sha256 != recorded.sha256:
        raise RequestError(f"--with-code: {recorded.file} is not here as it was when the model was made with it")
    return replace(code, path=f"robustctl/code/{recorded.file}"), named.file


def _paths(record: RunRecord) -> list[str]:
    """The texts of a record that are local paths, in whatever characters: a source with a public name is none."""
    extra = record.recipe.get("extra")
    found = [extra.get("path")] if isinstance(extra, dict) else []
    found += [record.recipe_name] if record.recipe_name.endswith((".yaml", ".yml")) else []  # others are shipped
    found += [record.data["source"]] if not redact.hub_dataset(record.data["source"]) else []
    found += [record.model_code.rpartition(":")[0]] if record.model_code else []
    found += [record.model, record.base] if not _is_public(record) else []
    return [text for text in map(str, filter(None, found)) if "/" in text or "\\" in text]


def _is_public(record: RunRecord) -> bool:
    """Whether the start is called by a name that others know: an entry's, or a pulled repo's, but not a directory's."""
    known = record.base in entry_files() or record.base in pulled()
    return record.base == record.model and known and not str(record.base).startswith(FILE)


def _public(record: RunRecord, paths: list[str]) -> dict[str, Any]:
    """The content of ``run.json`` for everybody; a start without a public name keeps its last part."""
    content: dict[str, Any] = redact.redacted(record.model_dump(mode="json", by_alias=True), paths)
    if record.base and not _is_public(record):
        content["base"] = content["model"] = redact.last_part(record.base)
    return content


def _which(record: RunRecord, weights: str) -> str:
    """The weights of a run that these are, in words."""
    if weights == "last":
        return f"the last ones, after {record.step} of {record.steps} steps"
    best = record.best or {}
    epoch, union = best.get("epoch"), best.get("union")
    by = (
        f", epoch {epoch:.0f} with a union accuracy of {100 * union:.1f} % there" if epoch and union is not None else ""
    )
    return f"the best ones by the selection split, which was held out of the training split{by}"


def _results(folder: Path, weights_sha256: str) -> dict[Path, UnionResult]:
    """The different evaluations of exactly these weights by their files, oldest first."""
    found: dict[Path, UnionResult] = {}
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime):
        try:
            result = results.read(path)
        except RequestError:
            continue  # other schemas (intermediate-q) have their own readers
        if result.weights_sha256 == weights_sha256 and result not in found.values():
            found[path] = result
    return found


def _before(record: RunRecord, after: list[UnionResult]) -> list[UnionResult]:
    """The newest evaluation of the start that compares with the newest of the run."""
    if not (record.base and record.base_sha256 and after):
        return []
    found = _results(runs.eval_dir_of(record.base), record.base_sha256).values()
    return [one for one in found if not unlike(one, after[-1])][-1:]


def _base_repo(record: RunRecord) -> str | None:
    """The start as a repo of the hub, if it is one."""
    if not record.base or not _is_public(record):
        return None
    if record.base in entry_files():
        return next((source.repo for source in read_entry(record.base).sources if source.repo), None)
    repo = record.base.partition("@")[0]
    return repo if REPO_ID.fullmatch(repo) else None

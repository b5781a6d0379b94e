"""Publishes a model: to a repo of the client, or to a plain directory (``file://``). It only reads the run."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from robustctl.errors import RequestError
from robustctl.files import scratch
from robustctl.hub import plain_directory
from robustctl.hub.download import RemoteFile, download, git_sha1
from robustctl.hub.names import FILE, REPO_ID, REVISION
from robustctl.hub.plain_directory import sha256
from robustctl.models.licence import LICENCES
from robustctl.publish import card
from robustctl.publish.card import Place, Story
from robustctl.publish.redact import TOKEN, last_part, redact, redacted, secret_in
from robustctl.results.union import UnionResult
from robustctl.version import __version__

NOTES = ("union-only", "outside", "fast-copy")  # flags that say how a number was made, not that it is too high
SHARD_BYTES = 5_000_000_000  # the default of huggingface_hub's own writer
# The files that only a push writes: left over from an earlier one, they would be read as part of this one.
OWNED = re.compile(
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|robustctl/(run|eval-[\w.-]+)\.json"
    r"|robustctl/code/[\w.-]+\.py|witnesses/eval-[\w.-]+\.safetensors|\.eval_results/robustctl\.yaml"
)


@dataclass(frozen=True)
class Package:
    """The content that a repo will hold.

    Attributes:
        story: of its card.
        files: by their path in it (bytes, or a file here).
        sha256: hashes of files here that are known already; the others are hashed when they are needed.
        origin: the run that the files are made from, if they are.
    """

    story: Story
    files: Mapping[str, bytes | Path]
    sha256: Mapping[Path, str] = field(default_factory=dict)
    origin: Path | None = None


@dataclass(frozen=True)
class Target:
    """Where to push: ``branch`` of ``repo``, or a pull request to it."""

    repo: str
    private: bool = False
    branch: str = "main"
    create_pr: bool = False

    def options(self) -> list[str]:
        """The command line's options that say the same."""
        flags = {"--private": self.private, "--create-pr": self.create_pr}
        branch = ["--revision", self.branch] if self.branch != "main" else []
        return ["--repo", self.repo, *branch, *(name for name, given in flags.items() if given)]


def place_of(target: Target) -> Place:
    """The target as a card knows it; the path of a directory is not published."""
    if target.repo.startswith(FILE):
        return Place(last_part(target.repo), directory=True)
    return Place(target.repo, target.branch, target.create_pr)


def check_target(target: Target) -> None:
    """Before long work: is this a place, and may the token write there?

    Raises:
        RequestError: no repo id, no token, no right to write.
        RunError: the hub does not answer.
    """
    if target.repo.startswith(FILE):
        if target.branch != "main" or target.create_pr or target.private:
            raise RequestError(f"{target.repo} is a plain directory: no --revision, --create-pr or --private")
        return
    if not REPO_ID.fullmatch(target.repo):
        raise RequestError(f"--repo {target.repo!r} is not of the form USER/NAME or file:///path")
    if not REVISION.fullmatch(target.branch):
        raise RequestError(f"--revision {target.branch!r} is no branch name")


def preflight(repo: str, *, create_pr: bool = False) -> str:
    """Check ``repo`` and the token before long work; returns whose token it is (empty for a directory)."""
    check_target(Target(repo))
    if repo.startswith(FILE):
        plain_directory.require_writable(repo)
        return ""
    from robustctl.hub import client

    return client.require_write(repo, create_pr).name


def check_licence(licence: str | None, base: str | None) -> str:
    """The licence to state. It is inherited or given, never guessed; raises RequestError otherwise."""
    if licence is None or licence == "unknown":
        of = f"of {base}, which this model was made from, " if base else ""
        raise RequestError(f"the licence {of}is not known; if you may publish it, say under which: --licence mit")
    if licence not in LICENCES:
        raise RequestError(f"--licence {licence!r} is not one of the hub's: {', '.join(LICENCES)}")
    return licence


def require_licence(repo: str | None, licence: str | None, base: str | None) -> None:
    """Before long work: raise RequestError if the push to ``repo`` after it (if any) would lack a licence."""
    if repo is None or licence in LICENCES:
        return
    whose = f"the licence of {base}" if base else "the licence of a model that is trained from scratch"
    state = f"is {licence!r}, which is none of the hub's" if licence else "is not known"
    raise RequestError(
        f"--push {repo} would be refused after training: {whose} {state}; if you may publish the model, "
        "say under which: --licence mit"
    )


def check_flags(results: list[UnionResult], allow: bool) -> None:
    """Raise RequestError for results that may claim too much, unless ``allow``; the card names the flags anyway."""
    flags = [flag for result in results for flag in result.flags if flag.partition(":")[0] not in NOTES]
    if flags and not allow:
        listed = "\n  ".join(flags)
        raise RequestError(f"the evaluation raised flags:\n  {listed}\nevaluate again, or push with --allow-flags")


def run_files(
    run: Path, record: dict[str, Any], results: list[UnionResult], paths: Iterable[str], story: Story
) -> dict[str, bytes | Path]:
    """The files of a run that are published, without anything of this machine or its user.

    Args:
        record: the content of ``run.json``.
        results: evaluations as they are published.
        paths: local paths that the recipe may hold.
        story: of the card, whose section has its hash in the record.
    """
    kept = {key: value for key, value in record.items() if key not in ("message", "hardware", "checksum")}
    files: dict[str, bytes | Path] = {
        "model.safetensors": run / "model.safetensors",
        "config.json": (run / "config.json").read_bytes(),
        "robustctl/run.json": _json({**redacted(kept, paths), card.CARD_SHA256: card.section_sha256(story)}),
    }
    if (run / "recipe.yaml").is_file():
        files["recipe.yaml"] = redact((run / "recipe.yaml").read_text(encoding="utf-8"), paths).encode()
    for result in results:
        files[f"robustctl/{result_name(result)}.json"] = result_bytes(result)
    return files


def result_bytes(result: UnionResult) -> bytes:
    """An evaluation as its file is published."""
    return _json(result.model_dump(mode="json", by_alias=True))


def result_name(result: UnionResult) -> str:
    """The name of that file without its ending; another content has another name."""
    return f"eval-{result.data.split}-{git_sha1(result_bytes(result))[:8]}"


def publish(package: Package, target: Target, *, dry_run: bool = False) -> str | None:
    """Push, after ``preflight``; the same package twice makes no second commit.

    Args:
        dry_run: only check the package, without the network.

    Returns:
        The address of the commit or pull request; None if everything is there already (or for a dry run).

    Raises:
        RequestError: something secret in the files, no right to write.
        RunError: the hub failed; nothing here has changed.
    """
    check_target(target)
    with scratch() as folder:
        return _publish(package if dry_run else _sharded(package, folder), target, dry_run)


def _publish(package: Package, target: Target, dry_run: bool) -> str | None:
    in_folder = target.repo.startswith(FILE)
    if not dry_run and not in_folder:
        return _push_to_hub(package, target)
    files = _with_card(package, plain_directory.read_card(target.repo) if in_folder else "", target)
    return target.repo if not dry_run and _push_to_folder(target.repo, files, package.sha256) else None


def _sharded(package: Package, folder: Path) -> Package:
    """Split weights that are larger than what the hub's own library keeps in one file."""
    weights = package.files["model.safetensors"]
    if not isinstance(weights, Path) or weights.stat().st_size <= SHARD_BYTES:
        return package
    from robustctl import checkpoint
    from robustctl.hub import client

    client.write_shards(checkpoint.read_tensors(weights), folder, SHARD_BYTES)
    others = {name: content for name, content in package.files.items() if name != "model.safetensors"}
    return replace(package, files=others | {path.name: path for path in folder.iterdir()})


def _push_to_hub(package: Package, target: Target) -> str | None:
    from robustctl.hub import client

    client.create_repo(target.repo, target.private, target.branch, target.create_pr)
    commit, there = client.list_files(target.repo, target.branch)
    remote = {file.path: file for file in there}
    files = _with_card(package, _existing_card(target.repo, commit, remote), target)
    changed = {name: one for name, one in files.items() if not _same(one, remote.get(name), package.sha256)}
    stale = [name for name in remote if OWNED.fullmatch(name) and name not in files]
    if not changed and not stale:
        return None
    message = f"robustctl {__version__} push"
    return client.commit_files(target.repo, changed, package.sha256, stale, message, target.branch, target.create_pr)


def _push_to_folder(repo: str, files: dict[str, bytes | Path], known: Mapping[Path, str]) -> bool:
    with scratch() as folder:
        paths = {}
        for number, (name, content) in enumerate(files.items()):
            paths[name] = content if isinstance(content, Path) else folder / str(number)
            if isinstance(content, bytes):
                paths[name].write_bytes(content)
        return plain_directory.push(repo, paths, known, OWNED)


def _with_card(package: Package, existing: str, target: Target) -> dict[str, bytes | Path]:
    for name, content in {**package.files, "README.md": card.render(package.story).encode()}.items():
        if isinstance(content, bytes) and (secret := secret_in(content.decode("utf-8", "replace"))):
            raise RequestError(f"{name} would publish {secret}; remove it from {_origin(package, name)} and push again")
    if secret_in(existing) == TOKEN:  # a path of the user's own is there already, and theirs to keep
        raise RequestError(f"the card of {target.repo} holds {TOKEN}; remove it from README.md there and push again")
    return {**package.files, "README.md": card.render(package.story, existing).encode("utf-8", "surrogateescape")}


def _origin(package: Package, name: str) -> str:
    """Where the user can change what a published file says."""
    if package.origin is None:
        return "the registry's entry"
    if name.startswith("robustctl/eval-"):
        return f"{package.origin / 'eval'}, or delete that evaluation,"
    return str(package.origin / ("run.json" if name == "README.md" else name.removeprefix("robustctl/")))


def _existing_card(repo: str, commit: str, remote: dict[str, RemoteFile]) -> str:
    from robustctl.hub import client

    if "README.md" not in remote:
        return ""
    if remote["README.md"].size > plain_directory.MAX_CARD_BYTES:
        raise RequestError(
            f"README.md of {repo} is larger than {plain_directory.MAX_CARD_BYTES} bytes; shorten it and push again"
        )
    with scratch() as folder:
        path = folder / "README.md"
        download(client.wanted(repo, commit, remote["README.md"], path), client.get, lambda n: None)
        return path.read_bytes().decode("utf-8", "surrogateescape")


def _same(content: bytes | Path, remote: RemoteFile | None, known: Mapping[Path, str]) -> bool:
    if remote is None:
        return False
    if isinstance(content, Path):
        return content.stat().st_size == remote.size and (known.get(content) or sha256(content)) == remote.sha256
    return git_sha1(content) == remote.git_sha1 if remote.sha256 is None else False


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()

"""The Hugging Face Hub: the only user of huggingface_hub.

Everything goes over plain HTTP: the Xet protocol has no hashes that could be checked here, so it is switched off
unless the user has set ``HF_HUB_DISABLE_XET``.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

if "HF_HUB_DISABLE_XET" not in os.environ:
    os.environ["HF_HUB_DISABLE_XET"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
    get_token,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.repocard_data import EvalResult as EvalResult
from huggingface_hub.repocard_data import ModelCardData as ModelCardData
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from robustctl.errors import RequestError, RunError
from robustctl.hub.download import RETRIED, TIMEOUT_SECONDS, Again, RemoteFile, Wanted, require_inside, retried, shown
from robustctl.hub.names import COMMIT, REPO_ID
from robustctl.progress import say

if TYPE_CHECKING:
    from torch import Tensor

if os.environ["HF_HUB_DISABLE_XET"] == "1":
    constants.HF_HUB_DISABLE_XET = True  # in case somebody imported huggingface_hub before us

NetworkError: type[Exception] = HfHubHTTPError.__mro__[1]  # httpx.HTTPError of client 1.x, httpx2.HTTPError of 2.x
MAX_FILES = 10_000
CALL_ATTEMPTS = 3  # the client itself tries most calls several times

Kind = Literal["model", "dataset"]
T = TypeVar("T")


@dataclass(frozen=True)
class Identity:
    """The owner of a token: name, role of the token (``read``, ``write``, ``fineGrained``), and organisations.

    In the organisations ``read_only`` the user may only read.
    """

    name: str
    role: str
    organisations: tuple[str, ...]
    read_only: tuple[str, ...] = ()


def endpoint() -> str:
    """The hub's address, ``$HF_ENDPOINT`` or huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def shown_endpoint() -> str:
    """The address without a user name or password that it may hold."""
    return shown(endpoint())


def is_offline() -> bool:
    """Whether ``$HF_HUB_OFFLINE`` forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def require_online(what: str) -> None:
    """Raise RunError if the network is forbidden, before any socket is opened."""
    # The client has read both when it was imported, perhaps long ago.
    constants.HF_HUB_OFFLINE = is_offline()
    constants.ENDPOINT = endpoint()
    if is_offline():
        raise RunError(f"{what}: HF_HUB_OFFLINE is set, and what is here does not suffice; unset it and run again")


def own_token() -> str | None:
    """The configured token (environment or the hub client's own file); never to be shown."""
    return get_token()


def list_files(repo: str, revision: str, kind: Kind = "model") -> tuple[str, list[RemoteFile]]:
    """The commit that ``revision`` is now, and its files.

    Raises:
        RequestError: no such repo or revision for this user, too many files, or a file name that leaves its folder.
        RunError: the hub does not answer, or with something that is no commit.
    """
    api = HfApi(endpoint=endpoint())

    def ask() -> tuple[object, object]:
        try:
            info = api.repo_info(repo, repo_type=kind, revision=revision, timeout=TIMEOUT_SECONDS)
        except RevisionNotFoundError:
            raise RequestError(f"{repo} has no branch, tag or commit {revision!r} on {shown_endpoint()}") from None
        return info.sha, info.id

    commit, now = call(repo, ask)
    if isinstance(now, str) and REPO_ID.fullmatch(now) and now.lower() != repo.lower():
        say(f"{repo} has moved: it is {now} now")
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):  # it becomes the name of a folder here
        raise RunError(f"{repo}: {shown_endpoint()} does not say which commit {revision!r} is, but {commit!r:.80}")
    tree = call(
        repo,
        lambda: list(islice(api.list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind), MAX_FILES + 1)),
    )
    if len(tree) > MAX_FILES:
        raise RequestError(f"{repo} holds more than {MAX_FILES} files and folders; nothing was fetched")
    return commit, [_remote_file(repo, item) for item in tree if isinstance(item, RepoFile)]


def _remote_file(repo: str, item: RepoFile) -> RemoteFile:
    require_inside(repo, item.path)
    return RemoteFile(item.path, item.size, item.lfs.sha256 if item.lfs else None, item.blob_id)


def wanted(repo: str, commit: str, file: RemoteFile, path: Path, kind: Kind = "model") -> Wanted:
    """The request from which ``download`` brings one file of a repo."""
    git_sha1 = None if file.sha256 else file.git_sha1
    return Wanted(file_url(repo, commit, file.path, kind), path, file.size, file.sha256, git_sha1, headers())


def file_url(repo: str, revision: str, path: str, kind: Kind = "model") -> str:
    """The address of one file. Made here: the client's own function ignores an endpoint that was set after import."""
    prefix = "datasets/" if kind == "dataset" else ""
    return f"{endpoint()}/{prefix}{repo}/resolve/{quote(revision, safe='')}/{quote(path)}"


def headers() -> dict[str, str]:
    """The headers of a request to the hub; they hold the token, so they are never shown."""
    return build_hf_headers(library_name="robustctl")


@contextmanager
def get(url: str, request_headers: dict[str, str]) -> Iterator[Any]:
    """Open a streaming GET; whatever the network does becomes a ConnectionError."""
    require_online(shown(url))
    try:
        with get_session().stream("GET", url, headers=request_headers, timeout=TIMEOUT_SECONDS) as response:
            if url.startswith("https:") and any(one.url.scheme != "https" for one in (*response.history, response)):
                raise RunError(f"{shown(url)} leads to an address that is not https; nothing was fetched")
            yield response
    except NetworkError as error:
        raise Again(f"{type(error).__name__}: {error}") from None


def identity() -> Identity:
    """Ask the hub who the token is.

    Raises:
        RequestError: no token, or one that the hub refuses.
    """
    if not own_token():
        raise RequestError("no hub token: set HF_TOKEN, or run 'hf auth login'")
    return call("the token", _whoami)


def _whoami() -> Identity:
    answer = HfApi(endpoint=endpoint()).whoami()
    role = answer.get("auth", {}).get("accessToken", {}).get("role", "unknown")
    roles = {organisation.get("name", ""): organisation.get("roleInOrg") for organisation in answer.get("orgs", [])}
    read_only = tuple(name for name, role_there in roles.items() if role_there == "read")
    return Identity(answer.get("name", "unknown"), role, tuple(roles), read_only)


def require_write(repo: str, create_pr: bool = False) -> Identity:
    """Check before long work that the token can write to ``repo``, or open a pull request there; create nothing.

    Raises:
        RequestError: it is a reading token; the namespace is neither the user's nor an organisation's in which they may
            write; or the pull request is for somebody's repo that does not exist.
    """
    who = identity()
    namespace = repo.partition("/")[0]
    if who.role == "read":
        raise RequestError(f"the token of {who.name} may only read; make one with the right to write to {repo}")
    writable = {who.name, *who.organisations} - {*who.read_only}
    if namespace in writable or (create_pr and exists(repo)):
        return who
    if namespace in who.read_only:
        raise RequestError(
            f"--repo {repo}: {who.name} may only read in {namespace}; ask its admins for a role that writes"
        )
    others = f" and the organisations {', '.join(who.organisations)}" if who.organisations else ""
    raise RequestError(f"--repo {repo}: the token belongs to {who.name}{others}, not to {namespace}")


def exists(repo: str) -> bool:
    """Whether the repo is there and this user may see it."""
    return call(repo, lambda: HfApi(endpoint=endpoint()).repo_exists(repo))


def create_repo(repo: str, private: bool, branch: str, create_pr: bool = False) -> None:
    """Make the repo and the branch if they do not exist yet; a pull request needs neither if the repo exists."""
    if create_pr and exists(repo):
        return
    api = HfApi(endpoint=endpoint())
    call(repo, lambda: api.create_repo(repo, private=private, exist_ok=True))
    if branch != "main":
        call(repo, lambda: api.create_branch(repo, branch=branch, exist_ok=True))


def commit_files(
    repo: str,
    files: dict[str, bytes | Path],
    sha256: Mapping[Path, str],
    deleted: list[str],
    message: str,
    branch: str,
    create_pr: bool,
) -> str:
    """Upload and delete files as one commit; returns the address of the commit or of the pull request.

    Args:
        sha256: hashes of files that are known already; the client makes the others. The hub checks both kinds.
    """
    api = HfApi(endpoint=endpoint())

    def commit() -> str:
        # Made anew in each attempt: the client keeps state in the operations.
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            _addition(name, content, sha256) for name, content in files.items()
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in deleted]
        try:
            done = api.create_commit(repo, operations, commit_message=message, revision=branch, create_pr=create_pr)
        except ValueError as error:
            if str(error).startswith("Invalid metadata"):  # the hub has looked at the card; the client says it so
                raise RequestError(f"{repo}: {shown_endpoint()} refuses the card README.md: {error}") from None
            raise
        return str(done.pr_url or done.commit_url)

    return call(repo, commit)


def _addition(name: str, content: bytes | Path, sha256: Mapping[Path, str]) -> CommitOperationAdd:
    operation = CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
    if isinstance(content, Path) and content in sha256:
        operation.upload_info.sha256 = bytes.fromhex(sha256[content])  # saves a client from 2.0 on a pass over the file
    return operation


def call(what: str, ask: Callable[[], T]) -> T:
    """Run one call of the hub's client with retries; every fault becomes a message of ours, without the token.

    Raises:
        RequestError: not found, not allowed, not valid.
        RunError: the hub is down, slow or out of its mind.
    """
    require_online(what)

    def attempt() -> T:
        try:
            return _unwrapped(ask)
        except LocalTokenNotFoundError:
            raise RequestError("no hub token: set HF_TOKEN, or run 'hf auth login'") from None
        except HFValidationError:
            raise RequestError(f"{what!r} is no repo id; write USER/NAME") from None
        except HfHubHTTPError as error:
            raise _translated(what, error) from None
        except (NetworkError, ConnectionError) as error:
            raise Again(f"cannot reach {shown_endpoint()} ({type(error).__name__})") from None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise RunError(f"{what}: {shown_endpoint()} gave an answer that makes no sense ({error!r})") from None

    return retried(what, attempt, CALL_ATTEMPTS)


def _unwrapped(ask: Callable[[], T]) -> T:
    """Run ``ask``; the client wraps what goes wrong while it sends a large file, and here it comes out again."""
    try:
        return ask()
    except RuntimeError as error:
        if isinstance(error.__cause__, Exception):
            raise error.__cause__ from None
        raise


def _translated(what: str, error: HfHubHTTPError) -> Exception:
    """The message for an HTTP error; the status decides."""
    status = error.response.status_code
    where = shown_endpoint()
    if isinstance(error, GatedRepoError):
        token = ", with the account of your token" if own_token() else " and set HF_TOKEN"
        return RequestError(f"{what} is gated: accept its terms on {where}/{what}{token}")
    if isinstance(error, RevisionNotFoundError):
        return RequestError(f"{what} has no such revision on {where}")
    if status == 401 and own_token():
        return RequestError(
            f"{what}: {where} refuses the token (401); it is wrong or expired, or the repo does not exist"
        )
    if status == 403:
        return RequestError(f"{what}: the token lacks the right for this (403) on {where}")
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return RequestError(f"{what} is not on {where}, or it is private and needs a token (HF_TOKEN)")
    if status in RETRIED:
        asked = error.response.headers.get("retry-after", "")
        return Again(f"{where} answered {status}", float(asked) if asked.isdecimal() else 0.0)
    return RunError(f"{what}: {where} answered {status}: {error.server_message or 'no reason given'}")


def pytorch_mixin() -> type:
    """The hub's mixin for torch modules (imports torch)."""
    from huggingface_hub import PyTorchModelHubMixin

    return PyTorchModelHubMixin


def answers() -> bool:
    """Whether the hub can be reached at all, asked once."""
    try:
        with get(f"{endpoint()}/api/models?limit=1", {}) as response:
            return bool(response.status_code < 500)
    except ConnectionError:
        return False


def write_shards(tensors: "dict[str, Tensor]", folder: Path, max_bytes: int) -> None:
    """Write weights in several files with an index, by the rule of the hub's own library (imports torch)."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(tensors, folder, max_shard_size=max_bytes)


def eval_results(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of ``.eval_results/*.yaml`` as the hub's library reads and writes them.

    Raises:
        RequestError: the library does not know the format yet, or an entry is not of it.
    """
    try:
        from huggingface_hub import eval_result_entries_to_yaml, parse_eval_result_entries
    except ImportError:
        raise RequestError("--eval-results: this version of huggingface_hub does not know them; update it") from None
    try:
        return eval_result_entries_to_yaml(parse_eval_result_entries(entries))
    except (KeyError, ValueError) as error:
        raise RequestError(f"--eval-results: {error!r}") from None

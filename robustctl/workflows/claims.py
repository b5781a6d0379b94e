"""Finds the claims that are made for a model: results with figures, and the witnesses that belong to them.

Only reading witnesses imports torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustctl import runs
from robustctl.errors import RequestError
from robustctl.hub.download import git_sha1
from robustctl.hub.names import FILE, REPO_ID
from robustctl.models import pull as pulling
from robustctl.models.find import FoundModel, entry_files, split_revision
from robustctl.publish.card import RESULTS
from robustctl.reading import is_file, read_json
from robustctl.results import union as results
from robustctl.results.union import UnionResult
from robustctl.runs import RunRecord
from robustctl.spec import CONFIG

if TYPE_CHECKING:
    from robustctl.evaluation.witnesses import Witnesses

RECORDS, WITNESSES = "robustctl", "witnesses"
"""Folders of a published directory."""
CLAIM, PROPOSAL = "eval-", "proposal-"
"""Begin the names of results: the publisher's own, and those that others have proposed."""


@dataclass(frozen=True)
class Claim:
    """A result on the disk.

    Attributes:
        path: its JSON file.
        result: what it holds; None if its figures do not fit together or it was changed, which ``fault`` says.
        published: it lies in a directory that a push made.
    """

    path: Path
    result: UnionResult | None
    fault: str = ""
    published: bool = False

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem

    @property
    def witness_file(self) -> Path:
        """Where its witnesses are, if they are there."""
        if self.published:
            return self.path.parent.parent / WITNESSES / f"{self.path.stem}.safetensors"
        return self.path.with_suffix(".sqlite")

    def witnesses(self) -> "Witnesses | None":
        """Its own witnesses; None if it has none. RequestError for a damaged file."""
        from robustctl.evaluation.witnesses import StoredWitnesses, read

        if self.result is None or not is_file(self.witness_file):
            return None
        if not self.published:
            return StoredWitnesses(self.witness_file, self.result)
        return read(self.witness_file, self.result.data.n)


@dataclass(frozen=True)
class Claims:
    """A model and what is claimed for it.

    Attributes:
        found_model: the model.
        claims: in the order of their names.
        record: of the run that made the model, if it is a run on this machine.
        directory: what a push made, if the claims lie there.
    """

    found_model: FoundModel
    claims: list[Claim]
    record: RunRecord | None = None
    directory: Path | None = None


def find_claims(text: str, model: str | None = None) -> Claims:
    """The claims for what the user names; a repo is brought here first.

    Args:
        text: ``USER/NAME[@REVISION]``, ``file:///path``, a model directory, a run, or the JSON file of a result.
        model: whose result the file is, if its place does not tell.

    Raises:
        RequestError: nothing is called so, or no figures are claimed for it.
        RunError: the repo could not be fetched.
    """
    from robustctl.workflows.subject import find_subject

    if text.endswith(".json") and is_file(Path(text)):
        return _of_file(Path(text), model)
    if model is not None:
        raise RequestError(f"--model is for the file of a result; {text} is a model itself")
    if text in entry_files():
        raise RequestError(f"{text} is an entry of the registry: its figures are its authors', and have no witnesses")
    repo, revision = split_revision(text)
    run = runs.find(text)
    if text.startswith(FILE) or (REPO_ID.fullmatch(repo) and run is None and not Path(text).exists()):
        pulling.pull(repo, revision)
    subject = find_subject(text)
    directory = subject.found_model.weights.parent
    if run is None and (directory / RECORDS).is_dir():
        return published_claims(subject.found_model)
    found = [_read(path, False) for path in sorted(subject.eval_dir.glob("*.json")) if _is_claim(path)]
    if not found:
        raise RequestError(f"{text} has no result of an evaluation; evaluate it: robustctl eval {text}")
    return Claims(subject.found_model, found, subject.record)


def read_claim(path: Path) -> Claim:
    """The claim in the JSON file of a result, in a run or in a directory that a push made."""
    return _read(path, path.resolve().parent.name == RECORDS)


def _of_file(path: Path, model: str | None) -> Claims:
    """One result; its model is the directory around it, or what ``model`` names, or what it says itself."""
    from robustctl.workflows.obtain import obtain

    around = path.resolve().parent.parent
    claim = read_claim(path)
    if model is None and (around / CONFIG).is_file():
        model = str(around)
    if model is None:
        if claim.result is None:
            raise RequestError(f"{path}: {claim.fault}")
        model = claim.result.model
    try:
        found_model = obtain(model)
    except RequestError as error:
        raise RequestError(f"{path} does not lie beside its model: {error}. Name it: --model MODEL") from None
    run = runs.find(str(around))
    return Claims(found_model, [claim], run.read() if run else None, around if claim.published else None)


def published_claims(found_model: FoundModel) -> Claims:
    """The claims of a directory that a push made, without the evaluations of what the model was made from.

    Raises:
        RequestError: it makes none.
    """
    directory = found_model.weights.parent
    names = [f"{RECORDS}/{begin}*.json" for begin in (CLAIM, PROPOSAL)]
    found = [_read(path, True) for name in names for path in sorted(directory.glob(name)) if _is_claim(path)]
    base = published_text(directory, "base_sha256")
    claims = [one for one in found if one.result is None or one.result.weights_sha256 != base]
    if not claims:
        raise RequestError(f"{found_model.name} publishes no result of an evaluation")
    return Claims(found_model, claims, directory=directory)


MOST_ORDERED = 4
"""The most results for which every order is tried if the order of a card's columns is not known."""


def shown_results(directory: Path) -> tuple[list[UnionResult], list[list[UnionResult]]]:
    """The sound results that the card of a published directory shows: of what the model was made from, and its own.

    Its own come in the order of the card's columns, which the record of the push has. Earlier versions did not write
    it, so that several orders may be meant; there is at least one.
    """
    record = _published_record(directory)
    names = record.get(RESULTS)
    named = {path.stem: _read(path, True).result for path in sorted((directory / RECORDS).glob(f"{CLAIM}*.json"))}
    sound = {name: one for name, one in named.items() if one is not None}
    before = [one for one in sound.values() if one.weights_sha256 == record.get("base_sha256")]
    own = {name: one for name, one in sound.items() if one not in before}
    known = [own[name] for name in names if name in own] if isinstance(names, list) else []
    if known:
        return before, [known]
    return before, [list(one) for one in permutations(own.values())] if len(own) <= MOST_ORDERED else [[*own.values()]]


def published_text(directory: Path, key: str) -> str | None:
    """A text that the published record of the run has under ``key``; None if it has none."""
    found = _published_record(directory).get(key)
    return found if isinstance(found, str) else None


def _published_record(directory: Path) -> dict[str, Any]:
    path = directory / RECORDS / "run.json"
    content = read_json(path) if is_file(path) else {}
    return content if isinstance(content, dict) else {}


def _read(path: Path, published: bool) -> Claim:
    try:
        result = results.read(path)
    except RequestError as error:
        return Claim(path, None, str(error), published)
    if published and not path.stem.endswith(f"-{git_sha1(path.read_bytes())[:8]}"):
        return Claim(path, None, f"{path} was changed after it was published: its name ends in another hash", published)
    return Claim(path, result, published=published)


def _is_claim(path: Path) -> bool:
    """Whether a file says that it is a result of a union evaluation."""
    try:
        content = read_json(path)
    except RequestError:
        return True  # it is damaged, which is to be told
    return not isinstance(content, dict) or content.get("schema") == "robustctl.eval/1"


def joined(claim: Claim, claims: Sequence[Claim]) -> "Witnesses | None":
    """The witnesses of a claim together with what the other claims beside it show; None if it has none of its own."""
    from robustctl.evaluation.witnesses import Joined, PublishedWitnesses

    own = claim.witnesses()
    if not isinstance(own, PublishedWitnesses):
        return own
    others = [one.witnesses() for one in claims if one.path != claim.path]
    return Joined(
        own, [one for one in others if isinstance(one, PublishedWitnesses) and one.origin.same_as(own.origin)]
    )

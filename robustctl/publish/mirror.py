"""A published model, ready to be pushed to a hub repo with a card that credits its authors."""

from pathlib import Path

from robustctl.errors import RequestError
from robustctl.hub.plain_directory import sha256
from robustctl.models.entry import Accuracy, Entry
from robustctl.models.fetch import fetch_entry
from robustctl.models.find import find_model
from robustctl.models.shelf import read_record
from robustctl.publish.card import Story, in_table, plain
from robustctl.publish.push import Package, Target, check_licence, place_of
from robustctl.publish.redact import HUB_DATASETS


def package(name: str, target: Target, licence: str | None) -> Package:
    """Fetch an entry's weights and make what is pushed of them.

    Raises:
        RequestError: ``name`` is no entry, or its licence is not known and not given.
        RunError: its weights could not be fetched.
    """
    found_model = find_model(name)
    if found_model.entry is None:
        raise RequestError(f"model {name!r} is no entry of the registry; push a run with robustctl push")
    chosen = check_licence(licence or found_model.licence, name)
    entry = found_model.entry
    fetch_entry(name, entry)
    digest = sha256(found_model.weights)
    provenance = {"SHA-256 of model.safetensors": digest}
    if record := read_record(name):
        provenance |= {"published file": record.source, "SHA-256 of the published file": record.source_sha256}
    if entry.zero_shot:
        names = ", ".join(entry.zero_shot.classes) or f"the classes of {entry.zero_shot.names_of}"
        texts = f"{', '.join(map(repr, entry.zero_shot.prompts))} for {names}"
        provenance["head"] = f"zero-shot, {texts}; tokens by {entry.zero_shot.tokenizer}"
    credit = (
        f"{plain(entry.description)}. Converted by robustctl from what its authors published; all credit is theirs."
    )
    story = Story(
        place_of(target),
        found_model.spec,
        chosen,
        [],
        _published(entry),
        base_repo=next((source.repo for source in entry.sources if source.repo), None),
        provenance=provenance,
        credit=credit,
        datasets=tuple(filter(None, [HUB_DATASETS.get(entry.dataset)])),
        citation=entry.citation,
    )
    config = found_model.spec.model_dump_json(by_alias=True, indent=2) + "\n"
    files: dict[str, bytes | Path] = {"model.safetensors": found_model.weights, "config.json": config.encode()}
    return Package(story, files, {found_model.weights: digest})


def _published(entry: Entry) -> str:
    """The published accuracies as a Markdown table."""
    if not entry.accuracies:
        return ""
    lines = ["| published accuracy in % | value | n | protocol | source |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(_row(one) for one in entry.accuracies)])


def _row(one: Accuracy) -> str:
    what = f"{one.norm}:{one.eps}" if one.norm else "clean"
    cells = (what, f"{100 * one.value:.2f}", one.n or "?", one.protocol, one.source)
    return f"| {' | '.join(map(in_table, cells))} |"

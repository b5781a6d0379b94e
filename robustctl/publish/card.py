"""Model cards by the hub's conventions: made from a package, merged into what the user has written. No torch here."""

import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from robustctl.errors import RequestError
from robustctl.publish import figures
from robustctl.publish.figures import FRONT
from robustctl.publish.redact import LOCAL
from robustctl.reading import parse_yaml
from robustctl.report.table import before_and_after, markdown
from robustctl.results.union import UnionResult
from robustctl.spec import ModelSpec
from robustctl.version import __version__

FENCE = "---"
YAML_BEGIN, YAML_END = "# robustctl: begin", "# robustctl: end"
RESULTS_HEAD, USE_HEAD = "## Results", "## Use"
TEXT_BEGIN, TEXT_END = "<!-- robustctl: begin -->", "<!-- robustctl: end -->"
CARD_SHA256 = "card_sha256"
"""The key of our section's hash in the published ``run.json``."""
RESULTS = "results"
"""The key of the names of the results there, in the order of the card's columns."""


@dataclass(frozen=True)
class Place:
    """Where the card will stand.

    Attributes:
        name: the repo's id, or the name of a directory.
        revision: the branch that it is on.
        pending: it is proposed in a pull request.
        directory: it is a plain directory.
    """

    name: str
    revision: str = "main"
    pending: bool = False
    directory: bool = False


@dataclass(frozen=True)
class PublishedCode:
    """Code of the publisher's own: the name of its file, what in it builds the model, its hash.

    ``path`` is its place in the repo; None if it was not published.
    """

    file: str
    name: str
    sha256: str
    path: str | None = None


@dataclass(frozen=True)
class Story:
    """The story that a card tells.

    Attributes:
        place: the repo or directory that the model is pushed to.
        spec: how it is built.
        licence: hub identifier.
        results: evaluations of these weights, the one of the claim last.
        table: the results as Markdown.
        base: what it was made from: a repo id, an entry's name, or None.
        base_repo: ``base`` as a repo of the hub, if it is one.
        provenance: label and value of what is known about its making.
        datasets: hub ids of its training data, if they are known.
        credit: a sentence on whose work this is.
        citation: BibTeX or text.
        code: which code of the publisher's own builds the model, if it is not one of robustctl's.
    """

    place: Place
    spec: ModelSpec
    licence: str
    results: list[UnionResult]
    table: str
    base: str | None = None
    base_repo: str | None = None
    provenance: dict[str, str] | None = None
    datasets: tuple[str, ...] = ()
    credit: str = ""
    citation: str | None = None
    code: "PublishedCode | None" = None


def render(story: Story, existing: str = "") -> str:
    """The card: our two marked sections, and every other byte of ``existing`` as it was.

    Keys of the front matter that the user has written stay the user's; ours of the same name are left out.
    """
    user_yaml, user_text = _split(existing)
    ours = {key: value for key, value in metadata(story).items() if key not in _keys(user_yaml)}
    newline = "\r\n" if existing.partition("\n")[0].endswith("\r") and "\n" in existing else "\n"
    block = [YAML_BEGIN, *yaml.safe_dump(ours, sort_keys=False, allow_unicode=True).splitlines(), YAML_END]
    front = f"{FENCE}{newline}{newline.join(block)}{newline}{user_yaml}{FENCE}{newline}"
    section = newline.join([TEXT_BEGIN, *_body(story), TEXT_END])
    before, marker, after = user_text.partition("\0")
    if not marker:
        gap = newline if before and not before.endswith("\n") else ""
        before, after = f"{before}{gap}", newline
    return f"{front}{before}{section}{after}"


def section_sha256(story: Story) -> str:
    """Hash of our section of the text, which depends on the story alone."""
    return _lines_sha256(_body(story))


def section_sha256_in(existing: str) -> str | None:
    """The same of the section that a card holds; None if it holds none."""
    found = re.search(rf"{TEXT_BEGIN}(.*?){TEXT_END}", existing, flags=re.DOTALL)
    return _lines_sha256(found[1].strip("\r\n").splitlines()) if found else None


def _lines_sha256(lines: list[str]) -> str:
    """Hash of a text, whichever characters end its lines."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def metadata(story: Story) -> dict[str, Any]:
    """The front matter: what the hub reads, in the form that the hub's own library gives it."""
    from robustctl.hub.client import ModelCardData

    spec = story.spec
    norms = sorted({norm for result in story.results for norm in result.norms} or ({spec.norm} if spec.norm else set()))
    data = ModelCardData(
        license=story.licence,
        library_name="robustctl",
        pipeline_tag="image-classification",
        tags=["adversarial-robustness", "robustctl", spec.architecture.name, *norms],
        datasets=list(story.datasets) or None,
        base_model=story.base_repo,
        base_model_relation="finetune" if story.base_repo and story.base else None,
        metrics=["accuracy"] if story.results else None,
        model_name=story.place.name.rpartition("/")[2],
        eval_results=[one for result in story.results[-1:] for one in figures.entries(result)] or None,
    )
    content: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    content.pop("model_name", None)  # the library leaves it among the keys of a model without results
    return content


def _body(story: Story) -> list[str]:
    spec = story.spec
    made = f"fine-tuned from {plain(story.base)}" if story.base else "trained from scratch"
    lines = [f"# {plain(story.place.name.rpartition('/')[2])}", ""]
    what = f"A {plain(spec.dataset)} classifier ({plain(spec.architecture.name)}), {made} with robustctl {__version__}."
    lines += [
        story.credit or what,
        "",
        RESULTS_HEAD,
        "",
        *(_escaped(story.table) if story.table else ["Not evaluated."]),
        "",
        *_flags(story.results),
        *(_check(story) if story.results else []),
        USE_HEAD,
        "",
        *_code(story.code),
        *_use(story.place, spec, story.code),
        "## Provenance",
        "",
        *(f"- {label}: {plain(value)}" for label, value in (story.provenance or {}).items()),
        "",
        "## What the numbers claim",
        "",
        "Robust accuracy is measured against the attacks named above, on the points named above, and is an upper bound",
        "on the true robust accuracy: a stronger attack can only lower it. The intervals are the sampling error of the",
        "points, not of training. Other data, other radii and other threats were not tested.",
    ]
    if story.citation:
        lines += ["", "## Citation", "", *(f"    {line}" for line in story.citation.strip().splitlines())]
    return [
        line.replace("robustctl: begin", "robustctl:begin").replace("robustctl: end", "robustctl:end") for line in lines
    ]


def _escaped(table: str) -> list[str]:
    return html.escape(table, quote=False).splitlines()


def strange_lines(existing: str, before: Sequence[UnionResult], results: Sequence[UnionResult]) -> list[str]:
    """Figures and flags that our section of a card has and its results do not, and the ones that it lacks.

    Args:
        before, results: evaluations of the model that it was made from and of itself, in the order of the columns.
    """
    found = re.search(rf"{TEXT_BEGIN}(.*?){TEXT_END}", existing, flags=re.DOTALL)
    section = found[1].splitlines() if found else []
    first = section.index(RESULTS_HEAD) if RESULTS_HEAD in section else 0
    last = section.index(USE_HEAD, first) if USE_HEAD in section[first:] else len(section)
    tables = [line for line in section if line.startswith("|")]
    shown = tables + [line for line in section[first:last] if not line.startswith(("    ", "|"))]
    wanted = [*_escaped(markdown(before_and_after(before, results))), *_flags(results), *_claimed(results[-1])]
    here, there = ({_words(line): line for line in lines if re.search(r"\d|^- ", line)} for lines in (shown, wanted))
    faults = [f"the card says {here[one]!r}, which does not follow from its results" for one in here.keys() - there]
    return faults + [f"the card lacks {there[one]!r}, which its results say" for one in there.keys() - here]


def _words(line: str) -> tuple[tuple[str, ...], ...]:
    """The words of each cell of a line in one order: a published file does not keep the order of norms and versions."""
    return tuple(tuple(sorted(re.split(r"[,\s]+", cell.strip()))) for cell in line.split("|"))


def _check(story: Story) -> list[str]:
    """How the figures were made, and the commands that check them and that make them again."""
    name = _name(story.place)
    result = story.results[-1]
    by = f" --model-code {story.code.file}:{story.code.name}" if story.code else ""
    at = " --data FOLDER" if result.data.source.startswith(LOCAL) else ""
    return [
        "## Check the numbers",
        "",
        f"    robustctl verify {name}{at}{by}",
        f"    robustctl eval {name} --like published{at}{by}",
        "",
        "The first recomputes every figure from the adversarial images in this repo, without the attack, and attacks a",
        "sample of the points that are said to survive. The second attacks all points again, with the same settings.",
        "",
        *_claimed(result),
        "",
    ]


def _claimed(result: UnionResult) -> list[str]:
    """The claim and how it was made, in lines."""
    threats = ", ".join(result.threats)
    lines = [
        f"- claimed: accuracies of at most these, against {threats}, with 95 % intervals of the sampling error",
        f"- protocol: {plain(result.attack.name)} ({plain(result.attack.protocol)}), seed {result.attack.seed}, "
        f"attacks in {plain(result.attack.precision)}, verdicts in float32",
        f"- points: {result.data.n} of {plain(result.data.text)}{_at(result)}, images and labels with SHA-256 "
        f"`{plain(result.data.content_sha256 or 'unknown')}`",
        f"- versions: {', '.join(f'{plain(one)} {plain(version)}' for one, version in result.versions.items())}",
    ]
    for norm, opinion in (result.second_opinion or {}).items():
        names = ", ".join(map(plain, opinion.by))
        lines.append(f"- second opinion, {norm}: {opinion.fell} of {opinion.sample} sampled survivors fell to {names}")
    return lines


def _at(result: UnionResult) -> str:
    """The commit of the hub's data set."""
    return f" at revision `{result.data.revision}`" if result.data.revision else ""


def _code(code: PublishedCode | None) -> list[str]:
    """A notice that the model needs code which robustctl does not have."""
    if code is None:
        return []
    where = f"It lies in this repo as `{code.path}`." if code.path else "It is not in this repo; ask its author for it."
    return [
        f"**This model is built by code of its own**: {plain(code.name)} in {plain(code.file)}",
        f"(SHA-256 `{code.sha256}`).",
        f"{where} robustctl never runs it by itself: read it first, then name your copy of it:",
        f"`robustctl eval MODEL --model-code {code.file}:{code.name}`.",
        "",
    ]


def _name(place: Place) -> str:
    """The name of the model in a command."""
    if place.directory:
        return "."
    return f"{place.name}@{place.revision}" if place.revision != "main" else place.name


def _use(place: Place, spec: ModelSpec, code: PublishedCode | None) -> list[str]:
    """The lines that load it, as they stand."""
    name = _name(place)
    arguments = f'"{place.name}", revision="{place.revision}"' if place.revision != "main" else f'"{name}"'
    by = f', model_code="{code.file}:{code.name}"' if code else ""
    note = []
    if place.pending:
        note = ["Once the pull request that brings this card is merged:", ""]
    if place.directory:
        note = [
            "In this directory; from elsewhere with its path, or `file://` and its path to check the hashes too:",
            "",
        ]
    mixin = [
        "Normalisation is inside the model. The same weights through the hub's own mixin:",
        f"`robustctl.models.mixin.RobustClassifier.from_pretrained({arguments})`.",
        "",
    ]
    return [
        *note,
        "    import robustctl",
        f'    model = robustctl.load_model("{name}"{by})  # after: pip install robustctl',
        f"    logits = model(images)  # (n, {', '.join(map(str, spec.input_shape))}), pixels in [0, 1]",
        "",
        *([] if code else mixin),
    ]


def _flags(results: Sequence[UnionResult]) -> list[str]:
    flags = [flag for result in results for flag in result.flags]
    if not flags:
        return []
    warning = "**Warning: the evaluation raised flags; the robust accuracies above may be too high.**"
    return [warning, "", *(f"- {plain(flag)}" for flag in flags), ""]


def plain(value: object) -> str:
    """Text that neither Markdown nor HTML reads as markup, in one line."""
    return in_table(html.escape(str(value), quote=False))


def in_table(value: object) -> str:
    """Text that Markdown does not read as markup, in one line; ``render`` itself escapes the HTML of a table."""
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", " ".join(str(value).split()))


def _split(existing: str) -> tuple[str, str]:
    """The user's part of the front matter, and the user's text with a NUL in the place of our section."""
    front, text = "", existing
    found = FRONT.match(existing)
    if found:
        front, text = found[1], existing[found.end() :]
    front = re.sub(rf"^{YAML_BEGIN}\r?\n.*?^{YAML_END}\r?\n", "", front, flags=re.DOTALL | re.MULTILINE)
    text = text.replace("\0", "")
    return front, re.sub(f"{TEXT_BEGIN}.*?{TEXT_END}", "\0", text, count=1, flags=re.DOTALL)


def _keys(front: str) -> set[str]:
    """Keys that the user's front matter sets itself."""
    try:
        content = parse_yaml(front, "the front matter")
    except RequestError:
        return set(re.findall(r"^([\w-]+):", front, re.MULTILINE))
    return set(content) if isinstance(content, dict) else set()

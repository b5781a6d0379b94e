"""The figures that a card claims: as its front matter has them, and as it is read again. No torch here."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustctl.errors import RequestError
from robustctl.publish.redact import HUB_DATASETS, LOCAL
from robustctl.reading import parse_yaml
from robustctl.results.union import UnionResult

if TYPE_CHECKING:
    from robustctl.hub.client import EvalResult

FRONT = re.compile(r"---[ \t]*\r?\n(.*?)^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
"""The front matter of a card."""


@dataclass(frozen=True)
class Figure:
    """A figure of the front matter: its name and value, its interval, and which threats it is about."""

    name: str
    acc: float
    ci95: tuple[float, float]
    about: dict[str, str]

    @property
    def value(self) -> float:
        """The accuracy as the card has it."""
        return round(self.acc, 6)


def figures(result: UnionResult) -> list[Figure]:
    """The claims of the front matter.

    A norm that was not attacked on every point (``upper_bound``) has no accuracy here, and nor has the average then:
    the table marks bounds, this form cannot.
    """
    found = [Figure("clean accuracy", result.clean.acc, result.clean.ci95, {})]
    found += [
        Figure(f"robust accuracy, {norm}, eps {one.eps_text}", one.acc, one.ci95, {"norm": norm, "eps": one.eps_text})
        for norm, one in result.norms.items()
        if not one.upper_bound
    ]
    threats = {"threats": " ".join(result.threats)}
    if not any(one.upper_bound for one in result.norms.values()):
        found.append(Figure("average robust accuracy", result.average, result.average_ci95, threats))
    return [*found, Figure("union robust accuracy", result.union.acc, result.union.ci95, threats)]


def entries(result: UnionResult) -> "list[EvalResult]":
    """The figures as ``model-index`` has them, each with its norm and eps as arguments.

    The hub merges figures that differ elsewhere only.

    The hub shows a number on the page of the data set that it names, so that ``result`` is one as it is published: its
    source is a hub id only if the images came from there.
    """
    from robustctl.hub.client import EvalResult

    source = result.data.source
    args = {"n": result.data.n, "attack": result.attack.name, "protocol": result.attack.protocol}
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image Classification",
            dataset_type=_dataset_type(source),
            dataset_name=next((known for known, hub_id in HUB_DATASETS.items() if hub_id == source), source),
            dataset_split=result.data.split,
            dataset_revision=result.data.revision,
            metric_type="accuracy",
            metric_name=one.name,
            metric_value=one.value,
            metric_args={**one.about, **args, "ci95": [round(bound, 6) for bound in one.ci95]},
        )
        for one in figures(result)
    ]


def _dataset_type(source: str) -> str:
    """The source of a published result; ``local-data`` has no page on the hub."""
    return LOCAL.replace(" ", "-") if source.startswith(LOCAL) else source


@dataclass(frozen=True)
class ShownFigure:
    """A figure as a card has it: its name, its value, and what it is said to be about."""

    name: object
    value: object
    about: dict[str, object]


def figures_in(existing: str) -> list[ShownFigure]:
    """Every figure in the front matter of a card.

    Raises:
        RequestError: it is no YAML, or its ``model-index`` has another form.
    """
    found = FRONT.match(existing)
    content = parse_yaml(found[1], "the front matter of the card") if found else {}
    try:
        return [
            ShownFigure(metric["name"], metric["value"], {**metric.get("args", {}), **_of_data(result["dataset"])})
            for model in content.get("model-index") or []
            for result in model["results"]
            for metric in result["metrics"]
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise RequestError(f"the model-index of the card is not of the hub's form: {error!r}") from None


def _of_data(dataset: Mapping[str, object]) -> dict[str, object]:
    return {"dataset": dataset["type"], "split": dataset.get("split"), "revision": dataset.get("revision")}


def contradictions(shown: Sequence[ShownFigure], results: Sequence[UnionResult]) -> list[str]:
    """The figures of a front matter that no one result has all of, with radii, points, protocol and data."""
    if not shown or not results:
        return []
    differing = [_differing(shown, result) for result in results]
    return min(differing, key=len)


def _differing(shown: Sequence[ShownFigure], result: UnionResult) -> list[str]:
    known = {one.metric_name: one for one in entries(result)}
    found = []
    for figure in shown:
        there = known.get(str(figure.name))
        if there is None or there.metric_value != figure.value:
            value = there.metric_value if there else "nothing about it"
            found.append(f"the card says that the {figure.name} is {figure.value}; the result says {value}")
            continue
        about = {**(there.metric_args or {}), "dataset": there.dataset_type, "split": there.dataset_split}
        about["revision"] = there.dataset_revision
        found += [
            f"the card says {name} {said} of the {figure.name}; the result says {about[name]}"
            for name, said in figure.about.items()
            if name in about and not _same(about[name], said)
        ]
    missing = [name for name in known if name not in [figure.name for figure in shown]]
    return found + [f"the card lacks the {name} that the result has" for name in missing]


def _same(here: object, said: object) -> bool:
    """Whether two values are the same; threats may stand in any order."""
    if isinstance(here, str) and isinstance(said, str):
        return sorted(here.split()) == sorted(said.split())
    return here == said

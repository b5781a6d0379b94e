"""Everything in a result file that a reader believes is compared with the rest of the file when it is read."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samples import result

from robustctl.errors import RequestError
from robustctl.results.agreement import contradictions
from robustctl.results.curve import CurveResult, area_of, median_of
from robustctl.results.curve import read as read_curve
from robustctl.results.result_file import DataInfo, Mean, index_sha256
from robustctl.results.rounds import Missed, RoundInfo, SecondOpinion
from robustctl.results.statistics import most_missed
from robustctl.results.union import ExternalFigures, ExternalInfo, UnionResult, summarize
from robustctl.results.union import read as read_union
from robustctl.threats import Threat

FREE = {
    "model", "weights_sha256", "data.source", "data.split", "data.content_sha256", "attack.name", "attack.protocol",
    "attack.seed", "attack.precision", "attack.fast_copy", "attack.channels_last",
    "attack.batch_size", "attack.seconds_per_image", "attack.draws", "attack.passes", "points.label", "seconds",
    "device", "versions.torch", "versions.robustctl", "float_ties", "standard_evaluations", "rounds.name",
    "rounds.decision", "rounds.met", "rounds.evaluations", "second_opinion.evaluations", "missed.evaluations",
    "external.name",
    "external.sha256", "single_pass.mean", "single_pass.ci95", "norms.evaluations", "flags", "seed",
    "external.norms.met", "external.norms.broken", "missed.drawn", "norms.decision", "norms.by.fmn",
}  # fmt: skip
"""Facts that nothing else in the file repeats; hashes are compared with the model and the images where those are."""


def round_(norm: str, name: str, left: int, broken: int) -> RoundInfo:
    return RoundInfo.model_validate(
        {"norm": norm, "name": name, "left": left, "met": left, "broken": broken, "evaluations": 9, "decision": "made"}
    )


def whole() -> UnionResult:
    """A result with every part that there is: five of ten points are robust, one more with 8-bit pixels."""
    one = result("m", "0" * 64, 5)
    bits = {"linf": [1] * 6 + [0] * 4, "l1": [1] * 5 + [0] * 5}
    points = one.points.model_copy(update={"robust_8bit": bits})
    threats = [Threat.of("linf", "0.15"), Threat.of("l1", "1.8")]
    opinion = {"linf": SecondOpinion(sample=5, fell=2, by={"fab-t": 2, "fmn": 0}, evaluations=9)}
    steps = [
        ("linf", "first-1", 10, 1),
        ("linf", "diverse-1", 9, 2),
        ("linf", "apgd-1", 7, 0),
        ("l1", "first-1", 7, 2),
    ]
    most = most_missed(7, 5, 1, 0.025)
    parts = {
        "points": points,
        **summarize(points, threats, points.shares_8bit(), False),
        "attack": one.attack.model_copy(update={"passes": 21, "draws": 20}),
        "rounds": [round_(*step) for step in steps],
        "standard_evaluations": 1000,
        "second_opinion": opinion,
        "missed": {
            "linf": Missed(
                survivors=7, drawn=5, fell=1, missed=most, points=10.0 * most, confidence=0.95, evaluations=9
            )
        },
        "external": [
            ExternalInfo(
                name="mine",
                sha256="0123456789ab",
                norms={"linf": ExternalFigures(met=10, broken=3, beyond=1, own_robust=6)},
            )
        ],
        "earlier": {"fast": {"l1": 3}},
        "single_pass": {name: Mean(mean=0.5, ci95=(0.4, 0.6)) for name in ("clean", "linf", "l1")},
        "flags": ["second-opinion: in linf:0.15 2 of 5 sampled survivors fell to fab-t (2): the true figure is lower"],
    }
    return UnionResult.model_validate({**dict(one), **parts})


def curve() -> CurveResult:
    distance = [0.0, 0.1, 0.2, None]
    info = DataInfo(source="digits", split="test", n=4, index_sha256=index_sha256("test", range(4)))
    norm = {
        "eps": 0.2, "eps_text": "0.2", "bound": 0.6, "distance": distance, "median": median_of(distance),
        "area": area_of(distance, 0.6), "by": {"fmn": 2}, "evaluations": 9.0, "decision": [0.0, 0.11, None, None],
    }  # fmt: skip
    return CurveResult.model_validate(
        {
            "model": "m", "weights_sha256": "0" * 64, "data": info, "seed": 0, "index": [0, 1, 2, 3],
            "norms": {"linf": norm}, "flags": [], "seconds": 1.0, "device": "cpu", "versions": {},
        }
    )  # fmt: skip


def leaves(content: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(content, dict | list):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in pairs:
            yield from leaves(value, (*path, key))
    else:
        yield path


def edits(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    return [value * 1.1 + 0.01, value * 0.9 - 0.001] if isinstance(value, float) else [f"{value}x"]


def name_of(path: tuple[str | int, ...]) -> str:
    """The path without positions and norms."""
    kept = [str(one) for one in path if isinstance(one, str) and one not in ("linf", "l1", "clean")]
    return ".".join(kept) or str(path)


@pytest.mark.parametrize(("made", "read"), [(whole, read_union), (curve, read_curve)])
def test_no_figure_is_believed_that_was_edited(made: Any, read: Any, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    made().write(file)
    assert read(file) == made()
    content = json.loads(file.read_text())
    believed = set()
    for path in leaves(content):
        for value in edits(_at(content, path)):
            edited = copy.deepcopy(content)
            _at(edited, path[:-1])[path[-1]] = value
            file.write_text(json.dumps(edited))
            try:
                read(file)
                believed.add(name_of(path))
            except RequestError:
                continue
    assert believed <= FREE, sorted(believed - FREE)


def _at(content: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


def rounds(norm: str, first: int, diverse: int) -> list[RoundInfo]:
    return [round_(norm, "first-1", 10, first), round_(norm, "diverse-1", 10 - first, diverse)]


def test_flags_that_the_content_calls_for_must_be_there() -> None:
    one = result("m", "1", 3)
    masked = one.model_copy(update={"rounds": rounds("l1", 1, 6), "standard_evaluations": 9})
    (told,) = contradictions(masked)
    assert "flag 'masking: in l1:1.8 diverse starts broke 6" in told and told.endswith("is missing")
    fell = {"linf": SecondOpinion(sample=3, fell=1, by={"fmn": 1}, evaluations=9)}
    assert "'second-opinion: in linf:0.15 1 of 3" in next(
        contradictions(one.model_copy(update={"second_opinion": fell}))
    )
    weak = one.model_copy(update={"attack": one.attack.model_copy(update={"name": "fast", "union_only": True})})
    assert len(list(contradictions(weak))) == 2


@pytest.mark.parametrize(("sample", "fell", "by"), [(6, 0, 0), (4, 0, 0), (5, 6, 6), (5, 1, 0)])
def test_a_second_opinion_adds_up(sample: int, fell: int, by: int) -> None:
    said = {"linf": SecondOpinion(sample=sample, fell=fell, by={"fmn": by}, evaluations=9)}
    found = contradictions(result("m", "1", 5).model_copy(update={"second_opinion": said}))
    assert any("does not add up" in one for one in found)


@pytest.mark.parametrize("steps", [[(10, 4), (7, 2)], [(10, 4), (6, 2)], [(10, 4), (6, 0)], [(11, 6)]])
def test_rounds_begin_with_what_is_left_and_end_with_the_survivors(steps: list[tuple[int, int]]) -> None:
    infos = [round_("l1", f"first-{i}", *step) for i, step in enumerate(steps)]
    found = result("m", "1", 5).model_copy(update={"rounds": infos, "standard_evaluations": 9})
    assert list(contradictions(found))
    sound = found.model_copy(update={"rounds": [round_("l1", "first-0", 10, 4), round_("l1", "first-1", 6, 1)]})
    assert not list(contradictions(sound))


def test_a_point_at_the_radius_is_broken_up_to_the_referees_rounding() -> None:
    one = curve().norms["linf"].model_copy(update={"distance": [0.2, 0.2 * (1 + 1e-6), 0.2 * (1 + 2e-6), None]})
    assert one.robust(0.2) == [0, 0, 1, 1]


def test_a_curve_takes_over_the_verdicts_of_its_own_model_and_images_alone() -> None:
    def fixed(weights: str, content: str | None) -> Any:
        points = SimpleNamespace(index=[0, 1, 2, 3], robust={"linf": [0, 1, 0, 0]})
        norms = {"linf": SimpleNamespace(eps=0.15)}
        data = SimpleNamespace(content_sha256=content)
        return SimpleNamespace(weights_sha256=weights, data=data, points=points, norms=norms)

    assert curve().with_verdicts(fixed("0" * 64, None)).norms["linf"].distance == [0.0, 0.1, 0.15, 0.15]
    for other in (fixed("1" * 64, None), fixed("0" * 64, "2" * 64)):
        assert curve().with_verdicts(other) == curve()

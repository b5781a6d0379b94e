"""The adaptive protocol: which points meet which attack follows from the verdicts alone, however they came about."""

import dataclasses
import random

import pytest
import torch

from robustctl.evaluation import second_opinion
from robustctl.evaluation.adaptive import Step, play
from robustctl.evaluation.attack_flags import kind_of
from robustctl.evaluation.protocols import ROUNDS
from robustctl.evaluation.store import Store, Verdict
from robustctl.evaluation.union import evaluate_union
from robustctl.evaluation.union_request import UnionRequest
from robustctl.results.rounds import RoundInfo, masking_flags
from robustctl.threats import NORMS, Threat

CPU = torch.device("cpu")
THREATS = tuple(map(Threat.parse, ("linf:0.04", "l2:0.1", "l1:0.3")))
ADAPTIVE = UnionRequest(THREATS, "adaptive", seed=0, batch_size=50)
POINTS = range(100)
MARGINS = {position: -1.0 - position for position in POINTS}


def evaluate(model, spec, data, request, path):
    return evaluate_union(model, spec, data, request, name="m", device=CPU, store_path=path)


def played(breaks, protocol="adaptive", threats=THREATS[:1], union_only=False):
    """Steps of a made-up evaluation: a point's margin is its clean one, and ``breaks`` says what a step breaks."""
    steps: list[Step] = []

    def take(step: Step) -> dict[int, Verdict]:
        steps.append(step)
        broken = set(breaks(step))
        return {position: Verdict(position in broken, MARGINS[position]) for position in step.positions}

    return play(protocol, threats, list(POINTS), MARGINS, union_only, take), steps


def test_if_nothing_breaks_each_round_is_taken_once_and_ranking_stops_at_the_first_strata():
    taken, _ = played(lambda step: [])
    assert [(one.step.family.name, len(one.step.positions)) for one in taken] == [
        ("first-1", 100), ("diverse-1", 100), ("few-targets-1", 8),
        ("apgd-ce-1", 2), ("apgd-t-1", 2), ("apgd-ce-2", 2), ("apgd-t-2", 2),
    ]  # fmt: skip
    closest = [one.step.positions for one in taken[2:]]
    assert closest == [list(range(8)), [0, 1], [0, 1], [2, 3], [2, 3]], "the closest come first"
    assert [number for number, one in enumerate(taken) if "ranking stops" in one.decision] == [2, 6]


def test_diverse_starts_go_on_while_one_breaks_more_than_a_twentieth_and_at_most_sixteen_times():
    def first_six(step):
        return step.positions[-6:] if step.family.name.startswith("diverse") else []

    taken, _ = played(first_six)
    diverse = [one for one in taken if one.step.family.name.startswith("diverse")]
    assert len(diverse) == 16
    assert [len(one.step.positions) for one in diverse] == [100 - 6 * number for number in range(16)]
    taken, _ = played(lambda step: step.positions[:5] if step.family.name.startswith("diverse") else [])
    assert sum(one.step.family.name.startswith("diverse") for one in taken) == 1


def test_strata_go_on_until_one_breaks_nothing():
    taken, _ = played(lambda step: [25] if step.family.name.startswith("few-targets") else [])
    strata = [one for one in taken if one.step.family.name.startswith("few-targets")]
    assert [one.step.positions for one in strata] == [list(range(0, 8))], "the first is quiet, so the third is not met"
    taken, _ = played(lambda step: [5, 15] if step.family.name.startswith("few-targets") else [])
    strata = [one for one in taken if one.step.family.name.startswith("few-targets")]
    assert [one.step.positions[0] for one in strata] == [0, 8, 16]
    assert [one.broken for one in strata] == [1, 1, 0]


def test_in_l1_a_stratum_meets_targets_and_a_margin_and_two_quiet_ones_end_the_round():
    taken, _ = played(lambda step: [10] if step.family.name == "few-margin-2" else [], threats=THREATS[2:])
    few = [(one.step.family.name, one.step.positions[0]) for one in taken if one.step.family.name.startswith("few")]
    names = ("few-targets", "few-margin")
    assert few == [(f"{name}-{number + 1}", 8 * number) for number in range(4) for name in names]
    third = next(one for one in taken if one.step.family.name == "few-targets-3")
    assert "ranking stops" not in third.decision, "the second stratum broke a point, with its last loss"


def test_short_starts_of_l1_meet_the_closest_third_and_go_on_only_while_it_breaks():
    taken, _ = played(lambda step: [20] if step.family.name == "short-2-1" else [], threats=THREATS[2:])
    short = [one.step for one in taken if one.step.family.name.startswith("short")]
    assert [step.family.name for step in short] == [
        "short-1-1", "short-2-1", "short-2-2", "short-3-1", "short-4-1", "short-5-1", "short-6-1",
    ]  # fmt: skip
    assert [len(step.positions) for step in short] == [34, 34, 34, 34, 34, 34, 34]
    assert short[0].positions == list(range(34)) and short[2].positions == list(range(34, 68))
    losses = [step.family.loss for step in short if step.family.name.endswith("-1")]
    assert losses == ["ce", "probability_margin"] * 3


@pytest.mark.parametrize(("first", "starts"), [(20, 1), (21, 2)])
def test_only_where_the_first_diverse_start_of_l1_breaks_a_fifth_others_follow(first, starts):
    def breaks(step):
        return step.positions[:first] if step.family.name == "diverse-1" else []

    taken, _ = played(breaks, threats=THREATS[2:])
    assert sum(one.step.family.name.startswith("diverse") for one in taken) == starts


def test_later_diverse_starts_of_l1_go_on_while_one_breaks_more_than_a_fiftieth():
    def breaks(step):
        number = int(step.family.name.rpartition("-")[2]) if step.family.name.startswith("diverse") else 0
        return step.positions[: {1: 50, 2: 2, 3: 1}.get(number, 0)]  # of 100, 50 and 48

    taken, _ = played(breaks, threats=THREATS[2:])
    assert [one.broken for one in taken if one.step.family.name.startswith("diverse")] == [50, 2, 1, 0]


def test_points_within_rounding_of_the_boundary_meet_the_complete_standard_budget_in_float32(monkeypatch):
    for position in range(7):
        monkeypatch.setitem(MARGINS, position, -1e-4)
    steps: list[Step] = []

    def take(step):
        steps.append(step)
        return {position: Verdict(False, MARGINS[position]) for position in step.positions}

    play("adaptive", THREATS[:1], list(POINTS), dict.fromkeys(POINTS, -1.0), False, take)
    closest = [step for step in steps if step.exact]
    assert [(step.family.name, step.positions) for step in closest] == [
        ("apgd-ce-1", list(range(7))),
        ("apgd-t-1", list(range(7))),
        ("apgd-ce-4", [7]),
        ("apgd-t-4", [7]),
    ], "the points that joined the first stratum meet no other"
    assert [str(step.family) for step in closest[:2]] == ["apgd-ce-1 1x100", "apgd-t-1 9 targets 1x100"]


def test_union_only_asks_no_norm_about_a_point_that_another_has_broken_and_begins_with_the_cheap_rounds():
    broken: set[int] = set()

    def breaks(step):
        assert not broken & set(step.positions)
        new = step.positions[:10] if step.family.name.startswith("first") else []
        broken.update(new)
        return new

    _, steps = played(breaks, threats=THREATS, union_only=True)
    assert [step.family.name for step in steps[:6]] == ["first-1"] * 3 + ["diverse-1"] * 3
    assert len(steps[3].positions) == 70


def test_the_plus_protocol_adds_fab_and_square_down_the_ranking():
    taken, _ = played(lambda step: [], protocol="adaptive+")
    assert [one.step.family.attack for one in taken[-2:]] == ["fab", "square"]
    assert [len(one.step.positions) for one in taken[-2:]] == [8, 8]


@pytest.fixture
def result(linear, linear_spec, linear_data, tmp_path):
    return evaluate(linear, linear_spec, linear_data, ADAPTIVE, tmp_path / "a.sqlite")


def told(result):
    """Verdicts and decisions, without what was spent: an interruption spends more."""
    return result.points, [info.model_copy(update={"evaluations": 0}) for info in result.rounds]


def test_of_a_linear_classifier_no_point_is_left_that_standard_breaks_at_a_quarter_of_its_budget(
    result, linear, linear_spec, linear_data, tmp_path
):
    standard = dataclasses.replace(ADAPTIVE, protocol="standard")
    expected = evaluate(linear, linear_spec, linear_data, standard, tmp_path / "s.sqlite")
    for norm, robust in result.points.robust.items():
        assert all(ours <= theirs for ours, theirs in zip(robust, expected.points.robust[norm], strict=True))
    assert 0 < result.union.n_correct < result.clean.n_correct
    assert 0 < sum(info.evaluations for info in result.rounds) < result.standard_evaluations / 4


def test_verdicts_and_decisions_depend_neither_on_the_batch_nor_on_the_order_of_points(
    linear, linear_spec, linear_data, tmp_path, monkeypatch
):
    shorten(monkeypatch)
    result = evaluate(linear, linear_spec, linear_data, ADAPTIVE, tmp_path / "a.sqlite")
    small = dataclasses.replace(ADAPTIVE, batch_size=7)
    assert told(evaluate(linear, linear_spec, linear_data, small, tmp_path / "b.sqlite")) == told(result)
    turned = linear_data.select(list(reversed(range(40))))
    found = evaluate(linear, linear_spec, turned, ADAPTIVE, tmp_path / "t.sqlite")
    assert {norm: column[::-1] for norm, column in found.points.robust.items()} == result.points.robust
    assert told(found)[1] == told(result)[1]


def shorten(monkeypatch):
    """The rounds and the second opinion with a tenth of their steps: what a kill leaves does not depend on these."""
    for norm, rounds in ROUNDS["adaptive"].items():
        short = [
            dataclasses.replace(one, families=tuple(_shorter(family) for family in one.families), most=2)
            for one in rounds
        ]
        monkeypatch.setitem(ROUNDS["adaptive"], norm, tuple(short))
    monkeypatch.setattr(second_opinion, "FAMILIES", tuple(map(_shorter, second_opinion.FAMILIES)))


def _shorter(family):
    ladder = tuple((factor, 1) for factor, _ in family.ladder)
    steps = len(ladder) or max(family.steps // 10, 3)
    return dataclasses.replace(family, steps=steps, ladder=ladder, targets=min(family.targets, 2), restarts=1)


@pytest.mark.parametrize(
    ("union_only", "n", "kills"),
    [(False, 10, 2), (True, 10, 2), pytest.param(False, 40, 40, marks=pytest.mark.slow)],
)
def test_killed_at_any_commit_the_same_call_goes_on_to_the_same_table(
    linear, linear_spec, linear_data, tmp_path, monkeypatch, union_only, n, kills
):
    if kills < 40:
        shorten(monkeypatch)
    request, data = dataclasses.replace(ADAPTIVE, union_only=union_only, batch_size=13), linear_data.select(range(n))
    whole = evaluate(linear, linear_spec, data, request, tmp_path / "whole.sqlite")
    commit, commits = Store.add, 0

    def counted(store, *args, **more):
        nonlocal commits
        commits += 1
        return commit(store, *args, **more)

    monkeypatch.setattr(Store, "add", counted)
    evaluate(linear, linear_spec, data, request, tmp_path / "counted.sqlite")
    everything = commits
    for number in random.Random(0).sample(range(1, everything + 1), min(kills, everything)):
        path, commits = tmp_path / f"{number}.sqlite", 0

        def killed(store, *args, number=number, **more):
            nonlocal commits
            commits += 1
            if commits == number:
                raise KeyboardInterrupt
            return commit(store, *args, **more)

        monkeypatch.setattr(Store, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluate(linear, linear_spec, data, request, path)
        monkeypatch.setattr(Store, "add", commit)
        assert told(evaluate(linear, linear_spec, data, request, path)) == told(whole)


def test_every_step_is_said_and_recorded_with_its_decision(linear, linear_spec, linear_data, tmp_path, capsys):
    found = evaluate(linear, linear_spec, linear_data, ADAPTIVE, tmp_path / "a.sqlite")
    said = capsys.readouterr().err.splitlines()
    for info in found.rounds:
        line = next(line for line in said if f"{info.norm}:" in line and f" {info.name} " in line)
        assert f"met {info.met} of {info.left} left, broke {info.broken}" in line
    assert sum(info.broken for info in found.rounds if info.norm == "l2") == (
        found.clean.n_correct - found.norms["l2"].n_correct
    )
    assert any(f"at most {found.standard_evaluations:,}" in line for line in said)


def test_a_diverse_start_that_breaks_more_than_the_first_attack_is_a_sign_of_masking():
    def info(name: str, broken: int) -> RoundInfo:
        return RoundInfo(norm="linf", name=name, left=90, met=90, broken=broken, evaluations=1, decision="")

    flags = masking_flags([info("first-1", 10), info("diverse-1", 8), info("diverse-2", 3)], THREATS)
    assert flags[0].startswith("masking: in linf:0.04 diverse starts broke 11 points and the first gradient attack 10")
    assert len(flags) == 1
    assert not masking_flags([info("first-1", 10), info("diverse-1", 10)], THREATS)
    assert not masking_flags([info("first-1", 0), info("diverse-1", 4)], THREATS), "too few points"


@pytest.mark.parametrize("family", ["square", "square-3", "audit: square", "fab-t-12", "audit: fab-t"])
def test_a_family_of_another_kind_is_known_under_every_name(family):
    assert kind_of(family) in ("square", "fab-t")
    assert [kind_of(one) for one in ("apgd-t", "few-targets-2")] == ["apgd-t", "few-targets"]


def test_the_cheap_rounds_are_one_start_of_the_steps_that_were_measured() -> None:
    first = [str(ROUNDS["adaptive"][norm][0].families[0]) for norm in NORMS]
    assert first == ["first 1x10", "first 1x10", "first 1x12 larger radii"]
    diverse = {norm: ROUNDS["adaptive"][norm][1].families for norm in NORMS}
    assert [str(one) for one in diverse["linf"]] == ["diverse 1x20"] * 4
    for norm in ("l2", "l1"):
        assert len(diverse[norm]) > 2 and all(str(one).startswith("diverse 1x") for one in diverse[norm])

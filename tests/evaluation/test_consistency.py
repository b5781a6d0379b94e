"""Parts of a result that no figure follows from must fit together."""

import pytest
from samples import result

from robustctl.evaluation.consistency import contradictions
from robustctl.evaluation.protocols import PROTOCOLS
from robustctl.results.rounds import RoundInfo, SecondOpinion
from robustctl.results.union import UnionResult


def spelt(protocol: str) -> str:
    return "; ".join(f"{norm}: {', '.join(map(str, PROTOCOLS[protocol][norm]))}" for norm in ("linf", "l1"))


def made(name: str, text: str, *flags: str, **more: object) -> UnionResult:
    one = result("m", "1", 5, flags)
    attack = one.attack.model_copy(update={"name": name, "protocol": text})
    return one.model_copy(update={"attack": attack, **more})


@pytest.mark.parametrize("protocol", ["standard", "full"])
def test_a_protocol_is_what_it_is_spelt_out_to_be_whatever_follows(protocol: str) -> None:
    assert not contradictions(made(protocol, spelt(protocol)))
    assert not contradictions(made(protocol, f"{spelt(protocol)}; external mine 0123"))
    (told,) = contradictions(made(protocol, spelt("fast")))
    assert f"the protocol {protocol}" in told


def test_a_name_that_only_another_version_may_know_is_no_fault_of_that_version() -> None:
    assert contradictions(made("best", "linf: all", versions={"robustctl": "0.1.0"}))
    assert not contradictions(made("best", "linf: all", versions={"robustctl": "9.9"}))


def rounds(norm: str, first: int, diverse: int) -> list[RoundInfo]:
    counts = {"first-1": first, "diverse-1": diverse}
    parts = {"left": 100, "met": 100, "evaluations": 100, "decision": "made"}
    return [RoundInfo(norm=norm, name=name, broken=broken, **parts) for name, broken in counts.items()]  # type: ignore[arg-type]


def test_flags_that_the_content_calls_for_must_be_there() -> None:
    text = "linf: first [...]; l1: first [...]"
    masked = made("adaptive", text, rounds=rounds("l1", 1, 90))
    assert contradictions(masked) == ["the flag 'masking: in l1:1.8', which follows from its own content, is missing"]
    assert not contradictions(masked.model_copy(update={"flags": ["masking: in l1:1.8 diverse starts ..."]}))
    fell = {"linf": SecondOpinion(sample=5, fell=1, by={"fmn": 1}, evaluations=9)}
    opinion = made("standard", spelt("standard"), second_opinion=fell)
    assert "'second-opinion: in linf:0.15'" in contradictions(opinion)[0]
    assert not contradictions(opinion.model_copy(update={"flags": ["second-opinion: in linf:0.15 1 of 5 ..."]}))


@pytest.mark.parametrize(("sample", "fell", "by"), [(6, 0, 0), (5, 6, 6), (5, 1, 0)])
def test_a_second_opinion_adds_up(sample: int, fell: int, by: int) -> None:
    said = {"linf": SecondOpinion(sample=sample, fell=fell, by={"fmn": by}, evaluations=9)}
    found = contradictions(made("standard", spelt("standard"), "second-opinion: in linf:0.15 ", second_opinion=said))
    assert len(found) == 1 and "does not add up" in found[0]

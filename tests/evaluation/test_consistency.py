"""A protocol is what its name says."""

import pytest
from samples import result

from robustctl.evaluation.consistency import contradictions
from robustctl.evaluation.protocols import PROTOCOLS
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

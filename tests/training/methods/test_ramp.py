import pytest

from robustctl.threats import Norm, Threat
from robustctl.training.methods.ramp import Config, Method, key_pair


@pytest.mark.parametrize(
    ("own", "start", "pair"),
    [
        ({"linf": 0.48, "l2": 0.69, "l1": 0.60}, "linf", ("linf", "l1")),  # RAMP's standard radii
        ({"linf": 0.48, "l2": 0.69, "l1": 0.60}, "l1", ("l1", "linf")),
        ({"linf": 0.48, "l2": 0.69, "l1": 0.60}, "l2", ("linf", "l1")),  # Table 5: q is l_inf
        ({"linf": 0.80, "l2": 0.69, "l1": 0.60}, "linf", ("l2", "l1")),
        ({"linf": 0.48, "l2": 0.30, "l1": 0.60}, None, ("linf", "l2")),
    ],
)
def test_key_pair_is_the_two_weakest_norms_and_q_the_starts_own(
    own: dict[Norm, float], start: Norm | None, pair: tuple[Norm, Norm]
) -> None:
    assert key_pair(own, start) == pair


@pytest.mark.parametrize(
    ("start", "pair"),
    [("l1", ("l1", "linf")), ("linf", ("linf", "l1")), ("l2", ("linf", "l1")), (None, ("linf", "l1"))],  # RAMP Table 5
)
@pytest.mark.parametrize("given", [False, True])
def test_q_is_the_norm_of_the_start_unless_the_pair_is_given(
    start: Norm | None, pair: tuple[Norm, Norm], given: bool
) -> None:
    config = Config(name="ramp", pair=("linf", "l1") if given else "start", weight=0.5)
    method = Method(config, (Threat.of("linf", "8/255"), Threat.of("l1", "12")))
    found = method.prepare(lambda threat, steps: pytest.fail("nothing is measured"), start)
    assert method.pair == (("linf", "l1") if given else pair)
    assert found == ({} if given else {"pair": list(pair)}), "what was decided is recorded"


def test_pair_of_the_start_needs_two_norms() -> None:
    config = Config(name="ramp", pair="start", weight=0.5)
    assert config.faults(frozenset({"linf", "l1"})) == []
    assert "two norms" in config.faults(frozenset({"linf", "l2", "l1"}))[0]

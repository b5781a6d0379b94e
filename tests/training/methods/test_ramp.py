import pytest

from robustctl.threats import Norm
from robustctl.training.methods.ramp import key_pair


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

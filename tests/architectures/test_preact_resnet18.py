import pytest
import torch

from robustctl.architectures.preact_resnet18 import build
from robustctl.errors import RequestError

X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("bn_before_fc", "parameters"), [(True, 11_172_170), (False, 11_171_146)])
def test_number_of_parameters(bn_before_fc: bool, parameters: int) -> None:
    with torch.device("meta"):
        net = build(10, (3, 32, 32), bn_before_fc=bn_before_fc)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert ("bn.weight" in net.state_dict()) == bn_before_fc


def _logits(**variant: object) -> torch.Tensor:
    torch.manual_seed(0)
    with torch.no_grad():
        logits: torch.Tensor = build(10, (3, 32, 32), **variant).eval()(X)
    return logits


def test_each_variant_computes_something_else_from_the_same_weights() -> None:
    variants = [_logits(), _logits(raw_shortcut=True), _logits(activation="softplus"), _logits(activation="silu")]
    assert all(logits.shape == (2, 10) for logits in variants)
    assert not any(torch.allclose(a, b) for i, a in enumerate(variants) for b in variants[:i])


def test_names_are_those_of_robustbench() -> None:
    with torch.device("meta"):
        names = set(build(10, (3, 32, 32)).state_dict())
    assert {"conv1.weight", "layer1.0.bn1.weight", "layer2.0.shortcut.0.weight", "linear.weight"} <= names
    assert "layer1.0.shortcut.0.weight" not in names


def test_an_unknown_activation_is_refused_with_the_list() -> None:
    with pytest.raises(RequestError, match="'tanh' is none of relu, softplus, silu"):
        build(10, (3, 32, 32), activation="tanh")

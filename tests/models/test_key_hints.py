import pytest
import torch

from robustctl.models.entry import KeyRules
from robustctl.models.key_hints import network_prefix, own_normalisation, shared_prefix, suggestion

WANTED = ["conv.weight", "bn.running_mean", "bn.num_batches_tracked", "fc.weight"]


def under(*prefixes: str) -> list[str]:
    return [prefix + name for prefix in prefixes for name in WANTED]


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (under("module."), "--strip module."),
        (under("module._orig_mod."), "--strip module._orig_mod."),
        (
            [
                *under("module.model.", "module.attacker.model."),
                "module.normalizer.new_mean",
                "module.normalizer.new_std",
            ],
            "--strip module.model. --drop module.attacker. --drop module.normalizer.",
        ),
        (
            [*under("module.model.model.", "module.attacker.model.model."), "module.attacker.step"],
            "--strip module.model.model. --drop module.attacker.",
        ),
        ([*under("model."), "mu", "sigma"], "--strip model. --drop mu --drop sigma"),
        ([*under(""), "conv.extra", "ema.decay"], "--drop conv.extra --drop ema."),
        ([name for name in under("module.") if "tracked" not in name], "--strip module."),
        (under("net with space."), "--strip 'net with space.'"),
    ],
)
def test_the_whole_prefix_and_all_surplus_tensors_are_found(names: list[str], options: str) -> None:
    assert suggestion(names, WANTED, KeyRules()) == f"\n  the network's own tensors are all there: {options}"


def test_a_half_cut_prefix_is_answered_with_the_whole_one() -> None:
    text = suggestion(under("module._orig_mod."), WANTED, KeyRules(strip="module."))
    assert text.endswith("--strip module._orig_mod.")


def test_another_network_gets_the_prefix_that_all_names_share() -> None:
    names = ["module._orig_mod.a.weight", "module._orig_mod.b.weight"]
    assert "every name begins with 'module._orig_mod.'" in suggestion(names, WANTED, KeyRules())
    assert suggestion(["a.weight", "b.weight"], WANTED, KeyRules()) == ""
    assert suggestion(under(""), WANTED, KeyRules()) == ""
    assert shared_prefix([]) == "" and shared_prefix(["a", "b"]) == ""


def test_the_shortest_of_several_whole_prefixes_is_the_networks() -> None:
    assert network_prefix(under("ema.", "model."), WANTED) == "ema."
    assert network_prefix(under("a.")[:-1], WANTED) is None


@pytest.mark.parametrize(
    ("mean", "std"), [("mu", "sigma"), ("a.mean", "a.std"), ("module.n.new_mean", "module.n.new_std")]
)
def test_constants_of_a_normalisation_are_found_by_name_and_size(mean: str, std: str) -> None:
    tensors = {
        "conv.weight": torch.ones(3),
        mean: torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1),
        std: torch.ones(3) / 4,
    }
    found = own_normalisation(tensors, 3)
    assert found is not None and found.names == (mean, std)
    assert found.options == "--mean 0.4,0.5,0.6 --std 0.25,0.25,0.25"
    assert own_normalisation(tensors, 1) is None
    assert own_normalisation({mean: tensors[mean]}, 3) is None
    assert own_normalisation({**tensors, std: torch.zeros(3)}, 3) is None

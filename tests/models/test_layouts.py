"""Names and shapes of other libraries' tensors become those of our networks."""

import pytest
import torch
from torch import Tensor

from robustctl.errors import RequestError
from robustctl.models.layouts import from_open_clip, renamed

WIDTH = 4


def block(prefix: str) -> dict[str, Tensor]:
    """The tensors of one block of open_clip, each with other values."""
    shapes = {
        "ln_1.weight": (WIDTH,),
        "ln_1.bias": (WIDTH,),
        "attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "attn.in_proj_bias": (3 * WIDTH,),
        "attn.out_proj.weight": (WIDTH, WIDTH),
        "attn.out_proj.bias": (WIDTH,),
        "ln_2.weight": (WIDTH,),
        "ln_2.bias": (WIDTH,),
        "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
        "mlp.c_fc.bias": (4 * WIDTH,),
        "mlp.c_proj.weight": (WIDTH, 4 * WIDTH),
        "mlp.c_proj.bias": (WIDTH,),
    }
    return {f"{prefix}transformer.resblocks.0.{name}": torch.rand(shape) for name, shape in shapes.items()}


def test_the_joint_projection_is_split_into_queries_keys_and_values() -> None:
    tensors = block("visual.")
    found = from_open_clip(tensors, "file")
    thirds = tensors["visual.transformer.resblocks.0.attn.in_proj_weight"].split(WIDTH)
    for part, third in zip("qkv", thirds, strict=True):
        assert torch.equal(found[f"vision_model.encoder.layers.0.self_attn.{part}_proj.weight"], third)
    assert torch.equal(
        found["vision_model.encoder.layers.0.mlp.fc2.weight"],
        tensors["visual.transformer.resblocks.0.mlp.c_proj.weight"],
    )
    assert len(found) == 12 + 4


def test_both_towers_are_told_apart_and_projections_are_transposed() -> None:
    tensors = block("") | block("visual.") | {"visual.proj": torch.rand(4, 2), "text_projection": torch.rand(4, 2)}
    found = from_open_clip(tensors, "file")
    assert torch.equal(found["visual_projection.weight"], tensors["visual.proj"].T)
    assert torch.equal(found["text_projection.weight"], tensors["text_projection"].T)
    assert torch.equal(
        found["text_model.encoder.layers.0.layer_norm1.weight"], tensors["transformer.resblocks.0.ln_1.weight"]
    )
    assert all(tensor.is_contiguous() for tensor in found.values())


@pytest.mark.parametrize("name", ["visual.layer1.0.conv1.weight", "visual.transformer.resblocks.0.ls_1.gamma"])
def test_tensors_that_no_vit_of_open_clip_has_are_named(name: str) -> None:
    with pytest.raises(RequestError, match=name):
        from_open_clip({name: torch.zeros(1)}, "file")


def test_a_network_without_an_earlier_layout_says_so() -> None:
    with pytest.raises(RequestError, match="no earlier layout of Linear"):
        renamed("timm", {}, torch.nn.Linear(1, 1), "file")


def test_no_layout_leaves_the_tensors_as_they_are() -> None:
    tensors = {"weight": torch.zeros(1)}
    assert renamed(None, tensors, torch.nn.Linear(1, 1), "file") is tensors

"""Names of tensors in the layouts of other libraries, turned into the names that our networks have.

An entry says which layout its file has (``keys.layout``); nothing is guessed. A layout sees the tensors after ``at``,
``drop`` and ``strip``.
"""

import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from robustctl.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor, nn

BLOCK = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)")
IN_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}


def renamed(layout: str | None, tensors: "dict[str, Tensor]", net: "nn.Module", source: str) -> "dict[str, Tensor]":
    """Return the tensors under the names of ``net`` (of a whole ``CLIPModel`` for ``open_clip``).

    Args:
        layout: ``open_clip``, ``timm`` (a name that an earlier timm gave), or None.
        source: what to call the file in a message.

    Raises:
        RequestError: a tensor that the layout does not know, or a network that has no such layout.
    """
    if layout is None:
        return tensors
    return from_open_clip(tensors, source) if layout == "open_clip" else _from_timm(tensors, net, source)


def _from_timm(tensors: "dict[str, Tensor]", net: "nn.Module", source: str) -> "dict[str, Tensor]":
    """The network's own filter of timm knows the names and shapes that earlier versions gave."""
    own = getattr(sys.modules[type(net).__module__], "checkpoint_filter_fn", None)
    if own is None:
        raise RequestError(f"{source}: timm has no earlier layout of {type(net).__name__}")
    found: dict[str, Tensor] = own(tensors, net)
    return found


def from_open_clip(tensors: "Mapping[str, Tensor]", source: str) -> "dict[str, Tensor]":
    """Return the tensors of open_clip's CLIP (ViT) under the names of transformers' ``CLIPModel``.

    The joint projection to queries, keys and values is split in three; projections that are multiplied from the right
    are transposed.

    Raises:
        RequestError: tensors of another model (a ResNet's, a CoCa's, ...); up to ten are named.
    """
    found: dict[str, Tensor] = {}
    strangers = []
    for name, tensor in tensors.items():
        if name == "attn_mask":  # a buffer that open_clip computes anew
            continue
        if name in NAMES:
            found[NAMES[name]] = tensor
        elif name in TRANSPOSED:
            found[TRANSPOSED[name]] = tensor.T.contiguous()
        elif (parts := _of_block(name, tensor)) is not None:
            found |= parts
        else:
            strangers.append(name)
    if strangers:
        raise RequestError(f"{source} is no ViT of open_clip; strange tensors: {', '.join(strangers[:10])}")
    return found


def _of_block(name: str, tensor: "Tensor") -> "dict[str, Tensor] | None":
    """A tensor of a transformer's block, as one or three; None if the name is not of a block."""
    match = BLOCK.fullmatch(name)
    if match is None:
        return None
    block = f"{'vision' if match[1] else 'text'}_model.encoder.layers.{match[2]}"
    for kind in ("weight", "bias"):
        if match[3] == f"attn.in_proj_{kind}" and len(tensor) % 3 == 0:
            return {
                f"{block}.self_attn.{part}_proj.{kind}": third.contiguous()
                for part, third in zip("qkv", tensor.chunk(3), strict=True)
            }
        layer = match[3].removesuffix(f".{kind}")
        if layer != match[3] and layer in IN_BLOCK:
            return {f"{block}.{IN_BLOCK[layer]}.{kind}": tensor}
    return None

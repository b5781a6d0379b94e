"""CLIP's vision transformer with a linear head (Radford et al., arXiv:2103.00020), through transformers (an extra).

Images keep the data's resolution up to here, so that perturbations are of the data's pixels; the network resizes them
to its own (Rice, thesis 2023, section 3.2.2). The head is the zero-shot classifier of ``zero_shot_head``, or trained.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustctl.errors import RequestError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

LIBRARY = "transformers.models.clip.modeling_clip"
"""Imported before a network is built on the meta device."""


class Clip(nn.Module):
    """``vision``: a ``CLIPVisionModelWithProjection``; ``head``: from unit embeddings to logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, vision: nn.Module, head: nn.Linear, image_size: int) -> None:
        super().__init__()
        self.vision = vision
        self.head = head
        self.image_size = image_size
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings (n, projection), of any length, of images (n, 3, h, w) in [0,1]."""
        size = (self.image_size, self.image_size)
        x = F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
        embeddings: Tensor = self.vision(pixel_values=(x - self.mean) / self.std).image_embeds
        return embeddings

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, n_classes) of images (n, 3, h, w) in [0,1]."""
        logits: Tensor = self.head(F.normalize(self.embed(x), dim=1))
        return logits


def build(
    n_classes: int,
    input_shape: tuple[int, int, int],
    image_size: int = 224,
    patch_size: int = 32,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    projection: int = 512,
    activation: str = "quick_gelu",
) -> nn.Module:
    """The defaults make ViT-B/32; parameters are named ``vision.*`` as in transformers, and ``head.*``.

    Args:
        image_size: side to which images are resized; a multiple of ``patch_size``.
        width, layers, heads: of the transformer; its inner layers are 4 * ``width`` wide.
        projection: length of an embedding.

    Raises:
        RequestError: transformers is not installed, or the images are not of 3 channels.
    """
    if input_shape[0] != 3:
        raise RequestError(f"architecture clip takes images of 3 channels, not {input_shape[0]}")
    try:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError:
        raise RequestError("architecture clip needs transformers: pip install 'robustctl[clip]'") from None
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=projection,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        image_size=image_size,
        patch_size=patch_size,
        hidden_act=activation,
    )
    return Clip(CLIPVisionModelWithProjection(config), nn.Linear(projection, n_classes), image_size)


def text_half(clip: Clip, width: int, layers: int, heads: int, vocabulary: int, context: int) -> nn.Module:
    """The text half of a ``CLIPModel``, beside the vision of ``clip``, under the same names, with fresh random weights.

    Args:
        width, layers, heads: of the transformer; its inner layers are 4 * ``width`` wide.
        vocabulary: number of tokens; the last one ends a text.
        context: the most tokens that a text may have.
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    vision: Any = clip.vision.config
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=vision.projection_dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=context,
        hidden_act=vision.hidden_act,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    half: nn.Module = CLIPTextModelWithProjection(config)
    half.register_parameter("logit_scale", nn.Parameter(torch.zeros(())))
    return half.eval()


def zero_shot_head(clip: Any, texts: Sequence[tuple[Tensor, Tensor]]) -> nn.Linear:
    """The head that scores images by their cosine with the embedded text of each class.

    Args:
        clip: a ``CLIPModel`` of transformers, or its ``text_half``.
        texts: for each prompt ("a photo of a cat") the tokens of one text per class and their mask, both
            (n_classes, length). The unit embeddings of several prompts are averaged and brought to length 1 again.
    """
    with torch.no_grad():
        total: Tensor = torch.zeros(())
        for input_ids, attention_mask in texts:
            text = clip.text_model(input_ids=input_ids, attention_mask=attention_mask).pooler_output
            total = total + F.normalize(clip.text_projection(text), dim=1)
        weight = F.normalize(total, dim=1) * clip.logit_scale.exp()
    head = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.zero_()
    return head

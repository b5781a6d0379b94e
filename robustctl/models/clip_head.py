"""From a published CLIP to a classifier: its vision tower, and a head that its text tower makes once from class names.

Runs in the process that converts files, within that one's limits of memory and time.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from robustctl.architectures import Classifier
from robustctl.architectures.clip import Clip, text_half, zero_shot_head
from robustctl.checkpoint import load_weights
from robustctl.errors import RequestError
from robustctl.hub.download import is_web_page
from robustctl.models.entry import ZeroShot

VISION = ("vision_model.", "visual_projection.")


def classifier(
    net: nn.Module, tensors: dict[str, Tensor], zero_shot: ZeroShot, tokenizer: Path, source: str
) -> dict[str, Tensor]:
    """The tensors of architecture ``clip``.

    Args:
        net: the network that they are for.
        tensors: of a whole ``CLIPModel``, under transformers' names; each belongs to one tower or is a fault.
        tokenizer: a ``tokenizer.json``; nothing in one is code.
        source: what to call the file in a message.

    Raises:
        RequestError: tensors that do not fit the text tower (all are listed), or a tokenizer that is not the CLIP's.
    """
    assert isinstance(net, Clip)  # the entry's own check
    half = text_half(net, **zero_shot.text.model_dump())
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(VISION)}
    load_weights(Classifier(half, None), others, f"{source} (text tower)")
    names = _names(zero_shot)
    end = zero_shot.text.vocabulary - 1
    texts = [_padded(_tokens(zero_shot, prompt, names, tokenizer), end) for prompt in zero_shot.prompts]
    head = zero_shot_head(half, texts)
    vision = {f"vision.{name}": tensor for name, tensor in tensors.items() if name.startswith(VISION)}
    return vision | {f"head.{name}": tensor for name, tensor in head.state_dict().items()}


def _padded(tokens: list[list[int]], end: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, (n_classes, length). Padding changes nothing: the tower is causal and reads the first ``end``."""
    length = max(map(len, tokens))
    ids = torch.tensor([one + [end] * (length - len(one)) for one in tokens])
    mask = torch.tensor([[1] * len(one) + [0] * (length - len(one)) for one in tokens])
    return ids, mask


def _names(zero_shot: ZeroShot) -> tuple[str, ...]:
    """The names of the classes; raises RequestError if they are open_clip's and it is not installed."""
    if zero_shot.names_of is None:
        return zero_shot.classes
    try:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    except ImportError:
        raise RequestError("the names of ImageNet's classes need open_clip: pip install 'robustctl[clip]'") from None
    return tuple(IMAGENET_CLASSNAMES)


def _tokens(zero_shot: ZeroShot, prompt: str, names: tuple[str, ...], path: Path) -> list[list[int]]:
    """Tokens of each class's prompt, checked to be texts of this CLIP: another tokenizer would give silent nonsense."""
    prompts = [prompt.replace("{}", name) for name in names]
    if is_web_page(path):
        raise RequestError(f"{path} is a web page, not a tokenizer; download the file itself")
    try:
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokens: list[list[int]] = [tokenizer.encode(prompt).ids for prompt in prompts]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises nothing narrower, and its panics are no Exception
        raise RequestError(f"cannot read {path}: it is damaged or no tokenizer ({str(error)[:200]})") from None
    for i, (prompt, one) in enumerate(zip(prompts, tokens, strict=True)):
        fault = _fault(one, zero_shot.text.vocabulary, zero_shot.text.context)
        twice = zero_shot.names_of is not None and prompt in prompts[:i]  # two of ImageNet's names stand there twice
        if fault is None and one in tokens[:i] and not twice:
            fault = f"are the tokens of {prompts[tokens.index(one)]!r} too"
        if fault:
            raise RequestError(f"{path} is not the tokenizer of this model: the tokens of {prompt!r} {fault}")
    return tokens


def _fault(tokens: list[int], vocabulary: int, context: int) -> str | None:
    """Why these are not the tokens of one text, or None."""
    begin, end = vocabulary - 2, vocabulary - 1
    if len(tokens) > context:
        return f"are {len(tokens)}, more than {context}"
    if not tokens or max(tokens) >= vocabulary:
        return f"are not all below {vocabulary}"
    if tokens[0] != begin or tokens[-1] != end or end in tokens[:-1]:
        return f"do not stand between {begin} and {end}"
    return None

from pathlib import Path

import pytest
import torch

from robustctl import checkpoint
from robustctl.architectures import Classifier, build
from robustctl.architectures.clip import MEAN, STD, Clip, zero_shot_head
from robustctl.errors import RequestError
from robustctl.oracle import Oracle
from robustctl.sampling.build import draw, make_sampler
from robustctl.sampling.estimators import path_sampling
from robustctl.sampling.noise import Noise
from robustctl.sampling.perturbation import Perturbation
from robustctl.spec import ModelSpec
from robustctl.trusted_copy import trusted_copy

transformers = pytest.importorskip("transformers", reason="CLIP is an extra")

TINY = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "heads": 2, "projection": 8}


@pytest.fixture
def classifier() -> Classifier:
    """A randomly initialised tiny CLIP behind 3x8x8 images."""
    spec = ModelSpec.model_validate(
        {"architecture": {"name": "clip", "args": TINY}, "input_shape": (3, 8, 8), "n_classes": 5, "dataset": "made"}
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(spec).eval()


def test_zero_shot_head_gives_the_logits_of_the_whole_clip() -> None:
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50, "eos_token_id": 49}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        clip = transformers.CLIPModel(config).eval()
        tower = transformers.CLIPVisionModelWithProjection(config.vision_config).eval()
    tower.vision_model.load_state_dict(clip.vision_model.state_dict())
    tower.visual_projection = clip.visual_projection
    tokens = torch.tensor([[1, 5, 7, 49], [1, 9, 49, 49], [1, 3, 4, 49]])
    mask = torch.ones_like(tokens)
    net = Clip(tower, zero_shot_head(clip, [(tokens, mask)]), 16)
    x = torch.rand(4, 3, 16, 16)
    pixels = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.no_grad():
        whole = clip(input_ids=tokens, attention_mask=mask, pixel_values=pixels).logits_per_image
        assert torch.allclose(net(x), whole, atol=1e-4)


def test_perturbations_are_of_the_datas_pixels_and_can_be_sampled(classifier: Classifier) -> None:
    x, y = torch.rand(2, 3, 8, 8), torch.tensor([0, 3])
    perturbation = Perturbation.parse("linf:8/255")
    noise = Noise([torch.Generator().manual_seed(i) for i in range(2)], 2, x)
    rows = x.repeat_interleave(2, 0)
    assert draw(perturbation, rows, noise).shape == (4, 3, 8, 8)
    with Oracle(classifier, trusted_copy(classifier, "float32", x)) as oracle:
        sampler = make_sampler(perturbation, oracle, rows, y.repeat_interleave(2), 1)
        (estimate,), _ = path_sampling(sampler, [10.0], samples=16, chains=2, noise=noise)
    assert estimate.log_z.isfinite().all()


def test_grey_images_are_refused() -> None:
    spec = ModelSpec.model_validate(
        {"architecture": {"name": "clip", "args": TINY}, "input_shape": (1, 8, 8), "n_classes": 5, "dataset": "made"}
    )
    with pytest.raises(RequestError, match="3 channels, not 1"):
        build(spec)


def test_a_clip_is_a_model_directory_like_any_other(classifier: Classifier, tmp_path: Path) -> None:
    spec = ModelSpec.model_validate(
        {"architecture": {"name": "clip", "args": TINY}, "input_shape": (3, 8, 8), "n_classes": 5, "dataset": "made"}
    )
    checkpoint.save_model(classifier, spec, tmp_path)
    loaded, _ = checkpoint.load_model(tmp_path)
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x), classifier(x))

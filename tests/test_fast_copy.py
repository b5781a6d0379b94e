"""The accelerated copy computes what the model computes, and the model itself is left alone."""

import pytest
import torch
from torch import Tensor, nn

from robustctl import losses
from robustctl.architectures import Classifier, build, kw_small, preact_resnet18, wide_resnet
from robustctl.fast_copy import FastCopy, _FrozenBatchNorm, _split
from robustctl.oracle import Oracle
from robustctl.precision import Precision
from robustctl.processes import SharedBatchNorm2d
from robustctl.spec import ModelSpec, Normalization
from robustctl.trusted_copy import trusted_copy

NORMALIZATION = Normalization(mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3])


def models() -> list[tuple[str, nn.Module]]:
    nets = {
        "kw-small": kw_small.build(10, (3, 16, 16), width=4, hidden=16),
        "wide-resnet": wide_resnet.build(10, (3, 16, 16), depth=10, width=1),
        "preact-resnet18": preact_resnet18.build(10, (3, 16, 16), bn_before_fc=True),
    }
    for net in nets.values():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):  # statistics unlike the initial ones, so that folding matters
                nn.init.uniform_(module.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
                nn.init.uniform_(module.weight, -1, 2)
    return [(name, Classifier(net, NORMALIZATION)) for name, net in nets.items()]


@pytest.mark.parametrize(("name", "model"), models(), ids=[name for name, _ in models()])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("bf16", 0.15)])
def test_accelerated_logits_and_gradients_are_the_model_s_up_to_rounding(
    name: str, model: nn.Module, precision: str, tolerance: float
) -> None:
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2, 3])
    trusted = trusted_copy(model, precision, x)  # type: ignore[arg-type]
    assert (trusted.precision, trusted.copied, trusted.reason) == (precision, True, "")
    with Oracle(model) as plain, Oracle(model, trusted) as fast:
        expected, _, grad = plain.loss_and_grad(x, y, losses.ce)
        logits, _, fast_grad = fast.loss_and_grad(x, y, losses.ce)
        assert torch.equal(fast.exact(x), plain.logits(x))
    assert logits.dtype == fast_grad.dtype == torch.float32
    assert (logits - expected).norm() <= tolerance * expected.norm()
    cosine = torch.cosine_similarity(fast_grad.flatten(1), grad.flatten(1))
    assert (cosine >= 1 - 2 * tolerance).all()


def test_acceleration_leaves_the_model_s_weights_modes_and_hooks_alone() -> None:
    model = dict(models())["wide-resnet"].train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = FastCopy(model, "bf16", torch.rand(1, 3, 16, 16)).network
    fast(torch.rand(1, 3, 16, 16))
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in fast.parameters())


def test_batch_norm_after_a_convolution_is_folded_away() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    fast = list(FastCopy(model, "float32", torch.rand(1, 3, 8, 8)).network.modules())
    assert sum(isinstance(module, _FrozenBatchNorm) for module in fast) == 1, "only the other one is left"
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast)


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_convolution_that_skips_pixels_meets_the_others_alone(channels_last: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 1, stride=(2, 3)), nn.Softplus(), nn.Conv2d(5, 2, 1, 2, 1)
    )
    x = torch.rand(2, 3, 9, 10, requires_grad=True)
    fast = FastCopy(model, "float32", torch.rand(1, 3, 9, 10), channels_last=channels_last).network
    assert [conv.stride for conv in fast.modules() if isinstance(conv, nn.Conv2d)] == [(1, 1), (1, 1), (2, 2)]
    expected, actual = model(x), fast(x)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, weights)[0] for out in (actual, expected)))


@pytest.mark.parametrize("affine", [True, False])
def test_a_frozen_batch_norm_is_the_affine_map_of_its_statistics(affine: bool) -> None:
    norm = nn.BatchNorm2d(3, affine=affine).double().eval()
    for tensor in norm.state_dict().values():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 2)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    expected, actual = norm(x), _FrozenBatchNorm(norm)(x)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(x)
    grads = [torch.autograd.grad((out * weights).sum(), x)[0] for out in (actual, expected)]
    torch.testing.assert_close(*grads)


def test_a_batch_norm_without_running_statistics_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(FastCopy(model, "float32", x[:1]).network(x), model(x))


def test_bf16_splits_pixels_so_that_small_perturbations_are_seen() -> None:
    x = torch.full((1, 1, 2, 2), 0.8985)
    moved = x + 1 / 2048  # far below the spacing of bf16 numbers near 0.9
    assert torch.equal(x.bfloat16(), moved.bfloat16())
    seen = [_split(image).float().sum(dim=1, keepdim=True) for image in (x, moved)]
    torch.testing.assert_close(seen[1] - seen[0], moved - x, rtol=0.05, atol=0)


IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class Mixed(nn.Module):
    """A float32 parameter meets a layer in bf16, as in the position embeddings and layer norms of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(16, 10)
        self.positions = nn.Parameter(torch.zeros(1, 16))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.patches(x).flatten(1) + self.positions)
        return logits


class Depthwise(nn.Module):
    """Runs in bf16 with twice the channels, but the groups of its first layer then mix up the pixels' two halves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 3, 3, groups=3), nn.Linear(108, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.first(x).flatten(1))
        return logits


class Overflowing(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)
        return logits if logits.dtype == torch.float32 else logits / 0


@pytest.mark.parametrize("net", [Mixed, Depthwise, lambda: Overflowing(nn.Flatten(), nn.Linear(192, 10))])
def test_a_model_that_bf16_breaks_is_attacked_in_float32(net: type[nn.Module]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Classifier(net(), NORMALIZATION)
    trusted = trusted_copy(model, "bf16", IMAGE)
    assert (trusted.precision, trusted.copied) == ("float32", True)
    assert trusted.reason
    with Oracle(model, trusted) as oracle:
        assert oracle.loss_and_grad(IMAGE, torch.tensor([0]), losses.ce)[2].isfinite().all()


def test_a_clip_is_attacked_in_float32() -> None:
    pytest.importorskip("transformers", reason="CLIP is an extra")
    tiny = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "heads": 2, "projection": 8}
    spec = ModelSpec.model_validate(
        {"architecture": {"name": "clip", "args": tiny}, "input_shape": (3, 8, 8), "n_classes": 5, "dataset": "made"}
    )
    model = build(spec).eval()
    with Oracle(model, trusted_copy(model, "bf16", IMAGE)) as oracle:
        logits, _, grad = oracle.loss_and_grad(IMAGE, torch.tensor([0]), losses.ce)
        torch.testing.assert_close(logits, oracle.exact(IMAGE), rtol=0.05, atol=0.05)
    assert grad.isfinite().all()


class Backwards(nn.Module):
    """Its layers are registered last to first; a trace, which would put them in order, fails."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(8, 10), nn.Linear(192, 8)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.first(x.flatten(1)))
        return logits[: len(x)]


def test_pixels_are_split_where_they_enter_whatever_the_order_of_registration() -> None:
    model = Backwards()
    assert trusted_copy(model, "bf16", IMAGE).precision == "bf16"
    fast = FastCopy(model, "bf16", IMAGE).network
    first, last = fast.get_submodule("first"), fast.get_submodule("last")
    assert (first.weight.shape, last.weight.shape) == ((8, 384), (10, 8))


def test_folding_gives_up_on_any_model_that_cannot_be_traced() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10))

        def forward(self, x: Tensor) -> Tensor:
            assert len(x) > 0
            logits: Tensor = self.net(x)
            return logits

    model = Counting().eval()
    torch.testing.assert_close(FastCopy(model, "float32", IMAGE).network(IMAGE), model(IMAGE))


def test_a_convolution_that_is_used_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
            nn.init.constant_(self.norm.running_var, 4.0)  # type: ignore[arg-type]

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(self.norm(self.conv(x))).flatten(1)
            return out

    model = Twice().eval()
    torch.testing.assert_close(FastCopy(model, "float32", IMAGE).network(IMAGE), model(IMAGE))


class Scaled(nn.Module):
    """A batch norm before and after a convolution, one of several processes, and numbers that are no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.conv, self.after = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, bias=False), SharedBatchNorm2d(4)
        self.head = nn.Linear(4 * 14 * 14, 10)
        self.temperature, self.shift = 1.0, torch.zeros(3, 1, 1)
        self.register_buffer("mask", torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        features = self.after(self.conv(self.before(x + self.shift))) * self.mask
        logits: Tensor = self.head(features.relu().flatten(1)) / self.temperature
        return logits


def moved(model: nn.Module) -> None:
    """Change every weight and statistic, as training does."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(0.9).add_(0.02)
    if isinstance(model, Scaled):
        model.temperature, model.shift, model.mask = 2.0, torch.full((3, 1, 1), 0.3), torch.zeros(4, 1, 1)


@pytest.mark.parametrize(("name", "model"), [*models(), ("scaled", Scaled())], ids=lambda one: str(one)[:16])
def test_a_copy_takes_over_all_that_the_model_s_answer_depends_on(name: str, model: nn.Module) -> None:
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    copy = FastCopy(model, "float32", x[:1])
    before = copy.network(x)
    moved(model)
    assert torch.equal(copy.network(x), before), "the copy's weights are its own"
    copy.refresh()
    expected = model.eval()(x)
    assert (copy.network(x) - expected).norm() <= 1e-4 * expected.norm()
    assert (before - expected).norm() > 1e-2 * expected.norm()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.network.modules())


class OwnCopy(nn.Sequential):
    """Nobody can tell that the new layer stands for its own."""

    def __deepcopy__(self, memo: dict[int, object]) -> nn.Module:
        return nn.Sequential(nn.Linear(192, 10))


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), "bf16"),
        (nn.Sequential(nn.Flatten(), OwnCopy(nn.Linear(192, 10))), "float32"),
    ],
)
def test_a_copy_that_cannot_take_over_weights_says_so(model: nn.Module, precision: Precision) -> None:
    copy = FastCopy(model, precision, IMAGE)
    assert not copy.refreshable
    with pytest.raises(ValueError, match="cannot take over"):
        copy.refresh()

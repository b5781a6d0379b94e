"""Attacks follow the model's own gradient, whatever its code does; a copy that does not is found out and not used."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from robustctl import losses, trusted_copy
from robustctl.fast_copy import FastCopy
from robustctl.oracle import Oracle
from robustctl.trusted_copy import TOLERANCES, difference

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(5))
Y = torch.arange(6)


class Body(nn.Module):
    """Convolution, batch norm with statistics of its own, ReLU and a linear layer; subclasses change one thing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()
        self.head = nn.Linear(384, 10)
        nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)  # type: ignore[arg-type]
        nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.act(self.norm(self.conv(x)))
        return features

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).flatten(1))
        return logits


class _Round(torch.autograd.Function):
    """A quantiser with a straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x * 4).round() / 4

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class _LeakySign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * (x.abs() < 1)


class Quantised(Body):
    def features(self, x: Tensor) -> Tensor:
        features: Tensor = _Round.apply(super().features(_Round.apply(x)))
        return features


class Quantiser(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rounded: Tensor = _Round.apply(x)
        return rounded


class StraightThroughByDetach(Body):
    def features(self, x: Tensor) -> Tensor:
        soft = super().features(x)
        return soft + (soft.round() - soft).detach()


class Binary(Body):
    def features(self, x: Tensor) -> Tensor:
        signs: Tensor = _LeakySign.apply(self.norm(self.conv(x)))
        return signs


class OtherReLU(nn.ReLU):
    """A subclass of a layer of torch with a backward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _LeakySign.apply(x)
        return out


class OtherNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


class OtherConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


class OnData(Body):
    def features(self, x: Tensor) -> Tensor:
        return torch.where(x.mean((1, 2, 3), keepdim=True) > 0.5, super().features(x), super().features(1 - x))


class Branching(Body):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x) if x.amax() > 2 else super().features(x * 0.5)


class NoGradBranch(Body):
    def features(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = super().features(x)
        return super().features(x) * scale


class NoGradHelper(Body):
    @torch.no_grad()
    def gate(self, x: Tensor) -> Tensor:
        return x.sigmoid()

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) * self.gate(self.conv(x))


class Detached(Body):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + self.conv(x.detach())


class Counting(Body):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def features(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().features(x)


class Drifting(Counting):
    """Another function at each call."""

    def features(self, x: Tensor) -> Tensor:
        return super().features(x * (1 - 0.05 * self.calls))


class ReadsItsNorm(Body):
    """Its code uses the batch norm's statistics beside calling it."""

    def features(self, x: Tensor) -> Tensor:
        return super().features(x) - self.norm.running_mean.view(1, -1, 1, 1)  # type: ignore[union-attr]


class ReadsItsWeight(Body):
    def features(self, x: Tensor) -> Tensor:
        return super().features(x) + nn.functional.conv2d(x, self.conv.weight, padding=1)


class NormCalledTwice(Body):
    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.act(self.norm(self.conv(x)) + self.norm(self.conv(x.square())))
        return features


class AliveNorm(Body):
    """Keeps a batch norm in training mode whatever it is told; gradients then flow through the statistics."""

    def train(self, mode: bool = True) -> "AliveNorm":
        super().train(mode)
        self.norm.train()
        return self


class HalfIsland(Body):
    def __init__(self) -> None:
        super().__init__()
        self.conv.bfloat16()

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.act(self.norm(self.conv(x.bfloat16()).float()))
        return features


class Autocast(Body):
    def features(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().features(x).float()


class Random(Body):
    def features(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(x), 0.3, training=True)


class TensorHook(Body):
    def features(self, x: Tensor) -> Tensor:
        features = super().features(x)
        if features.requires_grad:
            features.register_hook(lambda grad: grad * torch.linspace(0, 2, grad.shape[-1]))
        return features


class Viewing(Body):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x).view(len(x), -1))
        return logits


class SharedTwice(Body):
    """One batch norm under two names, called by the second."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.norm

    def features(self, x: Tensor) -> Tensor:
        features: Tensor = self.act(self.again(self.conv(x)))
        return features


class KeptInAList(Body):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [self.conv, self.norm, self.act]

    def features(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Unpaired(Body):
    """Its convolution's output is also used in a way that depends on values."""

    def features(self, x: Tensor) -> Tensor:
        seen = self.conv(x)
        features: Tensor = self.act(self.norm(seen))
        return features + seen if features.sum() > 0 else features


def with_layer(name: str, layer: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        body = Body()
        new = layer()
        new.load_state_dict(body.get_submodule(name).state_dict())
        setattr(body, name, new)
        return body

    return make


def changed(change: Callable[[Body], object]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        body = Body()
        change(body)
        return body

    return make


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def own_forward(body: Body) -> None:
    plain = body.norm.forward
    body.norm.forward = lambda x: plain(x).sin()  # type: ignore[method-assign, assignment]


def compiled_inside(body: Body) -> None:
    body.conv = torch.compile(body.conv, backend="eager")  # type: ignore[assignment]


def non_leaf_weight(body: Body) -> None:
    """What the old ``weight_norm`` leaves behind after a pass in training mode."""
    torch.nn.utils.weight_norm(body.conv)
    body(X)


NETS: dict[str, Callable[[], nn.Module]] = {
    kind.__name__: kind
    for kind in (
        Body, Quantised, StraightThroughByDetach, Binary, OnData, Branching, NoGradBranch, NoGradHelper, Detached,
        Counting, Drifting, ReadsItsNorm, ReadsItsWeight, NormCalledTwice, AliveNorm, HalfIsland, Autocast, TensorHook,
        Viewing, SharedTwice, KeptInAList, Unpaired,
    )
}  # fmt: skip
NETS |= {
    "quantiser-module": lambda: nn.Sequential(Quantiser(), Body(), Quantiser()),
    "relu-subclass": with_layer("act", OtherReLU),
    "norm-subclass": with_layer("norm", lambda: OtherNorm(6)),
    "conv-subclass": with_layer("conv", lambda: OtherConv(3, 6, 3, padding=1)),
    "forward-hook": changed(lambda body: body.conv.register_forward_hook(lambda module, inputs, out: out.tanh())),
    "forward-hook-norm": changed(lambda body: body.norm.register_forward_hook(lambda module, inputs, out: out.tanh())),
    "pre-hook": changed(lambda body: body.norm.register_forward_pre_hook(lambda module, inputs: inputs[0] * 3)),
    "backward-hook": changed(
        lambda body: body.conv.register_full_backward_hook(lambda module, grad, _: (grad[0] * X[:1],))
    ),
    "weight-norm": changed(lambda body: parametrizations.weight_norm(body.conv)),
    "spectral-norm": changed(lambda body: parametrizations.spectral_norm(body.conv)),
    "old-weight-norm": changed(lambda body: torch.nn.utils.weight_norm(body.conv)),
    "old-spectral-norm": changed(lambda body: torch.nn.utils.spectral_norm(body.conv)),
    "non-leaf-weight": changed(non_leaf_weight),
    "parametrised-norm": changed(lambda body: parametrize.register_parametrization(body.norm, "weight", _Doubled())),
    "own-forward": changed(own_forward),
    "compiled": lambda: torch.compile(Body(), backend="eager"),  # type: ignore[return-value]
    "compiled-inside": changed(compiled_inside),
    "compiled-in-place": changed(lambda body: body.compile(backend="eager")),
}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", NETS)
def test_attacks_follow_the_gradient_of_the_model_itself(name: str, precision: str) -> None:
    model = seeded(NETS[name])
    trusted = trusted_copy.trusted_copy(model, precision, X)  # type: ignore[arg-type]
    assert trusted.copied == (trusted.network is not model)
    for loss in (losses.ce, lambda logits, y: losses.margin_targeted(logits, y, (y + 1) % 10)):
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with Oracle(model) as plain, Oracle(model, trusted) as fast:
            logits, _, gradient = plain.loss_and_grad(X, Y, loss)
            if trusted.network is model:
                model.load_state_dict(state)  # it may be another function at each call
            found = fast.loss_and_grad(X, Y, loss)
        assert (gradient.flatten(1).norm(dim=1) > 0).all()
        error, cosine = (1e-3, 0.995) if trusted.precision == "float32" else (0.2, 0.5)
        torch.testing.assert_close(found[0], logits, rtol=error, atol=error)
        assert (torch.cosine_similarity(found[2].flatten(1), gradient.flatten(1), eps=1e-30) > cosine).all()


@pytest.mark.parametrize("name", ["Body", "Quantised", "OnData", "SharedTwice", "relu-subclass", "compiled", "Viewing"])
def test_the_copy_of_code_that_torch_s_layers_leave_alone_is_used(name: str) -> None:
    trusted = trusted_copy.trusted_copy(seeded(NETS[name]), "float32", X)
    assert (trusted.copied, trusted.reason) == (True, "")


@pytest.mark.parametrize("name", ["Drifting", "ReadsItsNorm", "AliveNorm", "Random"])
def test_code_that_no_copy_repeats_is_attacked_itself_and_the_reason_is_given(name: str) -> None:
    model = seeded(NETS.get(name, Random))
    trusted = trusted_copy.trusted_copy(model, "float32", X)
    if trusted.copied:  # then the copy has the same numbers, which the test above checks
        assert difference(model, trusted.network, X, TOLERANCES["float32"]) == ""
    else:
        assert trusted.network is model
        assert trusted.reason


def damaged(how: str) -> Callable[..., FastCopy]:
    """A copy that is wrong in one way."""

    def make(model: nn.Module, precision: str, image: Tensor, *, channels_last: bool) -> FastCopy:
        copy = FastCopy(model, precision, image)  # type: ignore[arg-type]
        fast = copy.network

        class Wrong(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fast = fast

            def forward(self, x: Tensor) -> Tensor:
                if how == "no gradient":
                    return self.fast(x.detach())  # type: ignore[no-any-return]
                if how == "zero gradient":
                    return self.fast(x.detach()) + 0 * x.sum()  # type: ignore[no-any-return]
                if how == "part of the gradient":
                    return self.fast(torch.cat([x[:, :1].detach(), x[:, 1:]], 1))  # type: ignore[no-any-return]
                if how == "one image":
                    return self.fast(x.detach() if torch.equal(x[0], X[3]) else x)  # type: ignore[no-any-return]
                if how == "longer gradient":
                    return self.fast(x.detach() + 2 * (x - x.detach()))  # type: ignore[no-any-return]
                if how == "logits":
                    return self.fast(x) + 0.02 * self.fast(x).sin()  # type: ignore[no-any-return]
                if how == "not finite":
                    return self.fast(x) / 0  # type: ignore[no-any-return]
                raise ValueError("out of order")

        copy.network = Wrong()
        return copy

    return make


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no gradient", "only one"),
        ("zero gradient", "cosine 0.000"),
        ("part of the gradient", "input gradients differ"),
        ("one image", "only one"),
        ("longer gradient", "cosine 1.000, relative error 1"),
        ("logits", "logits differ"),
        ("not finite", "logits differ"),
        ("error", "ValueError: out of order"),
    ],
)
def test_a_wrong_copy_is_not_used_and_its_fault_is_named(how: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(Body)
    monkeypatch.setattr(trusted_copy, "FastCopy", damaged(how))
    trusted = trusted_copy.trusted_copy(model, "float32", X)
    assert trusted.network is model
    assert not trusted.copied
    assert said in trusted.reason


def test_the_comparison_leaves_modes_weights_gradients_and_random_numbers_alone() -> None:
    model = seeded(Random).train()
    model.get_submodule("norm").eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = torch.get_rng_state()
    trusted_copy.trusted_copy(model, "bf16", X)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_certain_predictions_do_not_make_a_good_copy_look_wrong() -> None:
    model = seeded(Body)
    with torch.no_grad():
        model.get_submodule("head").weight.mul_(300)  # type: ignore[operator, union-attr]
    assert model(X).softmax(1).amax() > 0.999
    assert trusted_copy.trusted_copy(model, "float32", X).copied

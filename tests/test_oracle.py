"""An oracle computes the model's own logits and gradients, and leaves the model and torch's settings alone."""

import pytest
import torch
from torch import Tensor, nn

from robustctl import losses
from robustctl.oracle import Oracle
from robustctl.precision import Precision
from robustctl.trusted_copy import trusted_copy

IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def test_what_is_exact_is_computed_without_tf32_and_autocast() -> None:
    seen: list[tuple[bool, bool, bool]] = []

    # torch 2.9 and later refuse to tell the old flags where the new settings differ, so the test reads what ours sets.
    new = hasattr(torch.backends, "fp32_precision")

    def tf32() -> tuple[bool, bool]:
        if new:
            return (
                torch.backends.cudnn.conv.fp32_precision == "tf32",
                torch.backends.cuda.matmul.fp32_precision == "tf32",
            )
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((*tf32(), torch.is_autocast_enabled("cpu")))
            return super().forward(x.flatten(1))

    before = tf32()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with Oracle(Watching(192, 10)) as oracle, torch.autocast("cpu", torch.bfloat16):
            oracle.exact(IMAGE)
            oracle.loss_and_grad(IMAGE, torch.tensor([0]), losses.ce, exact=True)
            oracle.logits(IMAGE)
        assert tf32() == (True, True)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    assert seen == [(False, False, False), (False, False, False), (True, True, True)]


def test_code_that_relies_on_the_order_of_pixels_runs_on_images_in_any_order() -> None:
    class Viewed(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.view(len(x), -1))

    images = torch.rand(4, 8, 8, 3, generator=torch.Generator().manual_seed(0)).permute(0, 3, 1, 2)
    with Oracle(Viewed(192, 10)) as oracle:
        expected = oracle.model(images.contiguous())
        assert torch.equal(oracle.logits(images), expected)
        assert torch.equal(oracle.exact(images), expected)
        assert oracle.loss_and_grad(images, torch.arange(4), losses.ce)[2].shape == images.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_logits_in_another_precision_are_judged_in_float32(dtype: torch.dtype) -> None:
    class Cast(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1)).to(dtype)

    with Oracle(Cast(192, 10)) as oracle:
        found = oracle.loss_and_grad(IMAGE, torch.zeros(len(IMAGE), dtype=torch.int64), losses.ce)
        assert [one.dtype for one in found] == 3 * [torch.float32]
        assert oracle.logits(IMAGE).dtype == oracle.exact(IMAGE).dtype == torch.float32


@pytest.mark.parametrize(("precision", "passes_of_the_model"), [("float32", 0), ("bf16", 1)])
def test_exact_gradients_come_from_a_copy_in_float32_or_else_from_the_model(
    precision: Precision, passes_of_the_model: int
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    passes: list[nn.Module] = []
    with Oracle(model, trusted_copy(model, precision, IMAGE)) as oracle:
        assert oracle.precision == precision
        x = IMAGE.clone().requires_grad_(True)
        (expected,) = torch.autograd.grad(losses.margin(model(x), torch.tensor([1])).sum(), x)
        handle = model.register_forward_hook(lambda *_: passes.append(model))
        _, _, found = oracle.loss_and_grad(IMAGE, torch.tensor([1]), losses.margin, exact=True)
        handle.remove()
    assert len(passes) == passes_of_the_model
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)

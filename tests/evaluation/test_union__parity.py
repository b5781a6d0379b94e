"""Strength of our protocol against the reference implementation at the same budget, on real images."""

import pytest
import torch

from robustctl import checkpoint, data
from robustctl.architectures import build
from robustctl.evaluation import referee, reference
from robustctl.evaluation.union import evaluate_union
from robustctl.evaluation.union_request import UnionRequest
from robustctl.spec import Architecture, ModelSpec
from robustctl.threats import Threat

THREATS = tuple(map(Threat.parse, ("linf:0.3", "l2:2", "l1:10")))
SAME_BUDGET = ("apgd-ce", "apgd-t")  # of the reference's standard version


@pytest.fixture(scope="module")
def mnist(shared):
    """The published MNIST model, its spec, and the first 200 test images."""
    spec = ModelSpec(architecture=Architecture(name="kw-small"), input_shape=(1, 28, 28), n_classes=10, dataset="mnist")
    model = build(spec)
    published = torch.load(shared / "models" / "fast_mnist_pgd.pth", map_location="cpu", weights_only=True)
    checkpoint.load_weights(model, published, "fast_mnist_pgd")
    return model.eval(), spec, data.load(str(shared / "data" / "mnist-part"), "test", 200)


def reference_robust(model, images, threat) -> list[int]:
    """1 where the point survives the reference's attacks, judged by our referee."""
    right = (referee.logits(model, images.x.float() / 255).argmax(1) == images.y).tolist()
    robust = [int(is_right) for is_right in right]
    for attack in SAME_BUDGET:
        meets = [position for position, alive in enumerate(robust) if alive]
        for found in reference.run(model, images, meets, set(), threat, attack, seed=0, batch_size=250):
            x, y = images.images(found.positions), images.y[found.positions]
            verdicts = referee.judge(model, x, y, found.x_adv, threat)
            for position, broken in zip(found.positions, verdicts.broken.tolist(), strict=True):
                robust[position] &= not broken
    return robust


def compare(mnist, n, threats, path):
    """Per threat and for the union: our accuracy minus the reference's, in points."""
    model, spec, images = mnist
    images = images.select(range(n))
    request = UnionRequest(threats, "standard", seed=0, batch_size=250)
    ours = evaluate_union(model, spec, images, request, name="mnist", device=torch.device("cpu"), store_path=path)
    theirs = {threat.norm: reference_robust(model, images, threat) for threat in threats}
    pairs = [(ours.points.robust[norm], column) for norm, column in theirs.items()]
    pairs.append((ours.points.union(), [min(column) for column in zip(*theirs.values(), strict=True)]))
    return [100 * (sum(our) - sum(their)) / n for our, their in pairs]


@pytest.mark.slow
def test_on_mnist_no_norm_and_not_the_union_is_more_than_half_a_point_above_the_reference(mnist, tmp_path):
    """Measured: -0.5, -2.0, -1.0 and -1.0 points. Below zero we are the stronger attack, with the referee's proof.

    Of 200 points one is 0.5 points, the bound.

    The lower bound is 3 and not 1 point for l_2's sake: we project onto ball and box at once, the reference onto the
    ball and then clips, which wastes radius on MNIST's black pixels. With the reference's projection in place of ours
    the same attack leaves 74.0 % instead of 71.0 %; the reference leaves 73.0 %.
    """
    differences = compare(mnist, 200, THREATS, tmp_path / "s.sqlite")
    print("ours minus reference, points (linf, l2, l1, union):", differences)
    assert max(differences) <= 0.5
    assert min(differences) >= -3.0


def test_on_a_few_images_we_are_not_weaker_than_the_reference(mnist, tmp_path):
    differences = compare(mnist, 12, THREATS[:1], tmp_path / "s.sqlite")
    assert max(differences) <= 0


@pytest.mark.slow
def test_verdicts_of_a_convolutional_model_hardly_depend_on_the_batch(mnist, tmp_path):
    """On 200 points, at most one may be turned by float rounding (each batch size sums in another order)."""
    model, spec, images = mnist
    found = []
    for batch_size in (7, 64, 500):
        request = UnionRequest((Threat.parse("linf:0.3"),), "standard", seed=0, batch_size=batch_size)
        path = tmp_path / f"{batch_size}.sqlite"
        found.append(
            evaluate_union(model, spec, images, request, name="m", device=torch.device("cpu"), store_path=path)
        )
    for other in found[1:]:
        pairs = zip(found[0].points.robust["linf"], other.points.robust["linf"], strict=True)
        assert sum(first != second for first, second in pairs) <= 1

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from intermediate_case import request

from robustctl import checkpoint, data, losses
from robustctl.architectures import Classifier, build
from robustctl.data import ImageData
from robustctl.errors import RequestError, RunError
from robustctl.intermediate import evaluate as evaluation
from robustctl.intermediate.evaluate import evaluate_intermediate
from robustctl.intermediate.request import IntermediateRequest
from robustctl.intermediate.results import IntermediateResult, read
from robustctl.sampling.perturbation import Perturbation
from robustctl.spec import Architecture, ModelSpec
from robustctl.threats import Threat


@pytest.fixture
def model() -> Classifier:
    """A linear classifier of 1x8x8 images whose loss depends on every pixel; ``conv_spec`` has its shape."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = torch.nn.Linear(64, 10)
    with torch.no_grad():
        linear.weight *= 5
    return Classifier(torch.nn.Sequential(torch.nn.Flatten(), linear), None).eval()


@pytest.fixture
def images(model: Classifier) -> ImageData:
    """Six images; the model is wrong on every third."""
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        y = model(x).argmax(1)
    y[::3] = (y[::3] + 1) % 10
    return ImageData(x=x, y=y, n_classes=10, source="noise", split="test", indices=torch.arange(100, 106))


@pytest.fixture
def evaluate(model: Classifier, conv_spec: ModelSpec, images: ImageData, tmp_path: Path):
    def evaluate(asked: IntermediateRequest, data: ImageData = images, store: str = "a.sqlite") -> IntermediateResult:
        return evaluate_intermediate(
            model, conv_spec, data, asked, name="tiny", device=torch.device("cpu"), store_path=tmp_path / store
        )

    return evaluate


def by_name(result: IntermediateResult) -> dict[str, float]:
    return {one.name: one.value for one in result.estimates}


@pytest.fixture
def stopped_and_continued(evaluate, monkeypatch):
    """Evaluate, stop in the second batch and go on: the result, and the arguments of each batch that was begun."""

    def run(asked: IntermediateRequest):
        inner, calls = evaluation._measure, []

        def fails_later(*arguments):
            calls.append(arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return inner(*arguments)

        monkeypatch.setattr(evaluation, "_measure", fails_later)
        with pytest.raises(KeyboardInterrupt):
            evaluate(asked, store="b.sqlite")
        return evaluate(asked, store="b.sqlite"), calls

    return run


def test_q_1_is_the_mean_loss_over_perturbations(evaluate, model, images) -> None:
    result = evaluate(request())
    noise = torch.rand(4000, 1, 8, 8, generator=torch.Generator().manual_seed(5)) * 0.2 - 0.1
    with torch.no_grad():
        mean = sum(
            losses.ce(model((x + noise).clamp(0, 1)), y.repeat(4000)).mean().item()
            for x, y in zip(images.x, images.y, strict=True)
        ) / len(images)
    # Clamping is not the uniform law on the cut box, but nearly so in the middle of it.
    for one in result.estimates:
        if one.q == 1:
            assert one.ci95_sampling[0] <= mean <= one.ci95_sampling[1]
            assert one.value == pytest.approx(mean, rel=0.2)


def test_path_sampling_climbs_with_q_towards_the_attack(evaluate) -> None:
    result = evaluate(request())
    values = [one.value for one in result.curve("path")]
    assert result.adversarial_loss is not None
    assert result.clean_loss.value < values[0] + 0.1
    assert values == sorted(values)
    assert values[-1] <= result.adversarial_loss.value
    assert values[-1] > by_name(result)["mc q=100"]
    assert not [flag for flag in result.flags if flag.startswith(("above", "decreasing"))]


def test_cost_is_samples_times_leapfrog_and_a_burn_in(evaluate) -> None:
    result = evaluate(request())
    path = result.curve("path")[0]
    assert result.cost.recorded == path.samples * path.leapfrog
    assert 80 <= path.samples <= 120
    assert result.cost.burn_in > 0
    assert result.cost.attacks >= evaluation.PGD_STEPS + evaluation.APGD_STEPS


def test_result_survives_its_file(evaluate, tmp_path) -> None:
    result = evaluate(request())
    result.write(tmp_path / "result.json")
    assert read(tmp_path / "result.json") == result


def test_a_stopped_evaluation_continues_and_ends_alike(evaluate, stopped_and_continued) -> None:
    whole = evaluate(request(batch_size=24))
    continued, calls = stopped_and_continued(request(batch_size=24))
    assert [len(arguments[2]) for arguments in calls] == [3, 3, 3], "the first batch was kept, the second done again"
    assert continued.estimates == whole.estimates
    assert continued.probacc == whole.probacc


def test_values_do_not_depend_on_the_batch_size(evaluate) -> None:
    asked = request(qs=(1.0, 10.0))
    small = evaluate(dataclasses.replace(asked, batch_size=16))
    large = evaluate(dataclasses.replace(asked, batch_size=500), store="b.sqlite")
    # Seeds are per image, so only float rounding differs; chains amplify it, which Monte Carlo does not.
    for one, other in zip(small.estimates, large.estimates, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-4 if one.estimator == "mc" else 0.1)


def test_another_request_does_not_reuse_the_store(evaluate) -> None:
    evaluate(request(estimator="mc"))
    with pytest.raises(RunError, match="differs in qs"):
        evaluate(request(estimator="mc", qs=(1.0, 2.0)))


def test_monte_carlo_alone_takes_no_gradient_beyond_the_attacks(evaluate) -> None:
    result = evaluate(request(estimator="mc"))
    assert {one.estimator for one in result.estimates} == {"mc"}
    assert result.cost.recorded == result.cost.burn_in == 0


def test_monte_carlo_at_large_q_is_flagged(evaluate) -> None:
    result = evaluate(request("linf:0.5", qs=(1.0, 1000.0)))
    assert any(flag.startswith("mc q=1000") for flag in result.flags)


def test_thesis_grid_says_that_it_is_biased(evaluate) -> None:
    result = evaluate(request(grid="thesis", qs=(10.0,)))
    assert any(flag.startswith("thesis grid") for flag in result.flags)
    assert result.curve("path")[0].lag is None
    assert result.cost.recorded == 120 * 2


def test_importance_sampling_stands_beside_its_bound_and_below_the_attack(evaluate) -> None:
    result = evaluate(request(estimator="all", samples=240, most_samples=240))
    assert result.adversarial_loss is not None
    for one, path in zip(result.curve("ais"), result.curve("path"), strict=True):
        assert one.bound is not None
        assert one.bound < one.value < result.adversarial_loss.value
        assert one.value == pytest.approx(path.value, rel=0.2)
    bounds = [one.bound for one in result.curve("ais")]
    assert bounds == sorted(bounds)
    assert {one.estimator for one in evaluate(request(estimator="ais"), store="b.sqlite").estimates} == {"ais"}


def test_chains_that_were_too_few_go_on_and_resume_alike(evaluate, stopped_and_continued) -> None:
    asked = request(estimator="all", most_samples=600, batch_size=24)
    whole = evaluate(asked)
    longest = max(one for estimate in whole.curve("ais") for one in estimate.samples_images)
    assert longest > 400, "some image needed the longer run"
    continued, _ = stopped_and_continued(asked)
    assert continued.estimates == whole.estimates
    assert continued.cost == whole.cost


@pytest.mark.parametrize("distribution", ["l2:0.4", "gaussian:0.1", "spatial"])
def test_every_distribution_is_measured(evaluate, distribution) -> None:
    ball = Threat.parse("l2:0.5") if distribution.startswith("gaussian") else Perturbation.parse(distribution).threat
    result = evaluate(request(distribution, qs=(1.0, 100.0), samples=80, most_samples=80, ball=ball, estimator="all"))
    values = [one.value for one in result.curve("path")]
    assert values == sorted(values)
    assert values[0] == pytest.approx(by_name(result)["mc q=1"], rel=0.3)
    assert by_name(result)["ais q=1"] == pytest.approx(by_name(result)["mc q=1"], rel=0.3)
    assert result.adversarial_loss is not None
    assert (
        result.adversarial_loss.ball
        == {"l2:0.4": "l2:0.4", "gaussian:0.1": "l2:0.5", "spatial": "samples"}[distribution]
    )
    assert result.distribution.eps == (0.4 if distribution == "l2:0.4" else None)
    assert result.distribution.sigma == (0.1 if distribution == "gaussian:0.1" else None)


def test_probacc_counts_images_right_often_enough(evaluate, images) -> None:
    result = evaluate(request("linf:0.001", estimator="mc", rhos=(0.5, 0.01)))
    # So small a perturbation changes no prediction: four of six images are right, always.
    assert [one.n_correct for one in result.probacc] == [4, 4]
    assert result.random.acc == pytest.approx(4 / 6)
    assert result.clean.n_correct == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qs": (0.5,)}, r"--intermediate-q 0.5: q must be at least 1"),
        ({"qs": (math.inf,)}, r"--intermediate-q inf"),
        ({"qs": (math.nan,)}, r"--intermediate-q nan"),
        ({"rhos": (1.0,)}, r"--probacc 1: rho must lie between 0 and 1"),
        ({"rhos": (0.0,)}, r"--probacc 0"),
        ({"samples": 1}, r"--samples 1: at least 2"),
        ({"most_samples": 119}, r"--most-samples 119: at least --samples, 120"),
        ({"samples": 6, "estimator": "ais"}, r"samples 6 are too few"),
        ({"samples": 12}, r"samples 12 are too few"),
        ({"leapfrog": 0}, r"--leapfrog 0: at least 1"),
        ({"chains": 0}, r"--chains 0: at least 2"),
        ({"chains": 1}, r"--chains 1: at least 2"),
        ({"samples": 6, "grid": "thesis"}, r"samples 6 are too few"),
    ],
)
def test_values_out_of_range_are_refused(evaluate, changes, message) -> None:
    with pytest.raises(RequestError, match=message):
        evaluate(request(**changes))


def test_a_distribution_that_the_images_cannot_have_is_refused(evaluate) -> None:
    with pytest.raises(RequestError, match="did you mean linf:8/255"):
        evaluate(request("linf:8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weights", "architecture", "shape", "source", "eps"),
    [
        ("fast_mnist_pgd.pth", {"name": "kw-small"}, (1, 28, 28), "mnist-part", "0.3"),
        (
            "cifar10-wrn10-1-linf.safetensors",
            {"name": "wide-resnet", "args": {"depth": 10, "width": 1}},
            (3, 32, 32),
            "cifar10-jpeg",
            "8/255",
        ),
    ],
)
def test_a_robust_model_climbs_towards_the_attack(
    shared: Path, tmp_path: Path, weights, architecture, shape, source, eps
) -> None:
    spec = ModelSpec(
        architecture=Architecture(**architecture), input_shape=shape, n_classes=10, dataset=source.split("-")[0]
    )
    model = build(spec).eval()
    path = shared / "models" / weights
    tensors = (
        torch.load(path, weights_only=True, map_location="cpu")
        if path.suffix == ".pth"
        else checkpoint.read_tensors(path)
    )
    checkpoint.load_weights(model, tensors, weights)
    images = data.load(str(shared / "data" / source), "test", 5)
    asked = request(
        f"linf:{eps}", qs=(1.0, 10.0, 100.0, 1000.0), samples=320, most_samples=320, leapfrog=10, batch_size=250
    )
    result = evaluate_intermediate(
        model, spec, images, asked, name="mnist", device=torch.device("cpu"), store_path=tmp_path / "s.sqlite"
    )
    path = result.curve("path")
    assert result.adversarial_loss is not None
    assert path[0].ci95_sampling[0] <= by_name(result)["mc q=1"] <= path[0].ci95_sampling[1]
    assert path[0].value < path[3].value
    assert by_name(result)["mc q=1000"] < path[3].ci95_sampling[1]
    assert path[3].ci95_sampling[0] <= result.adversarial_loss.value
    assert not [flag for flag in result.flags if flag.startswith(("above", "decreasing"))]

"""Verdicts that hang on float rounding are shown and are no fault."""

from collections.abc import Iterator

import torch

from robustctl.architectures import Classifier
from robustctl.checkpoint import weights_sha256
from robustctl.data import ImageData
from robustctl.evaluation.verification import verify
from robustctl.evaluation.witnesses import Batch, Origin
from robustctl.results.union import AttackInfo, Points, UnionResult, summarize
from robustctl.results.verification import Verification
from robustctl.spec import Architecture, ModelSpec
from robustctl.threats import Norm, Threat

SPEC = ModelSpec(architecture=Architecture(name="made"), input_shape=(1, 1, 1), n_classes=2, dataset="made")


class Step(torch.nn.Module):
    """Class 0 above one half, class 1 below: the margin of label 0 is 2 (0.5 - x)."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.cat([x.flatten(1) - 0.5, 0.5 - x.flatten(1)], dim=1)


class Given:
    """One witness for each of the first points."""

    origin: Origin | None = None

    def __init__(self, pixels: list[float]) -> None:
        self.pixels = pixels

    def indices(self, norm: Norm) -> list[int]:
        return list(range(len(self.pixels)))

    def batches(self, threat: Threat, data: ImageData) -> Iterator[Batch]:
        if self.pixels:
            yield self.indices(threat.norm), torch.tensor(self.pixels).view(-1, 1, 1, 1)


def claim(model: Classifier, data: ImageData, robust: list[int]) -> UnionResult:
    n = len(robust)
    points = Points(index=list(range(n)), label=[0] * n, clean=[1] * n, robust={"linf": robust})
    return UnionResult(
        model="made",
        weights_sha256=weights_sha256(model),
        data=data.info,
        **summarize(points, [Threat.of("linf", "0.2")], {}, False),
        attack=AttackInfo(name="fast", protocol="made", seed=0),
        flags=["estimate: the fast protocol is weak; its accuracies are too high"],
        seconds=1.0,
        device="cpu",
        versions={},
        points=points,
    )


def points_at(pixel: float, n: int) -> ImageData:
    """Images of one pixel, all of class 0."""
    return ImageData(
        torch.full((n, 1, 1, 1), pixel), torch.zeros(n, dtype=torch.int64), 2, "made", "all", torch.arange(n)
    )


def checked(pixels: list[float], robust: list[int], sample: int = 2, scale: float = 1.0) -> Verification:
    """A claim about points at 0.6, of which an attack with radius 0.2 breaks all, with witnesses of the first ones.

    The logits are multiplied by ``scale``.
    """
    model, n = Classifier(Step(), None), len(robust)
    torch.nn.init.constant_(model.net.scale, scale)
    data = points_at(0.6, n)
    made, given = claim(model, data, robust), Given(pixels)
    return verify(model, SPEC, data, made, given, name="made", claim="made", sample=sample, seed=0)


def test_a_witness_within_rounding_of_the_boundary_is_a_tie_and_no_fault() -> None:
    one = checked([0.45, 0.500001], [0, 0, 1])
    assert one.figures["linf"].ties == 1
    assert one.figures["linf"].proven == one.figures["linf"].claimed
    assert not [finding for finding in one.findings if "withstands" in finding.text]


def test_a_witness_beyond_rounding_is_none() -> None:
    one = checked([0.45, 0.51], [0, 0, 1])
    assert one.figures["linf"].ties == 0
    assert ("stronger than claimed", (1,)) in [(finding.verdict, finding.points) for finding in one.findings]


def test_only_a_claim_of_a_random_model_says_how_many_passes_judged() -> None:
    def notes(one: Verification) -> list[str]:
        return [note for note in one.notes if "passes" in note]

    assert notes(checked([0.45], [0, 1])) == []
    model, data = Classifier(Step(), None), points_at(0.6, 2)
    random = claim(model, data, [0, 1])
    random = random.model_copy(update={"attack": random.attack.model_copy(update={"passes": 21, "draws": 4})})
    said = notes(verify(model, SPEC, data, random, Given([0.45]), name="made", claim="made", sample=2, seed=0))
    assert said == ["the model is random: each point is judged by 21 passes, and some may differ"]


def test_logits_so_small_that_everything_is_a_tie_prove_nothing() -> None:
    """With a negative scale all images are wrong, by 2e-9; the claim says that all are right and robust."""
    one = checked([], [1] * 40, scale=-1e-8)
    assert one.figures["clean"].ties == 40
    assert one.verdict != "confirmed"
    told = [finding.text for finding in one.findings if finding.verdict == "cannot be checked"]
    assert any(text.startswith("40 of 40 verdicts without an attack are float ties") for text in told)


def test_survivors_that_fall_refute_a_claim_of_many_points_and_not_one_of_few() -> None:
    few, many = checked([0.45], [0, 1, 1]), checked([0.45], [0] + [1] * 39)
    assert [len(one.survivors["linf"].fell) for one in (few, many)] == [2, 2]
    assert few.verdict == "confirmed" and "within the claim's own interval" in few.notes[0]
    assert many.verdict == "not reproduced" and many.findings[0].points == tuple(many.survivors["linf"].fell)

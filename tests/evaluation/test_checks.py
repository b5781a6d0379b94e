import pytest
import torch
from torch import nn

from robustctl.architectures import Classifier, Normalize
from robustctl.errors import RequestError
from robustctl.evaluation import checks
from robustctl.evaluation.checks import KnownAccuracy
from robustctl.oracle import Oracle
from robustctl.spec import Normalization


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.randn(len(x), self.out_features)


class Centred(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Rounded(nn.Linear):
    def forward(self, x):
        return super().forward((x * 16).round() / 16)


class Blind(nn.Linear):
    def forward(self, x):
        return super().forward(x.detach())


def model_of(*layers):
    torch.manual_seed(3)
    return Classifier(nn.Sequential(nn.Flatten(), *layers), None).eval()


def test_a_sound_model_raises_no_flag(linear, linear_data):
    assert checks.model_flags(linear, linear_data, 5) == []
    assert checks.gradient_flags(linear, linear_data, range(10)) == []


def test_pixels_outside_the_unit_interval_are_refused(linear_data):
    linear_data.x.mul_(255)
    with pytest.raises(RequestError, match="Normalisation belongs into the model"):
        checks.require_pixels(linear_data)


def test_nan_pixels_are_refused(linear_data):
    linear_data.x[0] = torch.nan
    with pytest.raises(RequestError, match="nan"):
        checks.require_pixels(linear_data)


def test_probabilities_are_refused(linear_data):
    with pytest.raises(RequestError, match="probabilities"):
        checks.model_flags(model_of(nn.Linear(36, 5), nn.Softmax(1)), linear_data, 5)


def test_another_number_of_logits_is_refused(linear, linear_data):
    with pytest.raises(RequestError, match=r"\[40, 7\]"):
        checks.model_flags(linear, linear_data, 7)


def test_logits_that_are_not_finite_are_refused(linear, linear_data):
    with torch.no_grad():
        linear.net[1].bias[2] = torch.inf
    with pytest.raises(RequestError, match="NaN or infinite"):
        checks.model_flags(linear, linear_data, 5)


def test_a_model_that_writes_into_its_images_is_refused_and_the_images_stay(linear_data):
    class Halved(nn.Linear):
        def forward(self, x):
            return super().forward(x.mul_(0.5).flatten(1))

    before = linear_data.x.clone()
    with pytest.raises(RequestError, match="writes into the images .* x = x.clone"):
        checks.model_flags(Classifier(Halved(36, 5), None).eval(), linear_data, 5)
    assert torch.equal(linear_data.x, before)


def test_a_model_that_looks_at_its_batch_is_refused(linear_data):
    model = model_of(nn.Linear(36, 5), Centred())
    with pytest.raises(RequestError, match="alone"):
        checks.model_flags(model, linear_data, 5)


def test_a_random_forward_is_flagged(linear_data):
    assert checks.model_flags(model_of(Noisy(36, 5)), linear_data, 5)[0].startswith("random-forward")


def test_a_killed_gradient_is_flagged(linear_data):
    assert checks.gradient_flags(model_of(Rounded(36, 5)), linear_data, range(20))[0].startswith("zero-gradient")


def test_a_model_without_any_gradient_is_flagged(linear_data):
    flag = checks.gradient_flags(model_of(Blind(36, 5)), linear_data, range(20))[0]
    assert flag.startswith("zero-gradient: the model gives no gradient at all")


def test_flat_points_are_those_whose_gradient_hardly_changes_the_margin(linear, linear_data):
    class Faded(nn.Linear):
        """Keeps a share of the gradient: a third of it at dark images, a billionth at the others."""

        def forward(self, x):
            share = torch.where(x.mean(1, keepdim=True) < 0.5, 1 / 3, 1e-9)
            return super().forward(share * x + (1 - share) * x.detach())

    faded = model_of(Faded(36, 5))
    faded.load_state_dict(linear.state_dict())
    with Oracle(faded) as oracle:
        found = checks.flat_points(oracle, linear_data, range(len(linear_data)))
        dark = {i for i, x in enumerate(linear_data.x.flatten(1)) if x.mean() < 0.5}
        assert dark and found == set(range(len(linear_data))) - dark
        assert checks.flat_points(oracle, linear_data, sorted(dark)) == set()
    with Oracle(linear) as oracle:
        assert checks.flat_points(oracle, linear_data, range(20)) == set()


def test_a_killed_gradient_is_one_nevertheless(linear, linear_data):
    models = (linear, model_of(Rounded(36, 5)), model_of(Blind(36, 5)))
    found = []
    for model in models:
        with Oracle(model) as oracle:
            found.append(checks.has_gradient(oracle, linear_data))
    assert found == [True, True, False]


CORRECT = [True] * 180 + [False] * 20


def test_a_clean_accuracy_within_its_interval_passes(linear_data):
    for value in (0.86, 0.90, 0.94):
        assert checks.clean_flags(CORRECT, linear_data, KnownAccuracy(value, 10_000, "made", "test"), False) == []
    assert checks.clean_flags(CORRECT, linear_data, None, False) == []


@pytest.mark.parametrize("source", ["made", "elsewhere"])
def test_a_clean_accuracy_far_off_is_refused_and_normalisation_named(linear_data, source):
    with pytest.raises(RequestError, match="normalisation is missing or applied twice"):
        checks.clean_flags([True] * 90 + [False] * 110, linear_data, KnownAccuracy(0.9, 10_000, source, "test"), False)


def test_a_moderate_difference_on_other_data_is_only_flagged(linear_data):
    flags = checks.clean_flags(
        [True] * 150 + [False] * 50, linear_data, KnownAccuracy(0.9, 10_000, "elsewhere", "test"), False
    )
    assert flags[0].startswith("clean-accuracy: clean accuracy is 75.0 %")


def test_force_turns_the_refusal_into_a_flag(linear_data):
    assert checks.clean_flags([False] * 200, linear_data, KnownAccuracy(0.9, None, "made", "test"), True)


def test_missing_and_doubled_normalisation_move_the_clean_accuracy_of_a_normalised_model(linear):
    """The guard's premise, on a model that was trained behind its normalisation."""
    normalization = Normalization(mean=[0.5], std=[0.1])
    x = torch.rand(400, 1, 6, 6, generator=torch.Generator().manual_seed(5)) * 0.2 + 0.4
    layer = Normalize(normalization)
    with torch.no_grad():
        y = linear(layer(x)).argmax(1)
        missing, doubled = (float((linear(images).argmax(1) == y).float().mean()) for images in (x, layer(layer(x))))
    assert missing < 0.9
    assert doubled < 0.97

"""The faster precision is taken by measurement, and an evaluation that was begun keeps its own."""

import dataclasses
import json

import pytest
import torch

from robustctl.data import ImageData
from robustctl.evaluation import faster, union
from robustctl.evaluation.union_request import UnionRequest
from robustctl.processes import World
from robustctl.threats import Threat
from robustctl.trusted_copy import trusted_copy

REQUEST = UnionRequest((Threat.parse("linf:0.04"),), "fast", seed=0, batch_size=50, precision="bf16", measure=True)


@pytest.mark.parametrize(("bf16", "chosen"), [(1.0, "bf16"), (3.0, "float32")])
def test_the_precision_that_took_less_time_is_taken_and_recorded(
    linear, linear_spec, linear_data, tmp_path, monkeypatch, capsys, bf16, chosen
):
    seconds = {"bf16": bf16, "float32": 2.0}
    monkeypatch.setattr(faster, "MEASURED", len(linear_data))
    monkeypatch.setattr(faster, "_timed", lambda model, data, network, size: seconds[network.precision])
    found = union.evaluate_union(
        linear,
        linear_spec,
        linear_data,
        REQUEST,
        name="m",
        device=torch.device("cpu"),
        store_path=tmp_path / "s.sqlite",
    )
    assert found.attack.precision == chosen
    assert found.attack.seconds_per_image == seconds
    assert json.loads(found.model_dump_json())["attack"]["seconds_per_image"] == seconds
    assert "ms per gradient" in capsys.readouterr().err
    seconds["bf16"] = 5.0 - bf16  # were it measured again, the other would be taken
    again = union.evaluate_union(
        linear,
        linear_spec,
        linear_data,
        REQUEST,
        name="m",
        device=torch.device("cpu"),
        store_path=tmp_path / "s.sqlite",
    )
    assert (again.attack.precision, again.points) == (chosen, found.points)
    assert again.attack.seconds_per_image is None


def test_nothing_is_measured_where_the_precision_is_said(linear, linear_data, monkeypatch):
    monkeypatch.setattr(faster, "_timed", lambda *args: pytest.fail("measured"))
    for precision in ("bf16", "float32"):
        said = dataclasses.replace(REQUEST, precision=precision, measure=False)
        assert union.confirmed(linear, linear_data, said)[0].precision == precision


def test_few_images_are_attacked_in_float32_without_measuring_but_verdicts_in_bf16_still_count(
    linear, linear_data, monkeypatch
):
    monkeypatch.setattr(faster, "_timed", lambda *args: pytest.fail("measured"))
    assert len(linear_data) < faster.MEASURED
    assert union.confirmed(linear, linear_data, REQUEST)[0].precision == "float32"
    resumed, _ = union.confirmed(linear, linear_data, REQUEST, lambda one: one.precision == "bf16")
    assert resumed.precision == "bf16"


def test_each_network_is_timed_on_as_many_images_as_the_time_of_one_batch_allows(linear, linear_data, monkeypatch):
    sizes = []

    def timed(model, data, network, size):
        sizes.append(size)
        return 0.002 if network.precision == "float32" else 0.001

    monkeypatch.setattr(faster, "_timed", timed)
    monkeypatch.setattr(faster, "MEASURED", 1)
    found, _ = union.confirmed(linear, linear_data, REQUEST)
    assert found.seconds_per_image == {"bf16": 0.001, "float32": 0.002}
    assert sizes == [8, 8, 20, 20, 20, 20]


CONV = dataclasses.replace(REQUEST, precision="float32", batch_size=10, other_sizes=(5, 20))


@pytest.fixture
def images(conv_model):
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return ImageData(x, conv_model(x).argmax(1), 10, "made", "test", torch.arange(40))


def _measured(monkeypatch, channels_first=1.0, by_size=None):
    """Pretend times: of torch's own order by the usual one's, and by batch size."""
    monkeypatch.setattr(faster, "MEASURED", 1)
    sizes = {8: 1e-4, 10: 1e-4, **(by_size or {})}

    def timed(model, data, network, size):
        return sizes[size] * (1.0 if network.channels_last else channels_first)

    monkeypatch.setattr(faster, "_timed", timed)


@pytest.mark.parametrize(("share", "channels_last"), [(0.5, False), (0.9, True), (1.5, True)])
def test_torchs_own_order_is_taken_only_where_it_is_clearly_faster(
    conv_model, images, monkeypatch, share, channels_last
):
    _measured(monkeypatch, share, {5: 1e-4, 20: 1e-4})
    found, network = union.confirmed(conv_model, images, CONV)
    assert (found.channels_last, network.channels_last) == (channels_last, channels_last)
    assert found.seconds_per_image["float32, channels first"] == pytest.approx(share * 1e-4)


@pytest.mark.parametrize(
    ("by_size", "chosen"), [({5: 2e-4, 20: 0.5e-4}, 20), ({5: 0.5e-4, 20: 2e-4}, 5), ({5: 0.9e-4, 20: 0.9e-4}, 10)]
)
def test_another_batch_size_is_taken_only_where_it_is_clearly_faster(conv_model, images, monkeypatch, by_size, chosen):
    _measured(monkeypatch, 1.0, by_size)
    assert union.confirmed(conv_model, images, CONV)[0].batch_size == chosen
    said = dataclasses.replace(CONV, other_sizes=())
    assert union.confirmed(conv_model, images, said)[0].batch_size == 10


def test_no_size_is_timed_that_is_larger_than_the_data_or_slower_than_the_time_allows(conv_model, images, monkeypatch):
    _measured(monkeypatch, 1.0, {5: 0.9e-4})
    few = dataclasses.replace(CONV, other_sizes=(5, 100))
    assert "float32, 5 a batch" in union.confirmed(conv_model, images, few)[0].seconds_per_image
    _measured(monkeypatch, 1.0, {8: 0.01, 10: 0.01})
    assert set(union.confirmed(conv_model, images, CONV)[0].seconds_per_image) == {"float32", "float32, channels first"}


def test_an_evaluation_that_was_begun_in_torchs_own_order_goes_on_in_it(
    conv_model, conv_spec, images, monkeypatch, tmp_path
):
    def evaluate():
        return union.evaluate_union(
            conv_model, conv_spec, images, CONV, name="m", device=torch.device("cpu"), store_path=tmp_path / "s.sqlite"
        )

    _measured(monkeypatch, 0.5, {5: 1e-4, 20: 0.5e-4})
    begun = evaluate()
    assert (begun.attack.channels_last, begun.attack.batch_size) == (False, 20)
    monkeypatch.setattr(faster, "_timed", lambda *args: pytest.fail("measured"))
    again = evaluate()
    assert (again.attack.channels_last, again.points) == (False, begun.points)


def test_the_copys_order_changes_its_logits_by_rounding_alone(conv_model, images):
    x = images.images(range(8))
    networks = [trusted_copy(conv_model, "float32", x, channels_last=order) for order in (True, False)]
    assert [network.channels_last for network in networks] == [True, False]
    one, other = (network.network(x) for network in networks)
    assert torch.allclose(one, other, atol=1e-5)


def test_a_process_alone_agrees_with_itself():
    assert World().broadcast("bf16") == "bf16"

"""The faster precision is taken by measurement, and an evaluation that was begun keeps its own."""

import dataclasses
import json

import pytest
import torch

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
    monkeypatch.setattr(union, "MEASURED", len(linear_data))
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
    assert len(linear_data) < union.MEASURED
    assert union.confirmed(linear, linear_data, REQUEST)[0].precision == "float32"
    resumed, _ = union.confirmed(linear, linear_data, REQUEST, lambda one: one.precision == "bf16")
    assert resumed.precision == "bf16"


def test_each_network_is_timed_on_as_many_images_as_a_tenth_of_a_second_allows(linear, linear_data, monkeypatch):
    sizes = []

    def timed(model, data, network, size):
        sizes.append(size)
        return 0.005 if network.precision == "float32" else 0.004

    monkeypatch.setattr(faster, "_timed", timed)
    networks = [trusted_copy(linear, precision, linear_data.images(range(4))) for precision in ("bf16", "float32")]
    assert faster.seconds_per_image(linear, linear_data, networks, 50) == {"bf16": 0.004, "float32": 0.005}
    assert sizes == [8, 8, 20, 20, 20, 20]


def test_a_process_alone_agrees_with_itself():
    assert World().broadcast("bf16") == "bf16"

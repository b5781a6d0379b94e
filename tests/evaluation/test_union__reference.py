"""The reference attack runs through the same evaluation and the same store."""

import pytest
import torch
from torch import nn
from union_case import THREATS, evaluate

from robustctl import trusted_copy
from robustctl.errors import RequestError, RunError
from robustctl.evaluation import identity, reference
from robustctl.evaluation.store import Store
from robustctl.evaluation.union_request import UnionRequest


def test_the_reference_attack_goes_through_the_same_store(linear, linear_spec, linear_data, tmp_path):
    request = UnionRequest(THREATS[2:], "autoattack", seed=0, batch_size=8)
    state = torch.random.get_rng_state()
    data = linear_data.select(range(12))
    whole = evaluate(linear, linear_spec, data, request, tmp_path / "a.sqlite")
    assert torch.equal(state, torch.random.get_rng_state())
    assert whole.attack.protocol.startswith("l1: pyautoattack")
    assert whole.norms["l1"].acc < whole.clean.acc
    # A store that stopped after the first attack ends with the same verdicts.
    key = identity.evaluation_key(linear, linear_spec, data, request)
    with Store(tmp_path / "a.sqlite", key) as store:
        store._connection.execute("DELETE FROM verdicts WHERE family != 'apgd-ce'")
    assert evaluate(linear, linear_spec, data, request, tmp_path / "a.sqlite").points == whole.points


def test_the_reference_refuses_three_classes_in_words(linear_data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(RequestError, match="at least 4 classes"):
        list(reference.run(model, linear_data, [0], set(), THREATS[0], "apgd-ce", seed=0, batch_size=1))


def test_the_reference_out_of_memory_names_a_smaller_batch(linear, linear_data, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(reference.AutoAttack, "run_standard_evaluation", full)
    with pytest.raises(RunError, match="--batch-size 4"):
        list(reference.run(linear, linear_data, range(9), set(), THREATS[0], "apgd-ce", seed=0, batch_size=9))


def test_the_reference_runs_the_float32_model_and_nothing_else(linear, linear_spec, linear_data, tmp_path, monkeypatch):
    def refuse(*args):
        raise AssertionError("a fast copy was made")

    monkeypatch.setattr(trusted_copy, "FastCopy", refuse)
    monkeypatch.setattr(reference, "run", lambda model, data, meets, *more, **most: iter(()))
    request = UnionRequest(THREATS[:1], "autoattack", seed=0, batch_size=8, precision="bf16")
    found = evaluate(linear, linear_spec, linear_data.select(range(6)), request, tmp_path / "a.sqlite")
    assert found.attack.precision == "float32"

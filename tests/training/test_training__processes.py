"""Two processes train as one does by every method; and an optimiser's state that they share out has the bits of a whole
one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes

from robustctl.architectures import build
from robustctl.processes import World
from robustctl.training import state_file

TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    ran = subprocess.run([*TWO, two_processes.__file__, str(directory)], capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    return directory


def same(a: object, b: object) -> bool:
    """Whether two states hold the same bits."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b


@pytest.mark.parametrize("case", two_processes.CASES)
def test_every_method_reaches_the_weights_of_one_process(case: str, runs: Path, tmp_path: Path) -> None:
    one = two_processes.weights(case, tmp_path, World())
    first, second = (torch.load(runs / f"{case}-{rank}.pt") for rank in range(2))
    torch.manual_seed(0)
    start = build(two_processes.fixtures.SPEC).state_dict()
    assert same(first, second)
    assert distance(one, first) <= (0.02 if case == "bf16" else 1e-5) * distance(one, start)


@pytest.mark.slow
def test_an_image_tower_reaches_the_weights_of_one_process(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="CLIP is an extra")
    ran = subprocess.run([*TWO, two_processes.__file__, str(tmp_path), "clip"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for case, method in two_processes.CLIP.items():
        one = two_processes.clip_weights(method, tmp_path / "one" / case, World())
        first, second = (torch.load(tmp_path / f"{case}-{rank}.pt") for rank in range(2))
        start = {name: one[f"start.{name}"] for name in one if f"start.{name}" in one}
        assert same(first, second)
        moved = distance(start, {name: one[name] for name in start})
        assert moved > 0 and distance(one, first) <= 1e-4 * moved, case


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return sum(float((a[name].double() - b[name].double()).square().sum()) for name in a) ** 0.5


@pytest.mark.parametrize("case", two_processes.STATES)
def test_a_shared_out_state_has_the_bits_of_a_whole_one_after_a_stop_and_a_resumption(case: str, runs: Path) -> None:
    whole, shared = (state_file.load(runs / f"{case}-{name}") for name in ("whole", "shared"))
    assert whole is not None and shared is not None
    for part in ("at", "model", "average", "projection", "best"):
        assert same(whole[part], shared[part]), part
    for kind, optimizer in whole["optimizers"].items():
        assert same(optimizer["state"], shared["optimizers"][kind]["state"])
    assert all(whole["optimizers"][kind]["state"] for kind in (("natural", "method") if case == "sgd" else ("method",)))


@pytest.mark.parametrize("case", two_processes.STATES)
def test_a_shared_out_state_reaches_the_weights_of_one_process_which_may_go_on_with_it(
    case: str, runs: Path, tmp_path: Path
) -> None:
    one = two_processes.loop_of(case, tmp_path, World(), shard=True)
    one.run(two_processes.STEPS)
    loop = two_processes.loop_of(case, runs / f"{case}-shared", World(), shard=True)
    assert loop.position.step == two_processes.STEPS
    for a, b in zip(loop.model.parameters(), one.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    for loop_ in (loop, one):
        loop_.run(two_processes.STEPS + 2)
    for a, b in zip(loop.model.parameters(), one.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", two_processes.STATES)
def test_each_process_keeps_about_half_as_foretold(case: str, runs: Path) -> None:
    found = [json.loads((runs / f"{rank}.json").read_text())[case] for rank in range(2)]
    assert sum(one["held"] for one in found) == found[0]["foretold"]
    assert max(one["held"] for one in found) < 0.7 * found[0]["foretold"], "the largest tensor is not cut"

import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from robustctl import checkpoint
from robustctl.cli import main
from robustctl.intermediate import results

QUICK = ["--samples", "64", "--leapfrog", "1", "--distribution", "linf:0.1"]


@pytest.fixture
def model(conv_model, conv_spec, tmp_path: Path) -> Path:
    """A model directory, and six images beside it."""
    path = tmp_path / "model"
    path.mkdir()
    checkpoint.save_model(conv_model, conv_spec, path)
    x = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        np.savez(tmp_path / "images.npz", x=x.numpy(), y=conv_model(x).argmax(1).numpy())
    return path


@pytest.fixture
def call(monkeypatch, capsys):
    """The command line within this process: exit code, stdout, stderr."""

    def call(*parts: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["robustctl", "--quiet", *map(str, parts)])
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as stop:
            main()
        signal.signal(signal.SIGTERM, handler)
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call


def test_eval_intermediate_q_writes_a_table_and_a_result_that_can_be_plotted(call, model, tmp_path) -> None:
    result = tmp_path / "result.json"
    data = ["--data", tmp_path / "images.npz", "--split", "all"]
    code, out, err = call("eval", model, "--intermediate-q", "1,10", *QUICK, *data, "--json", result)
    assert code == 0, err
    assert "Z_PS, q=10" in out
    assert "ProbAcc(0.05)" in out
    read = results.read(result)
    assert read.data.n == 6
    assert [one.q for one in read.curve("path")] == [1, 10]

    code, again, _ = call("eval", model, "--intermediate-q", "10,1", *QUICK, *data, "--json", result)
    assert code == 0
    assert again.split("cost an image")[0] == out.split("cost an image")[0], "the store has it all"

    pytest.importorskip("matplotlib", reason="plots are an extra")
    code, _, err = call("plot", "q-curve", result, "-o", tmp_path / "curve.svg")
    assert code == 0, err
    assert (tmp_path / "curve.svg").stat().st_size > 5000


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["--intermediate-q", "0.5"], "--intermediate-q 0.5: q must be at least 1"),
        (["--intermediate-q", "one"], "--intermediate-q 'one' is not a list of numbers"),
        (["--intermediate-q", "10", "--probacc", "1.5"], "--probacc 1.5: rho must lie between 0 and 1"),
        (["--intermediate-q", "10", "--samples", "1"], "--samples 1: at least 2"),
        (["--intermediate-q", "10", "--chains", "1"], "chains 1: at least 2"),
        (["--intermediate-q", "10", "--estimator", "paths"], "Did you mean 'path'"),
        (["--intermediate-q", "10", "--grid", "even"], "unknown --grid 'even'"),
        (["--intermediate-q", "10", "--distribution", "linf:8"], "did you mean linf:8/255"),
        (["--intermediate-q", "10", "--distribution", "gauss:0.1"], "Did you mean 'gaussian'"),
    ],
)
def test_bad_values_of_intermediate_q_are_one_message_before_any_work(call, model, tmp_path, parts, message) -> None:
    code, out, err = call("eval", model, *parts, "--data", tmp_path / "images.npz")
    assert code == 2
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_bad_requests_of_a_plot_are_one_message(call, tmp_path) -> None:
    (tmp_path / "union.json").write_text('{"schema": "robustctl.eval/1"}')
    for parts, message in [
        ([tmp_path / "none.json", "-o", tmp_path / "a.png"], "no result file"),
        ([tmp_path / "union.json", "-o", tmp_path / "a.png"], "its schema is 'robustctl.eval/1'"),
        ([tmp_path / "union.json", "-o", tmp_path / "nowhere" / "a.png"], "there is no directory"),
        ([tmp_path / "union.json", "--label", "a", "--label", "b", "-o", tmp_path / "a.png"], "2 times for 1 results"),
    ]:
        code, _, err = call("plot", "q-curve", *parts)
        assert code == 2
        assert message in err

import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
import torch

from robustctl import runs
from robustctl.errors import RequestError
from robustctl.evaluation.store_tables import checksum
from robustctl.evaluation.union import require_protocol
from robustctl.results import curve as curves
from robustctl.results import suite as suites
from robustctl.results import union as results

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def command(conv_model, model_dir, tmp_path):
    """``robustctl eval`` on 12 points, without its launcher."""
    images, script = tmp_path / "images.npz", tmp_path / "main.py"
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        np.savez(images, x=x.numpy(), y=conv_model(x).argmax(1).numpy())
    script.write_text("from robustctl.cli import main\nmain()\n")
    return [script, "--quiet", "eval", model_dir, "--data", images]


@pytest.fixture
def evaluate(command, tmp_path):
    """Evaluate the union under a launcher; stdout and result."""
    result = tmp_path / "result.json"
    command = [*command, "--eps", "linf=0.15,l2=0.5", "--precision", "float32"]

    def evaluate(launcher, attack="fast"):
        done = subprocess.run(
            [*launcher, *command, "--attack", attack, "--json", result], capture_output=True, text=True, timeout=150
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, results.read(result)

    return evaluate


def test_two_processes_end_with_the_table_of_one_and_take_over_what_was_left_behind(evaluate):
    _, one = evaluate([sys.executable])
    (store,) = runs.root().glob("eval/model/*.sqlite")
    # As if a process had been killed before the merge, with a part of its verdicts.
    left_behind = store.with_suffix(".process1.sqlite")
    store.rename(left_behind)
    with closing(sqlite3.connect(left_behind)) as connection, connection:
        connection.execute("DELETE FROM verdicts WHERE position >= 5")
        # A mark on the first point's rows, each with the checksum that a row of these values has.
        for rowid, *row in connection.execute("SELECT rowid, * FROM verdicts WHERE position = 0").fetchall():
            marked = (*row[:5], 123.0, row[6])
            values = (123.0, checksum(*marked), rowid)
            connection.execute("UPDATE verdicts SET margin = ?, checksum = ? WHERE rowid = ?", values)
    output, two = evaluate(TORCHRUN)
    assert output.count("\nunion ") == 1  # one process reports
    differing = sum(first != second for first, second in zip(one.points.union(), two.points.union(), strict=True))
    assert differing <= one.float_ties
    assert not left_behind.exists()
    with closing(sqlite3.connect(store)) as connection:
        taken_over = connection.execute("SELECT DISTINCT margin FROM verdicts WHERE position = 0").fetchall()
    assert taken_over == [(123.0,)]


@pytest.mark.slow
def test_two_processes_take_the_steps_of_the_adaptive_protocol_as_one_does(evaluate):
    _, one = evaluate([sys.executable], "adaptive")
    (store,) = runs.root().glob("eval/model/*.sqlite")
    store.unlink()
    _, two = evaluate(TORCHRUN, "adaptive")
    assert two.points == one.points
    assert [(info.name, info.met, info.broken) for info in two.rounds] == [
        (info.name, info.met, info.broken) for info in one.rounds
    ]


def test_the_reference_attack_is_refused_under_torchrun(monkeypatch):
    require_protocol("autoattack", ["linf"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    require_protocol("standard", ["linf"])
    with pytest.raises(RequestError, match="run it in one process"):
        require_protocol("autoattack", ["linf"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["suite", "curve"])
def test_two_processes_end_a_suite_and_a_curve_as_one_does(kind, command, tmp_path):
    asked = {
        "suite": ["--threat", "elastic:1", "--threat", "l0:2", "--threat", "linf:0.1", "--threat", "contrast"],
        "curve": ["--curve", "--eps", "linf=0.1,l1=1,l0=2"],
    }[kind] + (["--attack", "fast"] if kind == "suite" else [])
    found = []
    for launcher, home in (([sys.executable], "one"), (TORCHRUN, "two")):
        result = tmp_path / f"{home}.json"
        environment = {**os.environ, "ROBUSTCTL_RUNS": str(tmp_path / home)}
        asked_here = [*launcher, *command, "-n", "9", "--json", result, *asked]
        done = subprocess.run(asked_here, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        assert not list((tmp_path / home).rglob("*.process*"))
        found.append((suites if kind == "suite" else curves).read(result))
    one, two = found
    if kind == "suite":
        assert one.points == two.points
        assert [member.by for member in one.members] == [member.by for member in two.members]
        return
    for norm, curve in one.norms.items():
        for first, second in zip(curve.distance, two.norms[norm].distance, strict=True):
            assert first == second if first is None or second is None else first == pytest.approx(second, rel=0.01)

"""Suites from the command line: figures follow from points, kills lose nothing, what is missing stops only itself."""

import inspect
import json
import subprocess
import sys
from operator import ge
from pathlib import Path

import numpy as np
import pytest
from command import robust

from robustctl import corruptions
from robustctl.errors import RequestError
from robustctl.evaluation.store import Store
from robustctl.perturbations import base
from robustctl.results import suite as results
from robustctl.workflows.evaluate_suite import split_data

SUITE = """
threats: [elastic:0.5, l0:1, recolor:0.05, frame, linf:0.1, linf:0.2]
corruptions: [fog, contrast]
groups:
  some: [elastic:0.5, l0:1, fog]
  norms: [linf:0.1, linf:0.2]
"""


FEW = ("--threat", "elastic:0.5", "--threat", "recolor:0.1", "--threat", "contrast")


@pytest.fixture
def setting(tmp_path, monkeypatch) -> list[object]:
    """Arguments of an evaluation of the shipped model on a few images, all of which it gets right."""
    (tmp_path / "mine.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    return ["eval", "digits-linf", "--data", "digits", "-n", 12, "--attack", "fast"]


def evaluated(setting: list[object], *more: object) -> results.SuiteResult:
    assert robust(*setting, "--json", "out.json", *more) == 0
    return results.read(Path("out.json"))


def test_a_suite_reports_members_groups_and_corruptions(setting, capsys) -> None:
    result = evaluated(setting, "--suite", "mine.yaml")
    shown = capsys.readouterr()
    assert [member.threat for member in result.members][3:] == ["frame:1", "linf:0.1", "linf:0.2"]
    assert result.clean.n_correct == 12
    some = result.groups[0]
    columns = [result.points.of(name) for name in ("elastic:0.5", "l0:1", "fog")]
    assert some.union.n_correct == sum(map(min, *columns))
    assert some.worst_acc == min(sum(column) for column in columns) / 12
    assert some.mean.mean == pytest.approx(sum(map(sum, columns)) / 36)
    assert 0 < result.members[0].n_correct < 12 and 0 < result.members[1].n_correct < 12
    assert all(map(ge, result.points.robust["linf:0.1"], result.points.robust["linf:0.2"]))
    assert result.corruptions is not None and result.corruptions.mce == pytest.approx(1 - result.corruptions.mean.mean)
    for text in ("some: union", "fog, severities 1-5", "norms: worst", "broken by", "at most"):
        assert text in shown.out
    assert "at most about" in shown.err and "for corrupted images" in shown.err
    again = evaluated(setting, "--suite", "mine.yaml")
    assert again.points == result.points


def test_verdicts_do_not_depend_on_the_batch(setting, monkeypatch, tmp_path) -> None:
    first = evaluated(setting, *FEW)
    monkeypatch.setenv("ROBUSTCTL_RUNS", str(tmp_path / "other"))
    second = evaluated(setting, *FEW, "--batch-size", 5)
    assert first.points == second.points


def test_a_killed_suite_goes_on_and_ends_the_same(setting, monkeypatch, tmp_path) -> None:
    whole = evaluated(setting, *FEW)
    monkeypatch.setenv("ROBUSTCTL_RUNS", str(tmp_path / "other"))
    add, calls = Store.add, []

    def stop(self: Store, *arguments: object) -> None:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        add(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "add", stop)
    assert robust(*setting, *FEW, "--batch-size", 4) == 130
    monkeypatch.setattr(Store, "add", add)
    assert evaluated(setting, *FEW, "--batch-size", 4).points == whole.points


def test_a_larger_budget_keeps_what_a_smaller_one_broke(setting) -> None:
    small = evaluated(setting, "--threat", "recolor:0.2")
    assert small.members[0].n_correct < 12
    large = evaluated(setting, "--threat", "recolor:0.21")
    assert all(map(ge, small.points.of("recolor:0.2"), large.points.of("recolor:0.21")))
    assert large.members[0].by["earlier"] == 12 - small.members[0].n_correct


@pytest.mark.parametrize(("name", "code"), [("frame", base), ("contrast", corruptions)])
def test_changed_code_of_a_threat_takes_no_earlier_verdict(setting, monkeypatch, tmp_path, name, code) -> None:
    monkeypatch.setenv("ROBUSTCTL_RUNS", str(tmp_path / "runs"))
    evaluated(setting, "--threat", name)
    evaluated(setting, "--threat", name)
    assert len(list(tmp_path.rglob("threats/*.sqlite"))) == 1
    changed = tmp_path / "changed.py"
    changed.write_text("# changed")
    files = code.files
    monkeypatch.setattr(code, "files", lambda *name: [*files(*name), changed])
    evaluated(setting, "--threat", name)
    assert len(list(tmp_path.rglob("threats/*.sqlite"))) == 2


def test_every_kind_names_its_source_file() -> None:
    for name in base.names():
        assert base.files(name)[0].name == f"{name.replace('-', '_')}.py"
        assert Path(str(inspect.getsourcefile(type(base.find(name))))) in base.files(name)


def test_missing_files_of_corruptions_stop_only_themselves(setting, capsys, tmp_path) -> None:
    labels = np.asarray(evaluated(setting, "--threat", "contrast").points.label, np.uint8)
    folder = tmp_path / "cifar-c"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(labels, 5))
    np.save(folder / "brightness.npy", np.zeros((60, 8, 8, 1), np.uint8))
    setting[setting.index("digits")] = f"digits,cifar10-c={folder}"
    result = evaluated(setting, "--threat", "fog:99", "--threat", "brightness", "--threat", "contrast")
    assert [left.name for left in result.left_out] == ["contrast"] and "contrast.npy" in result.left_out[0].reason
    assert result.corruptions is not None and list(result.corruptions.sha256) == ["brightness"]
    assert "left out: contrast" in capsys.readouterr().out
    assert set(result.points.corrupted["brightness"][0]) == {
        0,
        1,
    }  # black images are right by label


def test_results_of_two_models_stand_side_by_side(setting, capsys) -> None:
    evaluated(setting, "--threat", "frame", "--threat", "contrast")
    Path("out.json").rename("first.json")
    evaluated(setting, "--threat", "frame", "--threat", "elastic:0.1")
    capsys.readouterr()
    assert robust("compare", "first.json", "out.json") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    frame = next(row for row in rows if row and row[0] == "frame:1")
    assert frame[1:4] == frame[4:7]
    assert next(row for row in rows if row and row[0] == "elastic:0.1")[1] == "-"
    evaluated(setting, "--threat", "frame", "-n", 3)
    assert robust("compare", "first.json", "out.json") == 2
    assert "other images" in capsys.readouterr().err


def test_the_page_shows_suites(setting, capsys) -> None:
    evaluated(setting, "--threat", "frame")
    assert robust("report", "out.json", "-o", "page.html") == 0
    page = Path("page.html").read_text()
    assert "<h1>Threats beyond the three norms</h1>" in page and "frame:1" in page
    capsys.readouterr()
    assert robust("report") == 0
    assert "frame:1" in capsys.readouterr().out


def test_a_result_that_was_edited_is_refused(setting) -> None:
    evaluated(setting, "--threat", "frame", "--threat", "contrast")
    content = json.loads(Path("out.json").read_text())
    for change in (
        lambda one: one["members"][0].update(acc=0.99),
        lambda one: one["corruptions"].update(mce=0.0),
        lambda one: one["points"]["clean"].pop(),
    ):
        edited = json.loads(json.dumps(content))
        change(edited)
        Path("edited.json").write_text(json.dumps(edited))
        with pytest.raises(RequestError, match="do not"):
            results.read(Path("edited.json"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--suite", "unseen", "--threat", "fog"], "give one of them"),
        (["--suite", "unseen", "--eps", "linf=0.1"], "--eps is not read with --suite"),
        (["--threat", "patch:9"], "only 8 pixels"),
        (["--threat", "elastic:x"], "not a number"),
        (["--suite", "nothing"], "unknown suite"),
        (["--threat", "recolor", "--attack", "fsat"], "Did you mean 'fast'"),
        (["--threat", "recolor", "--data", "digits,cifar10-c=there"], "names no corruption"),
        (["--threat", "recolor", "--samples", "9"], "--samples is read by"),
    ],
)
def test_wrong_requests_are_refused(setting, capsys, more, message) -> None:
    assert robust(*setting, *more) == 2
    assert message in capsys.readouterr().err


def test_corrupted_images_are_named_beside_the_clean_ones() -> None:
    assert split_data("x.npy,y.npy,cifar10-c=/a/b") == ("x.npy,y.npy", Path("/a/b"))
    assert split_data("cifar10-c=f") == (None, Path("f"))
    assert split_data("digits") == ("digits", None)
    assert split_data(None) == (None, None)


def test_a_model_without_gradient_is_attacked_by_what_needs_none(setting, tmp_path) -> None:
    (tmp_path / "steps.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from robustctl import load_model\n"
        "class Steps(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner = load_model('digits-linf')\n"
        "    def forward(self, x):\n"
        "        return self.inner((x.detach() * 8).round() / 8).detach()\n"
    )
    arguments = [*setting[2:], "--model-code", "steps.py:Steps", "--threat", "recolor:0.3", "--threat", "patch:4"]
    assert robust("eval", *arguments, "--json", "out.json") == 0
    result = results.read(Path("out.json"))
    assert any("zero-gradient: only search" in flag for flag in result.flags)
    assert all("ascent" not in name or n == 0 for member in result.members for name, n in member.by.items())
    assert sum(result.points.of("patch:4")) < result.clean.n_correct


PEAK = """
import resource, sys
from robustctl.cli import main
try:
    main()
except SystemExit:
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="ru_maxrss is in KiB on Linux")
def test_more_images_need_no_more_memory(setting, monkeypatch, tmp_path) -> None:
    peaks = []
    for n in (40, 320):
        monkeypatch.setenv("ROBUSTCTL_RUNS", str(tmp_path / str(n)))
        setting[setting.index("-n") + 1] = n
        words = [*map(str, setting), *FEW, "--threat", "l0:1", "--batch-size", "40"]
        done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True, timeout=600)
        assert "elastic:0.5" in done.stdout, done.stderr
        peaks.append(int(done.stderr.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 25, peaks

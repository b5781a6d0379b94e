import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from robustctl import checkpoint, runs
from robustctl.cli import main
from robustctl.evaluation import reference
from robustctl.evaluation.store import Store
from robustctl.models import entry
from robustctl.models import find as registry
from robustctl.results import union as results
from robustctl.spec import Normalization

EPS = ["--eps", "linf=0.03,l2=0.2,l1=0.6"]


@pytest.fixture
def model(conv_model, conv_spec, tmp_path) -> Path:
    """A model directory."""
    path = tmp_path / "model"
    path.mkdir()
    checkpoint.save_model(conv_model, conv_spec, path)
    return path


@pytest.fixture
def images(conv_model, tmp_path) -> Path:
    """Thirty images that the model gets right."""
    x = torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = conv_model(x).argmax(1)
    np.savez(tmp_path / "images.npz", x=x.numpy(), y=y.numpy())
    return tmp_path / "images.npz"


MAIN = "from robustctl.cli import main; import sys; sys.argv[0] = 'robustctl'; main()"


def arguments(*parts) -> list[str]:
    return [sys.executable, "-c", MAIN, "--quiet", "eval", *map(str, parts)]


def run(*parts, **more) -> subprocess.CompletedProcess:
    """A process of its own."""
    return subprocess.run(arguments(*parts), capture_output=True, text=True, timeout=120, **more)


@pytest.fixture
def call(monkeypatch, capsys):
    """The command line within this process: exit code, stdout, stderr."""

    def call(*parts):
        monkeypatch.setattr(sys, "argv", ["robustctl", "eval", *map(str, parts)])
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as stop:
            main()
        signal.signal(signal.SIGTERM, handler)
        return stop.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def refused(call):
    """The message of a command that must fail with this exit code, with no traceback and no result on stdout."""

    def refused(*parts, code=2):
        exit_code, out, err = call(*parts)
        assert exit_code == code, err
        assert "Traceback" not in err
        assert "internal error" not in err
        assert out == ""
        return err

    return refused


def verdict_table(text: str) -> list[str]:
    """The table without the line that says how long it took."""
    return [line for line in text.splitlines() if " s on " not in line]


def test_table_on_stdout_and_the_contracts_json(call, model, images, tmp_path):
    code, out, err = call(model, "--union", "--data", images, *EPS, "--json", tmp_path / "r.json")
    assert code == 0, err
    result = results.read(tmp_path / "r.json")
    assert list(result.norms) == ["linf", "l2", "l1"]
    assert result.data.n == 30
    assert result.clean.acc == 1
    rows = [line.split("  ")[0] for line in out.splitlines()]
    assert rows[2:8] == ["clean", "linf:0.03", "l2:0.2", "l1:0.6", "average", "union"]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_union_only_and_precision_are_recorded(call, model, images, tmp_path, precision):
    options = ["--union-only", "--precision", precision, "--attack", "fast", "--n", 10, "--json", tmp_path / "r.json"]
    code, out, err = call(model, "--data", images, *EPS, *options)
    assert code == 0, err
    result = results.read(tmp_path / "r.json")
    assert result.attack.union_only
    assert result.attack.precision == precision
    assert all(accuracy.upper_bound for accuracy in result.norms.values())
    assert out.count("<= ") == 4, "three norms and their average"
    assert "union-only: the norms' own accuracies" in out


def test_autoattack_says_that_it_runs_in_float32(call, model, images, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "run", lambda model, data, meets, *more, **most: iter(()))
    options = ["--precision", "bf16", "--attack", "autoattack", "--n", 2, "--json", tmp_path / "r.json"]
    code, _, err = call(model, "--data", images, *EPS, *options)
    assert code == 0, err
    assert "--precision bf16 has no effect" in err
    assert results.read(tmp_path / "r.json").attack.precision == "float32"


def kill_after(commits: int, command: list[str], folder: Path) -> bool:
    """SIGKILL the command once its store was seen changed so many times; False when it ended before."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=dict(os.environ, ROBUSTCTL_RUNS=str(folder)))
    stamps = {path.stat().st_mtime_ns for path in folder.rglob("*.sqlite")}
    seen = len(stamps)
    while process.poll() is None:
        stamps |= {path.stat().st_mtime_ns for path in folder.rglob("*.sqlite")}
        if len(stamps) - seen >= commits:
            process.kill()
            process.wait()
            return True
        time.sleep(0.001)
    return False


def committed(folder: Path) -> int:
    """Verdicts in the one store below ``folder``."""
    (path,) = folder.rglob("*.sqlite")
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM verdicts").fetchone()[0])


def test_killed_and_started_again_it_ends_with_the_same_table(model, images, tmp_path, call, monkeypatch):
    command = [
        model,
        "--data",
        images,
        "--n",
        8,
        "--eps",
        "linf=0.15",
        "--norms",
        "linf",
        "--batch-size",
        2,
        "--attack",
        "fast",
    ]
    monkeypatch.setenv("ROBUSTCTL_RUNS", str(tmp_path / "whole"))
    _, whole, _ = call(*command)
    killed = tmp_path / "killed"
    killed.mkdir()
    kept = [0]
    while len(kept) < 4 and kill_after(6, arguments(*command), killed):
        kept.append(committed(killed))
    assert kept == sorted(kept)
    assert any(0 < count < committed(tmp_path / "whole") for count in kept)
    monkeypatch.setenv("ROBUSTCTL_RUNS", str(killed))
    _, resumed, _ = call(*command)
    assert verdict_table(resumed) == verdict_table(whole)
    files = [next((tmp_path / name).rglob("*.json")) for name in ("whole", "killed")]
    assert results.read(files[0]).points == results.read(files[1]).points


def test_another_radius_does_not_get_the_verdicts_of_the_first(call, model, images):
    tables = [
        call(model, "--data", images, "--eps", f"linf={eps}", "--norms", "linf")[1].splitlines() for eps in (0.001, 0.5)
    ]
    assert tables[0][3] == "linf:0.001     100.0 [88.6, 100.0]"
    assert not tables[1][3].startswith("linf:0.5       100.0")


def test_one_flipped_weight_is_another_model(model, images, conv_model, conv_spec, call):
    asked = [model, "--data", images, "--eps", "linf=0.01", "--norms", "linf"]
    call(*asked)
    with torch.no_grad():
        conv_model.net[0].weight[0, 0, 0, 0] += 0.5
    checkpoint.save_model(conv_model, conv_spec, model)
    assert "it differs from the last one here in: weights" in call(*asked)[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--norms", "linf,l3"], ["l3", "linf"]),
        (["--norms", "linf,linf"], ["twice"]),
        (["--eps", "linf=0"], ["'0'", "above 0"]),
        (["--eps", "linf=-8/255"], ["-8/255", "above 0"]),
        (["--eps", "linf=8/0"], ["8/0"]),
        (["--eps", "linf"], ["norm:radius"]),
        (["--eps", "l1=12", "--norms", "linf"], ["l1", "--norms linf"]),
        (["--attack", "standart"], ["standart", "Did you mean 'standard'", "autoattack"]),
        (["--device", "tpu"], ["tpu"]),
        (["--n", "31"], ["31", "30 images"]),
        (["--n", "0"], ["0"]),
        (["--batch-size", "0"], ["batch-size"]),
        (["--json", "nowhere/r.json"], ["nowhere"]),
        (["--data", "no-such-thing"], ["no-such-thing"]),
        (["--speed", "9"], ["--speed"]),
    ],
)
def test_a_wrong_request_is_refused_in_words(refused, model, images, options, words):
    given = [model, *(["--data", images] if "--data" not in options else []), *options]
    message = refused(*given)
    for word in words:
        assert word in message


def test_an_unknown_model_gets_a_suggestion(refused, images):
    message = refused("digits-linff", "--data", images)
    assert "Did you mean 'digits-linf'" in message or "unknown model" in message


def test_without_an_argument_and_without_a_run_it_says_what_to_do(refused):
    assert "robustctl finetune" in refused()


def test_labels_outside_the_classes(refused, model, tmp_path):
    np.savez(tmp_path / "bad.npz", x=np.zeros((3, 1, 8, 8), np.float32), y=np.array([0, 11, 2]))
    message = refused(model, "--data", tmp_path / "bad.npz", *EPS)
    assert "11" in message
    assert "classes" in message


def test_images_of_another_shape(refused, model, tmp_path):
    np.savez(tmp_path / "big.npz", x=np.zeros((3, 3, 8, 8), np.float32), y=np.array([0, 1, 2]))
    assert "3x8x8" in refused(model, "--data", tmp_path / "big.npz", *EPS)


def test_pixels_outside_the_unit_interval(refused, model, tmp_path):
    np.savez(tmp_path / "raw.npz", x=np.full((3, 1, 8, 8), 200, np.float32), y=np.array([0, 1, 2]))
    assert "[0" in refused(model, "--data", tmp_path / "raw.npz", *EPS)


def test_weights_of_a_run_that_did_not_end_are_called_its_last(call, model, images, private_home):
    record = {
        "command": "finetune",
        "model": "m",
        "recipe_name": "r",
        "recipe": {"evaluate": {"threats": {"linf": "0.03"}}},
        "seed": 0,
        "data": {"source": str(images)},
        "device": "cpu",
        "hardware": "h",
        "versions": {},
        "started": "2026-01-01T00:00:00",
    }
    run = runs.create("m", "r")
    shutil.copytree(model, run.path, dirs_exist_ok=True)
    options = (run.path, "--data", images, "--split", "all", "--norms", "linf", "--eps", "linf=0.03", "--n", 2)
    for changes, words in (
        ({"status": "finished", "step": 2, "steps": 190}, "did 2 of its 190 steps: these are its last weights"),
        ({"status": "running", "step": 0, "steps": 190}, "is stopped: these are the weights that it saved last"),
        ({"status": "finished", "step": 190, "steps": 190}, ""),
    ):
        run.write(runs.RunRecord.model_validate({**record, **changes}))
        code, _, err = call(*options)
        assert code == 0, err
        assert words in err
        assert words or "last" not in err


def test_truncated_weights(refused, model, images):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "bytes are there" in refused(model, "--data", images, *EPS)


def test_weights_of_another_architecture(refused, model, images):
    config = json.loads((model / "config.json").read_text())
    config["architecture"]["args"]["hidden"] = 9
    (model / "config.json").write_text(json.dumps(config))
    assert "expected [9" in refused(model, "--data", images, *EPS)


def test_nan_in_the_weights(refused, model, images, conv_model, conv_spec):
    with torch.no_grad():
        conv_model.net[0].weight[0] = torch.nan
    checkpoint.save_model(conv_model, conv_spec, model)
    assert "NaN" in refused(model, "--data", images, *EPS)


def test_a_place_that_cannot_be_written(refused, model, images, monkeypatch):
    monkeypatch.setenv("ROBUSTCTL_RUNS", "/proc/runs")
    message = refused(model, "--data", images, *EPS, code=1)
    assert "/proc/runs" in message


def test_a_full_disk_is_one_message_and_the_same_command_goes_on(model, images, tmp_path):
    """No file may grow beyond an empty store: the operating system refuses in the middle of the evaluation."""
    with Store(tmp_path / "empty.sqlite", {}):
        size = (tmp_path / "empty.sqlite").stat().st_size
    command = [model, "--data", images, "--eps", "linf=0.5,l2=4,l1=20", "--attack", "fast"]
    limited = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n{MAIN}"
    full = subprocess.run(
        [sys.executable, "-B", "-c", limited, "--quiet", "eval", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert full.returncode == 1, full.stderr
    assert "run the same command again" in full.stderr
    assert "Traceback" not in full.stderr
    done = run(*command)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def normalised_twice():
    """The bundled digits model behind a normalisation that it was not trained with; its recorded accuracy stays."""
    bundled = registry.read_entry("digits-linf")
    wrong = bundled.model_copy(update={"normalization": Normalization(mean=[0.8], std=[0.3])})
    for folder in ("entries", "weights"):
        (registry.home() / folder).mkdir(parents=True)
    entry.write(wrong, registry.home() / "entries" / "wrong.yaml")
    shutil.copy(registry.entry_weights("digits-linf"), registry.home() / "weights" / "wrong.safetensors")
    return "wrong"


def test_a_wrong_normalisation_is_found_before_any_attack(refused, normalised_twice):
    message = refused(normalised_twice, "--n", 200)
    assert "normalisation is missing or applied twice" in message
    assert "recorded are" in message


def test_force_evaluates_nevertheless_and_flags_it(call, normalised_twice):
    code, out, err = call(normalised_twice, "--n", 12, "--norms", "linf", "--attack", "fast", "--force")
    assert code == 0, err
    assert "estimate" in out


def test_a_radius_that_makes_no_sense_is_refused_and_force_goes_on(refused, call, model, images):
    options = [model, "--data", images, "--attack", "fast", "--n", 2]
    assert "Did you mean linf:8/255?" in refused(*options, "--eps", "linf=8,l2=0.2,l1=0.6")
    code, _, err = call(*options, "--eps", "linf=8,l2=0.2,l1=0.6", "--force")
    assert code == 0, err


def test_a_radius_that_is_likely_to_be_a_slip_of_units_is_said_and_evaluated(call, model, images):
    code, _, err = call(model, "--data", images, "--attack", "fast", "--n", 2, "--eps", "linf=0.1,l2=0.2,l1=8/255")
    assert code == 0, err
    assert "eps: l1:8/255 moves one value" in err and "Did you mean linf:8/255?" in err


def test_pixels_that_are_not_what_they_seem_are_flagged(call, model, images, tmp_path):
    arrays = np.load(images)
    np.savez(tmp_path / "twice.npz", x=arrays["x"] / 255, y=arrays["y"])
    options = ["--attack", "fast", "--n", 2, *EPS]
    code, out, err = call(model, "--data", tmp_path / "twice.npz", *options, "--json", tmp_path / "r.json")
    assert code == 0, err
    assert "pixels: pixels reach from" in out and "divided by 255 twice" in out
    assert any("divided by 255 twice" in flag for flag in results.read(tmp_path / "r.json").flags)


def test_pixels_that_cannot_be_are_refused_where_the_clean_accuracy_is_known(refused, tmp_path):
    from robustctl import data

    digits = data.load("digits", "test", 20)
    np.savez(tmp_path / "cut.npz", x=digits.x.numpy().astype(np.uint8), y=digits.y.numpy())
    message = refused("digits-linf", "--data", tmp_path / "cut.npz", "--attack", "fast")
    assert "they were floats in [0,1] that were cut to whole numbers" in message and "--force" in message


def test_another_spelling_or_layout_of_the_same_images_goes_on_with_the_same_verdicts(
    call, model, images, tmp_path, monkeypatch
):
    options = ["--attack", "fast", "--n", 5, *EPS]
    assert call(model, "--data", images, *options)[0] == 0
    arrays = np.load(images)
    np.save(tmp_path / "x.npy", arrays["x"])
    np.save(tmp_path / "labels.npy", arrays["y"])
    monkeypatch.chdir(tmp_path)
    for source in ("images.npz", "./images.npz", "x.npy", "x.npy,labels.npy"):
        code, _, err = call(model, "--data", source, *options)
        assert code == 0, err
        assert "new evaluation" not in err
    assert len({path.name for path in runs.root().rglob("fast-5-*.sqlite")}) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--eps", "linf=nonsense"],
        ["--norms", "linf"],
        ["--attack", "fast"],
        ["--precision", "bf16"],
        ["--union-only"],
        ["--force"],
        ["--union"],
        ["--x-adv", "x.npz"],
    ],
)
def test_the_intermediate_evaluation_refuses_what_it_does_not_read(refused, model, images, options):
    message = refused(model, "--data", images, "--intermediate-q", "1", "--distribution", "linf:0.1", *options)
    assert f"{options[0]} is read by the evaluation of the union" in message


@pytest.mark.parametrize(
    ("options", "unread"),
    [
        (["--estimator", "mc", "--grid", "graded"], "--grid"),
        (["--estimator", "mc", "--chains", 4], "--chains"),
        (["--estimator", "mc", "--leapfrog", 10], "--leapfrog"),
        (["--estimator", "mc", "--most-samples", 400], "--most-samples"),
        (["--estimator", "ais", "--grid", "thesis"], "--grid"),
        (["--estimator", "path", "--grid", "thesis", "--most-samples", 400], "--most-samples"),
        (["--distribution", "spatial", "--leapfrog", 3], "--leapfrog"),
    ],
)
def test_an_option_that_the_estimator_does_not_read_is_refused(refused, model, images, options, unread):
    given = ["--data", images, "--intermediate-q", "1", "--distribution", "linf:0.1", *options]
    assert f"{unread} is not read with" in refused(model, *given)


@pytest.mark.parametrize(
    "options",
    [
        ["--grid", "thesis"],
        ["--samples", 320],
        ["--most-samples", 320],
        ["--leapfrog", 10],
        ["--chains", 4],
        ["--estimator", "mc"],
        ["--probacc", "0.1"],
        ["--distribution", "linf:0.1"],
    ],
)
def test_the_union_refuses_what_it_does_not_read(refused, model, images, options):
    assert f"{options[0]} is read by --intermediate-q" in refused(model, "--data", images, *EPS, *options)


def test_radii_may_be_given_one_by_one_and_none_is_dropped(call, tmp_path: Path) -> None:
    radii = []
    for eps in (["--eps", "linf=0.1,l1=1"], ["--eps", "linf:0.1", "--eps", "l1:1"]):
        path = tmp_path / "r.json"
        call("digits-linf", "--n", "3", "--attack", "fast", "--norms", "linf,l1", "--json", path, *eps)
        radii.append({norm: one["eps"] for norm, one in json.loads(path.read_text())["norms"].items()})
    assert radii == [{"linf": 0.1, "l1": 1.0}] * 2

"""models import, add, list, show, remove, verify through the command line, and the user's own entries."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import robust
from safetensors.torch import load_file

import robustctl
from robustctl import checkpoint, data
from robustctl.architectures import Classifier
from robustctl.errors import RunError
from robustctl.hub import plain_directory
from robustctl.models import shelf
from robustctl.models.find import find_model, home
from robustctl.spec import ModelSpec

MNIST = ["--arch", "kw-small", "--dataset", "mnist", "--norm", "linf", "--eps", "0.3"]
CIFAR = ["--dataset", "cifar10"]
TINY = ["--arch", "kw-small", "--set", "width=2", "--set", "hidden=8", "--dataset", "mine"]
TINY += ["--input-shape", "1,8,8", "--classes", "10"]


@pytest.fixture
def file(in_process: None, tmp_path: Path, conv_model: Classifier) -> Path:
    path = tmp_path / "mine.pt"
    torch.save(conv_model.net.state_dict(), path)
    return path


def test_an_imported_model_gives_the_logits_of_the_original(file: Path, conv_model: Classifier) -> None:
    assert robust("models", "import", file, "--name", "mine", *TINY) == 0
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(robustctl.load_model("mine")(x), conv_model(x))


@pytest.mark.parametrize(
    ("file", "options", "accuracy"),
    [
        ("fast_mnist_pgd.pth", [*MNIST, "--no-normalisation"], 0.96),
        (
            "cifar_wide_kw.pth",
            [*CIFAR, "--arch", "kw-small", "--mean", "0.485,0.456,0.406", "--std", "0.225,0.225,0.225"],
            0.50,
        ),
        (
            "cifar10-wrn10-1-linf.safetensors",
            [
                *CIFAR,
                "--arch",
                "wide-resnet",
                "--set",
                "depth=10",
                "--set",
                "width=1",
                "--norm",
                "linf",
                "--eps",
                "8/255",
                "--no-normalisation",
            ],
            0.50,
        ),
    ],
)
def test_published_models_classify_after_import(shared: Path, file: str, options: list[str], accuracy: float) -> None:
    assert robust("models", "import", shared / "models" / file, "--name", "m", *options) == 0
    found_model = find_model("m")
    source = "mnist-part" if found_model.spec.dataset == "mnist" else "cifar10-jpeg"
    images = data.load(str(shared / "data" / source), "test", 200)
    model = checkpoint.load_from(found_model.spec, found_model.weights)
    with torch.no_grad():
        right = (model(images.images(range(200))).argmax(1) == images.y).float().mean()
    assert right >= accuracy


def test_an_entry_can_be_given_as_yaml_and_options_override_it(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "entry.yaml"
    path.write_text(
        "description: of mine\narchitecture: {name: kw-small, args: {width: 2, hidden: 8}}\n"
        "input_shape: [1, 8, 8]\nn_classes: 10\ndataset: mine\nnorm: l2\neps: '0.5'\nlicence: mit\n"
    )
    assert robust("models", "import", file, "--name", "mine", "--from-yaml", path, "--norm", "linf") == 0
    found_model = find_model("mine")
    assert (found_model.spec.norm, found_model.licence) == ("linf", "mit")
    assert found_model.entry is not None and found_model.entry.description == "of mine"


def test_what_was_imported_is_listed_shown_verified_and_removed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("models", "import", file, "--name", "mine", *TINY) == 0
    capsys.readouterr()
    assert robust("models", "list", "--here", "--dataset", "mine") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("*  mine ")
    assert robust("models", "show", "mine") == 0
    shown = capsys.readouterr().out
    assert "file: mine.pt" in shown and str(file.parent) not in shown
    assert robust("models", "verify", "mine", "--local") == 0
    assert robust("models", "remove", "mine") == 0
    assert not [path for path in home().rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert robust("models", "show", "mine") == 2


def test_the_weights_that_come_with_the_package_are_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robust("models", "verify", "digits-linf", "--local") == 0
    assert "digits-linf: is what was fetched" in capsys.readouterr().out
    tensors = load_file(shelf.BUNDLED / "weights" / "digits-linf.safetensors")
    tensors["0.bias"] += 1
    for place in ("weights", "entries"):
        (tmp_path / place).mkdir()
    checkpoint.save_tensors(tensors, tmp_path / "weights" / "digits-linf.safetensors")
    shutil.copy(shelf.BUNDLED / "entries" / "digits-linf.yaml", tmp_path / "entries")
    for module in ("shelf", "find"):
        monkeypatch.setattr(f"robustctl.models.{module}.BUNDLED", tmp_path)
    assert robust("models", "verify", "--local") == 1
    assert "digits-linf.safetensors is not what was fetched" in capsys.readouterr().out


def test_changed_weights_are_found_by_verify(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("models", "import", file, "--name", "mine", *TINY) == 0
    weights = home() / "weights" / "mine.safetensors"
    tensors = load_file(weights)
    tensors["0.bias"] += 1
    checkpoint.save_tensors(tensors, weights)
    assert robust("models", "verify", "mine", "--local") == 1
    assert "is not what was fetched" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "../mine", *TINY], "use lower-case letters"),
        (["--name", "digits-linf", *TINY], "exists already"),
        (["--name", "m"], "--arch (or --model-code) is missing"),
        (["--name", "m", "--arch", "kw-smal", "--dataset", "mnist"], "Did you mean 'kw-small'"),
        (["--name", "m", "--arch", "clip(width=8,layers=2)"], "write --arch clip --set width=8 --set layers=2"),
        (["--name", "m", "--arch", "kw-small"], "--dataset is missing"),
        (["--name", "m", "--arch", "kw-small", "--dataset", "mine"], "needs --input-shape and --classes"),
        (["--name", "m", *MNIST, "--mean", "0.5"], "--mean and --std go together"),
        (["--name", "m", *MNIST, "--mean", "a", "--std", "1"], "--mean 'a' is not a list of numbers"),
        (["--name", "m", *MNIST, "--mean", "0.5,0.5", "--std", "1,1"], "normalization needs 1 values"),
        (["--name", "m", *MNIST, "--set", "width"], "--set 'width' is not of the form key=value"),
        (["--name", "m", *MNIST, "--set", "wdth=3"], "Its arguments: width, hidden"),
        (["--name", "m", *MNIST, "--set", "width=2024-13-45"], "--set 'width=2024-13-45': its value is not YAML"),
        (["--name", "m", *MNIST, "--eps", "8/0"], "eps '8/0' divides by zero"),
        (["--name", "m", *MNIST, "--norm", "l3"], "norm"),
        (["--name", "m", *TINY, "--at", "state_dict.0"], "has no 'state_dict' on the path"),
        (["--name", "m", *TINY, "--input-shape", "1,8"], "input_shape"),
        (["--name", "m", *TINY, "--input-shape", "nan,1,1"], "--input-shape 'nan,1,1' is not a list of numbers"),
        (["--name", "m", *TINY, "--input-shape", "inf,1,1"], "--input-shape 'inf,1,1' is not a list of numbers"),
        (["--name", "m", *TINY, "--input-shape", "1.5,8,8"], "--input-shape '1.5,8,8' is not three whole numbers"),
        (["--name", "m", *MNIST, "--mean", "nan", "--std", "1"], "--mean 'nan' is not a list of numbers"),
        (["--name", "m", "--from-yaml", "nowhere.yaml"], "cannot read nowhere.yaml"),
    ],
)
def test_a_bad_import_gets_its_message_and_leaves_nothing(
    file: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert robust("models", "import", file, *options) == 2
    assert message in capsys.readouterr().err
    assert not [path for path in home().rglob("*") if path.is_file() and path.suffix != ".lock"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("keys: 3", "keys: 3 is no mapping"),
        ("keys: [a]", "keys: ['a'] is no mapping"),
        ("architecture: kw-small", "architecture: 'kw-small' is no mapping"),
        ("architecture: {name: kw-small, args: [1]}", "architecture.args: [1] is no mapping"),
        ("architecture: {name: [a]}", "unknown architecture"),
        ("dataset: [a]", "dataset: ['a'] is no name"),
        ("dataset: 2024-01-01", "is no name"),
        ("input_shape: 5", "input_shape"),
        ("n_classes: [1]", "n_classes"),
        ("1: 2", "models import"),
        ("created: 2024-13-45", "is not YAML"),
    ],
)
def test_a_bad_value_in_a_yaml_file_gets_its_message(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    content = {
        "architecture": "architecture: {name: kw-small, args: {width: 2, hidden: 8}}",
        "dataset": "dataset: mine",
        "input_shape": "input_shape: [1, 8, 8]",
        "n_classes": "n_classes: 10",
    }
    lines = content | {line.partition(":")[0]: line}
    path = tmp_path / "models import.yaml"
    path.write_text("\n".join(lines.values()))
    assert robust("models", "import", file, "--name", "m", "--from-yaml", path) == 2
    assert message in capsys.readouterr().err
    assert not [path for path in home().rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_home_without_write_permission_is_named(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "blocked").write_text("a file where a directory should be")
    monkeypatch.setenv("ROBUSTCTL_HOME", str(tmp_path / "blocked"))
    assert robust("models", "import", file, "--name", "mine", *TINY) == 1
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["robustctl.checkpoint.save_file", "robustctl.models.shelf.entries.write"])
def test_a_full_disk_leaves_nothing_of_an_import(file: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise RunError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        assert robust("models", "import", file, "--name", "mine", *TINY) == 1
    assert not [path for path in home().rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert robust("models", "import", file, "--name", "mine", *TINY) == 0


def test_bundled_entries_stay(capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("models", "remove", "gowal-wrn70") == 2
    assert "bundled entries stay" in capsys.readouterr().err
    assert robust("models", "remove", "../../etc") == 2
    assert robust("models", "remove", "nothing") == 2


def test_an_own_entry_without_weights_looks_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "theirs.yaml"
    path.write_text(
        "description: x\narchitecture: {name: kw-small}\ninput_shape: [1, 28, 28]\nn_classes: 10\ndataset: mnist\n"
        "sources: [{page: 'https://example.org/models', file: a.pt}]\n"
    )
    assert robust("models", "add", path) == 0
    capsys.readouterr()
    assert robust("pull", "theirs") == 1
    error = capsys.readouterr().err
    assert "download a.pt from https://example.org/models" in error
    assert "robustctl models import PATH/a.pt --name theirs" in error
    assert robust("models", "add", path) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wang-wrn70", "wzekai99/DM-Improves-AT@main may change; the hash of the first download binds checkpoint/"),
        ("wang-wrn28", "wzekai99/DM-Improves-AT@main may change; the hash of the first download binds checkpoint/"),
        ("leaf-clip-l14-cifar10", "openai/clip-vit-large-patch14@main may change; the hash of the first download"),
    ],
)
def test_a_source_without_a_commit_is_marked_for_the_user(
    name: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robust("models", "show", name) == 0
    assert f"not pinned to a commit: {said}" in capsys.readouterr().out


def test_a_source_with_a_commit_or_an_address_needs_no_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "theirs.yaml"
    path.write_text(
        "description: x\narchitecture: {name: kw-small}\ninput_shape: [1, 28, 28]\nn_classes: 10\ndataset: mnist\n"
        f"sources: [{{repo: a/b, revision: {'ab' * 20}, file: a.pt}}, {{url: 'https://example.org/a', file: a.pt}}]\n"
    )
    assert robust("models", "add", path) == 0
    assert robust("models", "show", "theirs") == 0
    assert "not pinned" not in capsys.readouterr().out


def test_the_list_is_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("models", "list", "--norm", "l1") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert names == ["croce-rn18-l1"]
    assert robust("models", "list", "--arch", "dm-wide-resnet", "--max-size", "40", "--dataset", "svhn") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert names == ["wang-wrn28-svhn"]
    assert robust("models", "list", "--norm", "l3") == 2
    assert robust("models", "list", "--arch", "timm") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert {"deit-s", "liu-swin-l", "xcit-l12", "xcit-s12"} <= set(names)
    assert robust("models", "list", "--arch", "timm/xcit_small_12_p16_224") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["xcit-s12"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--dataset", "cifar11", "unknown data set 'cifar11'. Did you mean 'cifar10'?"),
        ("--arch", "wide-resent", "unknown architecture 'wide-resent'. Did you mean 'wide-resnet'?"),
        ("--norm", "linff", "linf"),
    ],
)
def test_a_misspelt_filter_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    assert robust("models", "list", option, value) == 2
    assert message in capsys.readouterr().err


def test_pulled_repos_and_entries_of_unknown_size_pass_the_filters(
    tmp_path: Path, conv_model: Classifier, conv_spec: ModelSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m").mkdir()
    checkpoint.save_model(conv_model, conv_spec, tmp_path / "m")
    plain_directory.write_sums(
        tmp_path / "m", {path.name: plain_directory.sha256(path) for path in (tmp_path / "m").iterdir()}
    )
    repo = f"file://{tmp_path}/m"
    assert robust("pull", repo) == 0
    (home() / "entries").mkdir()
    (home() / "entries" / "sizeless.yaml").write_text(
        "description: x\narchitecture: {name: kw-small}\ninput_shape: [1, 8, 8]\nn_classes: 10\ndataset: digits\n"
    )
    capsys.readouterr()
    assert robust("models", "list", "--dataset", "digits", "--arch", "kw-small", "--max-size", "0.01") == 0
    lines = [line.lstrip("* ").split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[0] for line in lines] == ["sizeless", repo]
    assert all("?" in line for line in lines)
    assert robust("models", "list", "--norm", "l1") == 0
    assert repo not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("robustctl models show gowal-wrn2", "gowal-wrn28"),
        ("robustctl pull salman-wrn50-2-linf-8", "salman-wrn50-2-linf-8"),
    ],
)
def test_names_are_completed_by_the_shell(words: str, expected: str) -> None:
    variables = {"_ROBUSTCTL_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    program = "import sys; sys.argv = ['robustctl']; from robustctl.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.stdout.split() == [expected]


def test_the_list_is_sorted_by_published_accuracy_and_takes_the_best_known_attack(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert robust("models", "list", "--dataset", "imagenet", "--sort=-linf", "--json", "-") == 0
    rows = json.loads(capsys.readouterr().out)
    known = [row["linf"] for row in rows if row["linf"] is not None]
    assert len(known) > 20 and known == sorted(known, reverse=True)
    by_name = {row["name"]: row["linf"] for row in rows}
    assert by_name["amini-meansparse-convnext-l"] == 0.5822, "below AutoAttack's 0.5964"

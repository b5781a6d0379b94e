"""The helper of HAT's loss: found as any model is, fit for the images, and the same when a run goes on."""

import shutil
from pathlib import Path

import pytest
from command import robust

from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.spec import ModelSpec

SHORT = ("--set", "train.epochs=1", "--set", "train.batch_size=16", "--max-steps", 2)


@pytest.fixture
def natural(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert robust("train", "kw-small", "--recipe", "digits/natural", *SHORT, "--out", "natural") == 0
    return tmp_path / "natural"


def test_a_run_with_a_helper_goes_on_with_the_same_one_alone(
    natural: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ("finetune", "digits-linf", "--recipe", "e-at-hat", "--set", f"outer.helper={natural}", *SHORT)
    assert robust(*train, "--out", "first") == 0
    assert robust(*train, "--seed", 1, "--out", "other") == 0
    kept = tmp_path / "kept"
    shutil.copytree(natural, kept)
    shutil.copy(tmp_path / "other" / "model.safetensors", natural / "model.safetensors")
    assert robust("finetune", "--resume", "--out", "first") == 2
    assert "outer.helper: " in capsys.readouterr().err
    shutil.rmtree(natural)
    shutil.copytree(kept, natural)
    assert robust("finetune", "--resume", "--out", "first", "--max-steps", 4) == 0


def test_a_helper_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    missing = ("--set", "outer.helper=nowhere")
    assert robust("finetune", "digits-linf", "--recipe", "e-at-hat", *missing, "--dry-run") == 2
    assert "outer.helper: unknown model 'nowhere'" in capsys.readouterr().err


def test_a_helper_of_other_images_is_refused(
    conv_spec: ModelSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = conv_spec.model_copy(update={"input_shape": (1, 12, 12)})
    (tmp_path / "larger").mkdir()
    checkpoint.save_model(build(larger), larger, tmp_path / "larger")
    other = ("--set", f"outer.helper={tmp_path / 'larger'}")
    assert robust("finetune", "digits-linf", "--recipe", "e-at-hat", *other, "--dry-run") == 2
    assert "takes images [1, 12, 12] of 10 classes, the model [1, 8, 8] of 10" in capsys.readouterr().err

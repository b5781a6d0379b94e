"""What people see of a training is what was measured, and nothing is made up for what was not."""

import pytest

from robustctl.training.watch import Watch

STEPS = {"kind": "steps", "epoch": 1, "loss": 0.5234, "robust_error/l1": 0.46, "images_per_second": 2301.2}


def selection(epoch: int, union: float) -> dict[str, object]:
    return {"kind": "selection", "epoch": epoch, "step": 9, "clean": 0.97, "linf": 0.6, "l1": 0.55, "union": union}


def test_an_epoch_has_one_line_with_training_held_out_accuracies_and_the_best(
    capsys: pytest.CaptureFixture[str],
) -> None:
    watch = Watch(3)
    for line in (STEPS, selection(1, 0.5), selection(2, 0.4)):
        watch(line)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1/3: loss 0.523, l1 54 %, 2301 images/s, held out clean 97.0, linf 60.0, l1 55.0, union 50.0 %; "
        "best union 50.0 in epoch 1",
        "epoch 2/3: loss 0.523, l1 54 %, 2301 images/s, held out clean 97.0, linf 60.0, l1 55.0, union 40.0 %; "
        "best union 50.0 in epoch 1",
    ]


def test_the_note_of_the_progress_line_grows_with_what_is_known() -> None:
    watch = Watch(3)
    assert watch.note(1) == "epoch 1"
    watch(STEPS)
    assert watch.note(1) == "epoch 1, loss 0.523, l1 54 %, 2301 images/s"
    watch.resume({"epoch": 1.0, "union": 0.5})
    assert watch.note(2).endswith("best union 50.0 %")


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTCTL_QUIET", "1")
    Watch(1)(selection(1, 0.5))
    assert capsys.readouterr().err == ""

import json
import math

import pytest

from robustctl.errors import RequestError
from robustctl.intermediate.results import MeanLoss, mean_and_half, read


def test_mean_loss_has_students_interval_and_never_ends_below_zero() -> None:
    mean, half = mean_and_half([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert half == pytest.approx(3.182446 * math.sqrt(5 / 3 / 4))
    assert MeanLoss.of([0.0, 0.1, 5.0]).ci95[0] == 0
    assert MeanLoss.of([0.7]).ci95 == (0.7, 0.7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "is not a result file"),
        ("[1, 2]", "its schema is None"),
        (json.dumps({"schema": "robustctl.intermediate/1", "model": 3}), "is not a valid result:\n  model"),
    ],
)
def test_files_that_are_no_result_are_refused(tmp_path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RequestError) as caught:
        read(tmp_path / "a.json")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("clean", "acc"), 0.75, "clean.acc is 0.75"),
        (("clean", "ci95"), [0.2, 0.9], "clean.ci95.0 is 0.2"),
        (("clean_loss", "value"), 7.0, "clean_loss.ci95"),
        (("estimates", 3, "value"), 0.5, "estimates.3.value is 0.5"),
        (("estimates", 1, "log_z"), [900.0, 900.0], "estimates.1.value"),
        (("estimates", 1, "ci95_sampling"), [0.1, 0.2], "estimates.1.ci95_sampling"),
        (("probacc", 0, "acc"), 1.0, "probacc.0.acc is 1.0"),
        (("adversarial_loss", "accuracy", "n_correct"), 2, "adversarial_loss.accuracy.acc"),
        (("random", "acc"), 0.95, "random.ci95"),
    ],
)
def test_a_figure_that_does_not_follow_from_the_others_is_refused_by_name(
    intermediate_result, tmp_path, path, value, named
) -> None:
    content = intermediate_result.model_dump(mode="json", by_alias=True)
    at = content
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(RequestError) as caught:
        read(tmp_path / "a.json")
    assert named in str(caught.value)


def test_a_sound_file_is_read(intermediate_result, tmp_path) -> None:
    intermediate_result.write(tmp_path / "a.json")
    assert read(tmp_path / "a.json") == intermediate_result

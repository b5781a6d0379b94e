import json
import math

import pytest

from robustctl.errors import RequestError
from robustctl.intermediate.results import MeanLoss, mean_and_half, read


def test_mean_loss_has_the_normal_interval_and_never_ends_below_zero() -> None:
    mean, half = mean_and_half([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert half == pytest.approx(1.959964 * math.sqrt(5 / 3 / 4))
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

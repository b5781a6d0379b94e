from typing import Any

import pytest
import torch
from pydantic import ValidationError


def test_bfloat16_run_trains_with_float32_weights(settings_for: Any, make_loop: Any, tmp_path: Any) -> None:
    loop = make_loop(settings_for({"name": "e-at"}, precision="bfloat16"), tmp_path / "run")
    loop.run(max_steps=2)
    assert all(parameter.dtype == torch.float32 for parameter in loop.model.parameters())


@pytest.mark.slow  # the compiler takes a minute
def test_compiled_run_takes_the_steps_of_an_eager_one(settings_for: Any, make_loop: Any, tmp_path: Any) -> None:
    weights = []
    for compiled in (False, True):
        loop = make_loop(settings_for({"name": "at"}, compile=compiled), tmp_path / str(compiled))
        loop.run(max_steps=3)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in loop.model.parameters()]))
    torch.testing.assert_close(*weights, rtol=0, atol=1e-4)


def test_kl_outer_loss_without_a_random_start_is_refused(settings_for: Any) -> None:
    from robustctl.errors import RequestError

    with pytest.raises((ValidationError, RequestError), match="needs a random start"):
        settings_for({"name": "at"}, outer={"name": "trades"})

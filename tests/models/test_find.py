"""Names of models: what is said of those that are not here."""

import pytest

from robustctl.errors import RequestError
from robustctl.models.find import find_model


@pytest.mark.parametrize("model", ["somebody/model", "file:///shelf/model"])
def test_a_repo_that_is_not_here_says_how_to_fetch_it(model: str) -> None:
    with pytest.raises(RequestError, match=f"fetch it: robustctl pull {model}$"):
        find_model(model)


@pytest.mark.parametrize("model", ["net.py", "place/net.py:build(width=4)"])
def test_code_that_is_named_as_a_model_says_how_to_run_it(model: str) -> None:
    with pytest.raises(RequestError, match="--model-code"):
        find_model(model)

from typing import Any

import pytest
from pydantic import ValidationError

from robustctl.errors import RequestError
from robustctl.spec import ModelSpec, Resize

GOOD: dict[str, Any] = {
    "architecture": {"name": "wide-resnet", "args": {"depth": 10, "width": 1, "sub_block1": False}},
    "normalization": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "input_shape": [3, 32, 32],
    "n_classes": 10,
    "dataset": "cifar10",
    "norm": "linf",
    "eps": "8/255",
}


def test_a_spec_survives_being_written_and_read() -> None:
    spec = ModelSpec.model_validate(GOOD)
    again = ModelSpec.model_validate_json(spec.model_dump_json(by_alias=True))
    assert again == spec
    assert again.architecture.args["sub_block1"] is False
    assert again.eps == "8/255"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"n_classes": 1}, "n_classes"),
        ({"input_shape": [3, 0, 32]}, "input_shape"),
        ({"norm": None}, "go together"),
        ({"normalization": {"mean": [0.5], "std": [0.5]}}, "3 values"),
        ({"normalization": {"mean": [0.5] * 3, "std": [0.5, 0.5, 0.0]}}, "std"),
        ({"schema": "robustctl.model/2"}, "schema"),
        ({"resize": {"side": 0}}, "resize.side"),
        ({"resize": {"side": 36, "interpolation": "nearest"}}, "resize.interpolation"),
        ({"resize": {"side": 36}, "input_shape": [3, 32, 48]}, "square"),
    ],
)
def test_a_fault_is_refused_by_the_name_of_its_key(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ModelSpec.model_validate(GOOD | change)


def test_a_bad_radius_is_refused() -> None:
    with pytest.raises(RequestError, match="'8/0'"):
        ModelSpec.model_validate(GOOD | {"eps": "8/0"})


def test_only_imagenet_models_and_those_that_say_so_take_images_of_other_sizes() -> None:
    spec = ModelSpec.model_validate(GOOD)
    assert spec.resizing is None
    imagenet = spec.model_copy(update={"dataset": "imagenet", "input_shape": (3, 224, 224)})
    assert imagenet.resizing == Resize(side=256)
    own = ModelSpec.model_validate({**GOOD, "resize": {"side": 32, "interpolation": "bicubic"}})
    assert own.resizing == Resize(side=32, interpolation="bicubic")
    assert own.resizing.text(32) == "shorter side to 32 (bicubic), centre 32x32"
    assert Resize(side=None).text(288) == "centre 288x288"

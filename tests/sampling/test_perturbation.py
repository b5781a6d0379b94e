import pytest

from robustctl.errors import RequestError
from robustctl.sampling.perturbation import Perturbation


@pytest.mark.parametrize("text", ["linf:8/255", "l2:0.5", "gaussian:0.1", "spatial"])
def test_a_perturbation_is_written_as_it_was_read(text: str) -> None:
    assert str(Perturbation.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linv:8/255", "unknown distribution 'linv'.* Did you mean 'linf'"),
        ("linf", "lacks its size"),
        ("gaussian:", "lacks its size; write it like gaussian:0.1"),
        ("gaussian:-1", "above 0"),
        ("l2:abc", "is not a number"),
        ("spatial:3", "takes no size"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Perturbation.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linf:8", "did you mean linf:8/255"),
        ("l2:5", "wider than the whole pixel box"),
        ("spatial", "no room"),
    ],
)
def test_what_the_images_cannot_have_is_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Perturbation.parse(text).require((1, 4, 4))


@pytest.mark.parametrize("shape", [(1, 7, 32), (1, 32, 7)])
def test_crops_need_room_in_height_and_width(shape: tuple[int, int, int]) -> None:
    Perturbation.parse("spatial").require((1, 8, 8))
    with pytest.raises(RequestError, match="no room"):
        Perturbation.parse("spatial").require(shape)


def test_only_balls_have_a_threat() -> None:
    threat = Perturbation.parse("linf:8/255").threat
    assert threat is not None
    assert str(threat) == "linf:8/255"
    assert Perturbation.parse("gaussian:0.1").threat is None
    assert Perturbation.parse("spatial").threat is None


def test_a_ball_as_wide_as_the_pixel_box_is_the_widest() -> None:
    Perturbation.parse("l2:4").require((1, 4, 4))
    with pytest.raises(RequestError, match="wider than the whole pixel box"):
        Perturbation.parse("l2:4.001").require((1, 4, 4))

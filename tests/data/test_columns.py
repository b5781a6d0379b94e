import pytest

from robustctl.data.columns import Columns, spelt_out
from robustctl.errors import RequestError


def test_columns_are_written_as_they_are_read() -> None:
    for text in ("image=img,label=fine_label", "label=coarse_label", "image=a"):
        assert str(Columns.parse(text)) == text
    assert Columns.parse(None) == Columns()


@pytest.mark.parametrize("text", ["img", "picture=img", "label=", "label=a,label=b", "=a", "label:a"])
def test_another_form_is_answered_with_the_right_one(text: str) -> None:
    with pytest.raises(RequestError, match="image=img,label=fine_label"):
        Columns.parse(text)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["img", "label"], ("img", "label")),
        (["image", "labels", "id"], ("image", "labels")),
        (["img", "fine_label", "coarse_label"], ("img", "fine_label")),
        (["label", "fine_label", "image"], ("image", "label")),
    ],
)
def test_usual_names_are_known(names: list[str], expected: tuple[str, str]) -> None:
    assert Columns().found(names, "d") == Columns(*expected)


@pytest.mark.parametrize(
    ("columns", "names", "words"),
    [
        (Columns(), ["picture", "label"], "columns: picture, label. .*--columns image=NAME"),
        (Columns(), ["img", "kind"], "--columns label=NAME"),
        (Columns(), ["img", "image", "label"], "several columns of images"),
        (Columns(label="fine"), ["img", "label"], "no column 'fine'; its columns: img, label"),
    ],
)
def test_what_is_not_there_or_not_clear_is_refused(columns: Columns, names: list[str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        columns.found(names, "d")


def test_other_labels_of_the_source_are_pointed_to() -> None:
    assert "label=coarse_label" in str(spelt_out(Columns("img", "fine_label"), ["img", "fine_label", "coarse_label"]))
    assert spelt_out(Columns("img", "label"), ["img", "label", "id"]) is None

import subprocess
import sys

import pytest
import torch
from sklearn.datasets import load_digits

from robustctl.data import digits
from robustctl.errors import RequestError


def read(split: str, n: int | None) -> tuple[torch.Tensor, torch.Tensor, int]:
    found = digits.read(split, n)
    return found.x, found.y, found.n_classes


def test_the_two_splits_are_disjoint_and_whole() -> None:
    (x, y, n_classes), (x_test, y_test, _) = read("train", None), read("test", None)
    assert (x.shape, x_test.shape, n_classes) == ((1297, 1, 8, 8), (500, 1, 8, 8), 10)
    assert len(torch.unique(torch.cat([x, x_test]).flatten(1), dim=0)) == 1797
    assert set(y.tolist()) == set(y_test.tolist()) == set(range(10))


@pytest.mark.parametrize("table", [digits.TABLE, "moved/elsewhere.csv.gz"])
def test_images_and_labels_are_those_of_scikit_learn(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits, "TABLE", table)
    x, y = load_digits(return_X_y=True)
    (first, first_y, _), (last, last_y, _) = read("train", None), read("test", None)
    assert torch.equal(torch.cat([first, last]).flatten(1).double() * 16, torch.from_numpy(x))
    assert torch.equal(torch.cat([first_y, last_y]), torch.from_numpy(y))


def test_the_images_are_read_without_what_takes_long_to_import() -> None:
    program = "import sys; from robustctl import data; data.load('digits', 'test'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "robustctl.data.digits" in run.stdout.split()
    assert not {"sklearn", "pandas", "scipy", "torch._dynamo"} & set(run.stdout.split())


def test_pixels_are_seventeen_grey_levels_in_the_unit_interval() -> None:
    x, _, _ = read("train", None)
    assert torch.equal(torch.unique(x), torch.arange(17) / 16)


def test_the_first_n_are_the_first_of_all() -> None:
    x, y, _ = read("test", 7)
    assert torch.equal(x, read("test", None)[0][:7])
    assert torch.equal(y, read("test", None)[1][:7])


def test_an_unknown_split_is_answered_with_the_splits() -> None:
    with pytest.raises(RequestError, match="no split 'validation'; its splits: train, test"):
        read("validation", None)


@pytest.mark.parametrize(("n", "words"), [(501, "n is 501.* has 500 images"), (0, "at least 1"), (-3, "n is -3")])
def test_a_number_of_images_that_cannot_be_given_is_refused(n: int, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        read("test", n)

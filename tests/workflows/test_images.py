from pathlib import Path

import numpy as np
import pytest

from robustctl.errors import RequestError, RunError

# hub: its client reads HF_HUB_OFFLINE once, when it is imported, so that must come before a test sets it.
from robustctl.workflows.images import load_images


def _npz(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, x=np.zeros((2, 1, 2, 2), np.uint8), y=np.array([0, 1]))


def test_local_sources_are_read_where_they_are(tmp_path: Path) -> None:
    _npz(tmp_path / "a.npz")
    assert len(load_images(str(tmp_path / "a.npz"), "test")) == 2
    assert len(load_images("digits", "test", 3)) == 3


def test_a_local_path_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _npz(tmp_path / "user" / "name.npz")
    assert load_images("user/name.npz", "test").source == "user/name.npz"


@pytest.mark.parametrize("source", ["nowhere", "a/b/c", "./x/y", "user/na me"])
def test_what_is_neither_local_nor_a_hub_id_is_refused(source: str) -> None:
    with pytest.raises(RequestError, match="no data at"):
        load_images(source, "test")


def test_a_hub_id_is_asked_of_the_hub_and_of_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RunError, match="user/name: HF_HUB_OFFLINE is set"):
        load_images("user/name", "test")

"""What an earlier push left does not outlive a later one, on the hub and in a directory."""

from pathlib import Path

import pytest
from command import robust
from hub_server import Server

from robustctl.runs import Run

SHARDED = "model.safetensors.index.json"


def weights_there(hub: Server, place: Path | None) -> list[str]:
    names = [path.name for path in place.iterdir()] if place else hub.tree(hub.repos["alice/m"], "main")
    return sorted(name for name in names if name.startswith("model"))


@pytest.mark.parametrize("on_hub", [True, False], ids=["hub", "directory"])
def test_weights_of_another_layout_are_deleted_in_the_same_push(
    hub: Server, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_hub: bool
) -> None:
    place = None if on_hub else tmp_path / "share"
    repo = "alice/m" if on_hub else f"file://{place}"
    assert robust("push", "--repo", repo) == 0
    assert weights_there(hub, place) == ["model.safetensors"]
    with monkeypatch.context() as patched:
        patched.setattr("robustctl.publish.push.SHARD_BYTES", 700)
        assert robust("push", "--repo", repo) == 0
    assert "model.safetensors" not in weights_there(hub, place)
    assert SHARDED in weights_there(hub, place)
    assert robust("push", "--repo", repo) == 0
    assert weights_there(hub, place) == ["model.safetensors"]
    assert robust("pull", repo) == 0


def test_two_runs_pushed_to_one_directory_leave_the_second(run: Run, tmp_path: Path) -> None:
    repo = f"file://{tmp_path}/share"
    assert robust("push", "--repo", repo) == 0
    first = {path.name for path in (tmp_path / "share" / "robustctl").glob("eval-*")}
    (run.path / "eval" / "a.json").unlink()
    run.update(seed=3)
    assert robust("push", "--repo", repo) == 0
    assert first and not list((tmp_path / "share" / "robustctl").glob("eval-*"))
    assert "- seed: 3" in (tmp_path / "share" / "README.md").read_text()
    assert robust("pull", repo) == 0


def test_a_damaged_directory_is_repaired_by_the_same_push(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repo = f"file://{tmp_path}/share"
    assert robust("push", "--repo", repo) == 0
    (tmp_path / "share" / "model.safetensors").write_bytes(b"damaged")
    assert robust("push", "--repo", repo) == 0
    assert "has all of" not in capsys.readouterr().out
    assert robust("pull", repo) == 0


def test_a_linked_card_publishes_nothing_of_what_it_points_to(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("PRIVATE KEY")
    (tmp_path / "share").mkdir()
    (tmp_path / "share" / "README.md").symlink_to(tmp_path / "key")
    assert robust("push", "--repo", f"file://{tmp_path}/share") == 2
    assert "README.md is a link" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "share").iterdir()] == ["README.md"]


def test_a_huge_card_on_the_hub_is_not_fetched(hub: Server, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    hub.add("alice/m", {"README.md": b"x" * 1_000_001})
    assert robust("push", "--repo", "alice/m") == 2
    assert "README.md of alice/m is larger than 1000000 bytes" in capsys.readouterr().err

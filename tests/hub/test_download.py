"""One file over HTTP: what is continued, what is begun again, and what is known about its size."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import Fault, Server

from robustctl.errors import RunError
from robustctl.hub import client
from robustctl.hub.download import Wanted, download

OLD, NEW = b"a" * 50_000, b"b" * 50_000


@pytest.fixture
def wanted(hub: Server, tmp_path: Path) -> Wanted:
    hub.files["a.pt"] = OLD
    return Wanted(f"{hub.url}/files/a.pt", tmp_path / "a.pt")


def fetch(wanted: Wanted) -> tuple[int, list[int]]:
    """Bytes that arrived, and sizes that the server announced."""
    arrived, announced = [0], []
    download(wanted, client.get, arrived.append, announced.append)
    return sum(arrived), announced


@pytest.mark.parametrize(
    "headers", [{}, {"ETag": "", "Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT"}], ids=["tag", "date"]
)
def test_a_file_without_a_hash_is_continued_by_the_next_command(
    hub: Server, wanted: Wanted, headers: dict[str, str]
) -> None:
    hub.headers = headers
    hub.faults.append(Fault("files", cut=30_000))
    hub.faults.append(Fault("files", 418))
    with pytest.raises(RunError, match="answered 418"):
        fetch(wanted)
    assert not wanted.path.exists()
    assert fetch(wanted) == (20_000, [50_000])
    assert wanted.path.read_bytes() == OLD
    assert [path.name for path in wanted.path.parent.glob("a.pt*")] == ["a.pt"]


def test_a_file_that_changed_between_two_commands_is_begun_again(hub: Server, wanted: Wanted) -> None:
    hub.faults += [Fault("files", cut=30_000), Fault("files", 418)]
    with pytest.raises(RunError):
        fetch(wanted)
    hub.files["a.pt"] = NEW
    assert fetch(wanted) == (50_000, [50_000])
    assert wanted.path.read_bytes() == NEW


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_a_server_that_does_not_say_whether_its_file_is_the_same_sends_all_of_it(
    hub: Server, wanted: Wanted, tag: str
) -> None:
    hub.headers = {"ETag": tag}
    hub.faults += [Fault("files", cut=30_000), Fault("files", 418)]
    with pytest.raises(RunError):
        fetch(wanted)
    hub.files["a.pt"] = NEW
    fetch(wanted)
    assert wanted.path.read_bytes() == NEW


def test_a_server_that_continues_another_file_is_not_believed(
    hub: Server, wanted: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults += [Fault("files", cut=30_000), Fault("files", 418)]
    with pytest.raises(RunError):
        fetch(wanted)
    hub.files["a.pt"] = NEW
    get = client.get
    monkeypatch.setattr(
        client, "get", lambda url, headers: get(url, {key: headers[key] for key in headers if key != "If-Range"})
    )
    fetch(wanted)
    assert wanted.path.read_bytes() == NEW


def test_room_is_looked_for_as_soon_as_the_size_is_known(wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=49_999))
    with pytest.raises(RunError, match=re.compile("has 49999 bytes free, .*a.pt needs 50000; make room first")):
        fetch(wanted)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("files", cut=100, times=9), "gave up after 5 attempts, the same command continues"),
        (Fault("files", html=True, times=9), "web page"),
        (Fault("files", 500, times=9), "answered 500; gave up"),
        (Fault("files", 503, times=9), "answered 503; gave up"),
    ],
    ids=["short", "html", "500", "503"],
)
def test_a_file_without_a_hash_is_there_whole_or_not_at_all(
    hub: Server, wanted: Wanted, fault: Fault, message: str
) -> None:
    hub.faults.append(fault)
    with pytest.raises(RunError, match=message):
        fetch(wanted)
    assert not wanted.path.exists()
    hub.faults.clear()
    fetch(wanted)
    assert wanted.path.read_bytes() == OLD


@pytest.mark.parametrize("known", [True, False], ids=["size known", "size unknown"])
def test_not_a_byte_beyond_the_bound_is_kept(hub: Server, wanted: Wanted, known: bool) -> None:
    exact = replace(wanted, size=len(OLD)) if known else replace(wanted, limit=len(OLD))
    hub.faults.append(Fault("files", chunked=b"a"))  # a server that does not announce its length
    with pytest.raises(RunError, match="sends more than the 50000 bytes"):
        fetch(exact)
    assert not wanted.path.exists()
    fetch(exact)
    assert wanted.path.read_bytes() == OLD


def test_a_file_of_unknown_size_is_bounded_below_what_fills_a_disk(wanted: Wanted) -> None:
    assert 10 << 30 <= wanted.limit <= 100 << 30, "above the largest published weights"

"""What may leave this machine."""

from pathlib import Path

import pytest
from samples import result

from robustctl.publish import redact as redact_module
from robustctl.publish.redact import data_names, hub_dataset, last_part, published, redact, redacted, secret_in

USER = "alice"


@pytest.fixture(autouse=True)
def alice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact_module, "_user", lambda: USER)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file:///srv/share/alice/m", "m"),
        ("data:/srv/alice/x", "data:x"),
        ("../alice/private/x", "x"),
        (r"\\server\alice\x", "x"),
        (r"C:\Users\alice\x.npz", "x.npz"),
        ("~bob/y/z", "z"),
        ("tried on /srv/alice/x.npz, then", "tried on x.npz, then"),
        ("{path: /data/alice/x.npz, weight: 1/2}", "{path: x.npz, weight: 1/2}"),
        ('"\\\\\\\\server\\\\alice\\\\y"', '"y"'),
        (f"in /home/{USER}", "in ~"),
    ],
)
def test_paths_in_running_text_are_cut_to_their_last_part(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    ["8/255, a/b/c", "linf:8/255", "and/or", "https://host/a/b?c=/d/e/f", "s3://bucket/a/b", "</b/c>", "| a / b | c"],
)
def test_what_is_no_path_stays(text: str) -> None:
    assert redact(text) == redacted(text) == text


def test_what_is_known_to_be_a_path_is_cut_in_any_characters() -> None:
    assert redact("path: mine/al (1)/x.npz # 1/2", ["mine/al (1)/x.npz"]) == "path: x.npz # 1/2"
    content = {"overrides": ["extra.path=/srv/al's, disk/x.npz", "a=1/2"], "n": 3, "base": "/srv/al (1)/x"}
    assert redacted(content) == {"overrides": ["extra.path=x.npz", "a=1/2"], "n": 3, "base": "x"}


@pytest.mark.parametrize("path", [f"/home/{USER}", r"\\server\alice", "~", "..", "/", "~alice"])
def test_a_last_part_that_shows_the_user_is_not_kept(path: str) -> None:
    assert last_part(path) == "local"


def test_a_last_part_holds_no_markup() -> None:
    assert last_part("/x/![a](http|b)\n#") == "__a__http_b___"


def test_only_what_came_from_the_hub_has_a_hub_id(private_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_dataset("uoft-cs/cifar10") == "uoft-cs/cifar10"
    assert hub_dataset("data/cifar10") is None
    (private_home / "models" / "datasets" / "team" / "own" / "refs").mkdir(parents=True)
    assert hub_dataset("team/own") == "team/own"
    (private_home / "uoft-cs" / "cifar10").mkdir(parents=True)
    monkeypatch.chdir(private_home)
    assert hub_dataset("uoft-cs/cifar10") is None


def test_different_sources_have_different_names() -> None:
    names = data_names(["digits", "/a/t.npz", "/b/t.npz", "/a/t.npz", "/x/mnist", "mnist"])
    assert names == {
        "digits": "digits",
        "/a/t.npz": "local data t.npz",
        "/b/t.npz": "local data t.npz #2",
        "/x/mnist": "local data mnist",
        "mnist": "local data mnist #2",
    }


def test_a_published_result_has_the_same_figures_and_no_path() -> None:
    found = result("file:///srv/alice/m", "0" * 64, 6, ("zero-gradient: see /srv/alice/log",))
    local = found.model_copy(update={"data": found.data.model_copy(update={"source": "/srv/alice/t.npz"})})
    public = published(local, data_names(["/srv/alice/t.npz"]))
    assert (public.union, public.points, public.norms) == (found.union, found.points, found.norms)
    assert (public.model, public.data.source, public.flags) == ("m", "local data t.npz", ["zero-gradient: see log"])


def test_tokens_and_own_paths_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "another-form-of-token")
    assert secret_in("an another-form-of-token b") == "a hub token"
    assert secret_in("hf_" + "a" * 34) == "a hub token"
    assert secret_in(f"in /home/{USER}/x") == f"the local path /home/{USER}"
    assert secret_in(f"in /home/{USER}nt/x") is None

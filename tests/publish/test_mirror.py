"""Mirrors of published models: their card is not written by their entry."""

from pathlib import Path

import pytest
import yaml
from command import robust

from robustctl.models.entry import parse, read
from robustctl.models.find import entry_files
from robustctl.publish import mirror
from robustctl.publish.card import render
from robustctl.publish.push import Target

EVIL = "![x](https://host/p.png) | [y](javascript:z)\n# head <b>&"


def test_what_an_entry_quotes_is_not_markup_in_the_card(private_home: Path) -> None:
    content = read(entry_files()["digits-linf"]).model_dump(by_alias=True, mode="json", exclude_defaults=True)
    accuracy = {"value": 0.5, "norm": "linf", "eps": "0.1", "protocol": EVIL, "source": EVIL}
    content |= {"description": EVIL, "citation": EVIL, "accuracies": [accuracy]}
    table = mirror._published(parse(content, "evil"))
    assert len(table.splitlines()) == 3
    escaped = r"!\[x\](https://host/p.png) \| \[y\](javascript:z) \# head <b>&"
    assert table.splitlines()[-1] == f"| linf:0.1 | 50.00 | ? | {escaped} | {escaped} |"


def test_the_card_of_a_mirror_escapes_each_quote_once(private_home: Path) -> None:
    own = private_home / "models" / "entries"
    own.mkdir(parents=True)
    entry = read(entry_files()["digits-linf"])
    content = entry.model_dump(by_alias=True, mode="json", exclude_defaults=True)
    content["accuracies"] = [{"value": 0.5, "protocol": EVIL, "source": "https://host/a_b"}]
    content["dataset"] = "cifar100"
    weights = private_home / "models" / "weights"
    weights.mkdir()
    (weights / "evil.safetensors").write_bytes(Path(mirror.find_model("digits-linf").weights).read_bytes())
    (own / "evil.yaml").write_text(yaml.safe_dump(content))
    package = mirror.package("evil", Target("alice/evil"), "mit")
    text = render(package.story)
    assert r"\[y\](javascript:z) \# head &lt;b&gt;&amp; |" in text
    assert "&amp;lt;" not in text and "\n# head" not in text
    assert package.story.datasets == ("uoft-cs/cifar100",)


@pytest.mark.parametrize("repo", ["just-a-name", "file://x"])
def test_a_mirror_that_cannot_be_is_refused_before_anything_is_fetched(
    repo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robust("models", "mirror", "gowal-wrn70", "--repo", repo, "--private") == 2
    assert "robustctl: " in capsys.readouterr().err

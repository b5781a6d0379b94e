"""What a push publishes: no claim on data that was not used, no path, no secret."""

import json
from pathlib import Path

import pytest
from command import robust
from hub_server import TOKEN, Server
from samples import result

from robustctl import checkpoint
from robustctl.models.licence import front_matter
from robustctl.runs import Run
from robustctl.spec import ModelSpec


def evaluated_on(run: Run, source: str, dataset: str = "cifar10") -> None:
    """Make the run one of a ``dataset`` model whose only evaluation is on ``source``."""
    model, spec = checkpoint.load_model(run.path)
    config = ModelSpec.model_validate(spec.model_dump(by_alias=True) | {"dataset": dataset})
    (run.path / "config.json").write_text(config.model_dump_json(by_alias=True))
    found = result("run", checkpoint.weights_sha256(model), 6)
    data = found.data.model_copy(update={"source": source})
    found.model_copy(update={"data": data}).write(run.path / "eval" / "a.json")


def all_text(hub: Server, repo: str = "alice/m") -> str:
    names = [name for name in hub.tree(hub.repos[repo], "main") if not name.endswith(".safetensors")]
    return "\n".join(hub.read(repo, name).decode() for name in names)


@pytest.mark.parametrize("source", ["/srv/bob/mine.npz", "data/cifar10", "../uoft-cs/cifar10", "mnist"])
def test_numbers_of_local_images_are_not_published_as_those_of_a_hub_data_set(
    hub: Server, run: Run, source: str
) -> None:
    evaluated_on(run, source)
    assert robust("push", "--repo", "alice/m") == 0
    front = front_matter(hub.read("alice/m", "README.md").decode())
    name = f"local data {Path(source).name}"
    assert front["model-index"][0]["results"][0]["dataset"] == {"type": "local-data", "name": name, "split": "test"}
    assert "datasets" not in front
    assert "uoft-cs" not in all_text(hub)
    assert source == "mnist" or source not in all_text(hub)


@pytest.mark.parametrize(
    ("source", "name"),
    [("uoft-cs/cifar10", "cifar10"), ("uoft-cs/cifar100", "cifar100"), ("ufldl-stanford/svhn", "svhn")],
)
def test_numbers_of_a_hub_data_set_name_it(hub: Server, run: Run, source: str, name: str) -> None:
    evaluated_on(run, source, name)
    run.update(data={"source": source, "n": 10})
    assert robust("push", "--repo", "alice/m") == 0
    front = front_matter(hub.read("alice/m", "README.md").decode())
    assert front["model-index"][0]["results"][0]["dataset"] == {"type": source, "name": name, "split": "test"}
    assert front["datasets"] == [source]


def test_nothing_of_a_run_with_paths_everywhere_shows_a_folder(hub: Server, run: Run, private_home: Path) -> None:
    secret = "/srv/bob's disk/private"
    evaluated_on(run, f"{secret}/test.npz")
    run.update(
        model="file:///srv/share/private/start",
        base="file:///srv/share/private/start",
        recipe_name="../private/recipes/mine.yaml",
        overrides=[f"extra.path={secret}/extra.npz", "optim.lr=0.01"],
        recipe={"extra": {"path": f"{secret}/extra.npz", "weight": "1/2"}},
        data={"source": "private/bob/train.npz", "n": 10},
    )
    recipe = f"# data:/srv/private/x, 8/255\nextra:\n  path: {secret}/extra.npz\n"
    (run.path / "recipe.yaml").write_text(recipe)
    assert robust("push", "--repo", "alice/m") == 0
    text = all_text(hub)
    assert "private" not in text.replace("privately", "")
    assert "/media" not in text and "/srv" not in text and "bob" not in text
    assert hub.read("alice/m", "recipe.yaml").decode() == "# data:x, 8/255\nextra:\n  path: extra.npz\n"
    card = hub.read("alice/m", "README.md").decode()
    assert "fine-tuned from start " in card
    assert "- recipe: mine.yaml with extra.path=extra.npz, optim.lr=0.01" in card
    assert "- data: local data train.npz (10 images)" in card
    record = json.loads(hub.read("alice/m", "robustctl/run.json"))
    assert (record["model"], record["base"]) == ("start", "start")


def test_a_directory_that_is_called_like_an_entry_is_not_claimed_as_base_model(hub: Server, run: Run) -> None:
    run.update(base="leaf-clip-h14-cifar10", model="./leaf-clip-h14-cifar10")
    assert robust("push", "--repo", "alice/m") == 0
    assert "base_model" not in front_matter(hub.read("alice/m", "README.md").decode())
    run.update(model="leaf-clip-h14-cifar10")
    assert robust("push", "--repo", "alice/m") == 0
    assert "base_model" in front_matter(hub.read("alice/m", "README.md").decode())


def test_a_refusal_names_the_file_that_the_user_can_change(
    hub: Server, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run.update(overrides=[f"note={TOKEN}"])
    assert robust("push", "--repo", "alice/m") == 2
    error = capsys.readouterr().err
    assert f"run.json would publish a hub token; remove it from {run.path / 'run.json'} and push again" in error
    run.update(overrides=[])
    hub.add("alice/m", {"README.md": f"mine: {TOKEN}\n".encode()})
    assert robust("push", "--repo", "alice/m") == 2
    assert "the card of alice/m holds a hub token; remove it from README.md there" in capsys.readouterr().err
    own = f"see {Path.home()}/notes\n".encode()
    hub.add("alice/m", {"README.md": own})
    assert robust("push", "--repo", "alice/m") == 0
    assert own in hub.read("alice/m", "README.md")

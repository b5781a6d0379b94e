"""Entries: the bundled ones, and a corpus of bad ones with their messages."""

import re
from pathlib import Path

import pytest
import torch

from robustctl.architectures import build
from robustctl.errors import RequestError
from robustctl.models import entry as entries
from robustctl.models.find import BUNDLED
from robustctl.models.licence import LICENCES

FILES = sorted((BUNDLED / "entries").glob("*.yaml"))

GOOD = """
description: a model
architecture: {name: kw-small}
input_shape: [1, 28, 28]
n_classes: 10
dataset: mnist
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_bundled_entry_builds_and_has_the_parameters_that_it_states(path: Path) -> None:
    entry = entries.read(path)
    assert entries.check_name(path.stem) == path.stem
    assert entry.licence is None or entry.licence in LICENCES
    assert entry.sources or (BUNDLED / "weights" / f"{path.stem}.safetensors").is_file()
    if entry.architecture.name.partition("/")[0] in ("timm", "torchvision"):
        return  # an optional package builds these; tests/architectures/test_architectures__zoo.py tries it
    if entry.architecture.name == "clip":
        pytest.importorskip("transformers", reason="CLIP is an extra")
    with torch.device("meta"):
        model = build(entry.spec)
    assert entry.parameters == sum(parameter.numel() for parameter in model.net.parameters())


def test_published_accuracies_are_fractions_with_a_source() -> None:
    for path in FILES:
        for accuracy in entries.read(path).accuracies:
            assert 0.04 < accuracy.value <= 1, path
            assert accuracy.source


def test_imagenet_entries_take_images_of_any_size_as_their_authors_did() -> None:
    resizing = {
        path.stem: entries.read(path).spec.resizing for path in FILES if entries.read(path).dataset == "imagenet"
    }
    words = {
        name: one.text(entries.read(BUNDLED / "entries" / f"{name}.yaml").input_shape[2])
        for name, one in resizing.items()
        if one
    }
    assert len(words) == len(resizing) > 50
    assert words["engstrom-rn50-imagenet"] == words["deit-s"] == "shorter side to 256 (bilinear), centre 224x224"
    assert words["xcit-s12"] == "shorter side to 224 (bicubic), centre 224x224"
    assert words["wong-fast-rn50-imagenet"] == "centre 288x288"
    assert all(entries.read(path).spec.resizing is None for path in FILES if path.stem not in resizing)


def test_an_entry_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    for path in FILES:
        entry = entries.read(path)
        entries.write(entry, tmp_path / path.name)
        assert entries.read(tmp_path / path.name) == entry


CLIP = GOOD.replace("kw-small", "clip").replace("[1, 28, 28]", "[3, 8, 8]").replace("n_classes: 10", "n_classes: 2")
ZERO_SHOT = (
    "{classes: [a, b], prompt: 'a {}', text: {width: 8, layers: 1, heads: 2}, "
    "tokenizer: {repo: a/b, revision: main, file: t.json}}"
)

BAD_ENTRIES = [
    ("[1, 2]", "holds no mapping"),
    ("", "holds no mapping"),
    ("a: [", "is not YAML"),
    ("a: *missing", "is not YAML"),
    ("!!python/object/apply:os.system ['touch trace']", "is not YAML"),
    ("key: !!python/name:os.system", "is not YAML"),
    ("key: 2024-13-45", "is not YAML"),
    ("key: !!int ten", "is not YAML"),
    ("key: !!int ''", "is not YAML: line .*a value does not fit its tag"),
    ("key: 0b_", "is not YAML"),
    ("key: !!timestamp x", "is not YAML: line .*a value does not fit its tag"),
    ("key: !!bool maybe", "is not YAML: line .*a value does not fit its tag"),
    ("key: " + "9" * 5000, "is not YAML"),
    ("[" * 20_000, "is not YAML"),
    ("description: x", "architecture: Field required"),
    (GOOD + "colour: red", "colour: Extra inputs are not permitted"),
    (GOOD + "auto_map: {AutoModel: evil.Model}", "auto_map: Extra inputs are not permitted"),
    (GOOD.replace("n_classes: 10", "n_classes: 1"), "n_classes: .*greater than or equal to 2"),
    (GOOD.replace("[1, 28, 28]", "[1, 28]"), "input_shape"),
    (GOOD.replace("[1, 28, 28]", "[0, 28, 28]"), "input_shape.0"),
    (GOOD + "norm: linf", "norm and eps go together"),
    (GOOD + "norm: l3\neps: '1'", "norm"),
    (GOOD + "norm: linf\neps: 8/0", "eps '8/0' divides by zero"),
    (GOOD + "norm: linf\neps: '-1'", "above 0"),
    (GOOD + "normalization: {mean: [0.5], std: [0]}", "normalization.std.0"),
    (GOOD + "normalization: {mean: [0.5, 0.5], std: [0.5, 0.5]}", "normalization needs 1 values"),
    (GOOD + "sources: [{file: a.pt}]", "give exactly one of repo, url, page"),
    (GOOD + "sources: [{repo: a/b, file: a.pt}]", "needs the revision"),
    (GOOD + "sources: [{repo: ../b, revision: main, file: a.pt}]", "sources.0.repo"),
    (GOOD + "sources: [{repo: a/modèle, revision: main, file: a.pt}]", "sources.0.repo"),
    (GOOD + "sources: [{repo: a/b, revision: main, file: ../../x}]", "must be a path inside its repo"),
    (GOOD + "sources: [{repo: a/b, revision: main, file: /etc/passwd}]", "must be a path inside its repo"),
    (GOOD + "sources: [{url: 'file:///etc/passwd', file: a.pt}]", "sources.0.url"),
    (GOOD + "sources: [{url: 'http://example.org/a', file: a.pt}]", "sources.0.url"),
    (GOOD + "sources: [{url: 'http://127.0.0.1.example.org/a', file: a.pt}]", "sources.0.url"),
    (GOOD + "sources: [{url: 'http://localhost@example.org/a', file: a.pt}]", "sources.0.url"),
    (GOOD + "sources: [{page: 'http://example.org/a', file: a.pt}]", "sources.0.page"),
    (GOOD + "sources: [{url: 'https://', file: a.pt}]", "sources.0.url"),
    (GOOD + "sources: [{url: 'https://a/b', file: a.pt, sha256: abc}]", "sources.0.sha256"),
    (GOOD + "sources: [{url: 'https://a/b', file: a.pt, size: -1}]", "sources.0.size"),
    (GOOD + "accuracies: [{value: 91.1, protocol: clean, source: x}]", "accuracies.0.value"),
    (GOOD + "accuracies: [{value: 0.5, protocol: AA, source: x, norm: linf}]", "norm and eps go together"),
    (GOOD + "keys: {rename: {a: b}}", "keys.rename: Extra inputs"),
    (GOOD + f"zero_shot: {ZERO_SHOT}", "zero_shot is for architecture clip, not kw-small"),
    (CLIP + f"zero_shot: {ZERO_SHOT.replace('[a, b]', '[a, b, c]')}", "zero_shot names 3 classes, n_classes is 2"),
    (CLIP + f"zero_shot: {ZERO_SHOT.replace('[a, b]', '[a, [b]]')}", "zero_shot.classes.1: .*valid string"),
    (CLIP + f"zero_shot: {ZERO_SHOT.replace('[a, b]', '[a, !!str ]')}", "zero_shot.classes.1: .*at least 1 character"),
    (CLIP + f"zero_shot: {ZERO_SHOT.replace('a {}', 'nothing')}", "zero_shot.prompt: 'nothing' must have one {}"),
    (CLIP + f"zero_shot: {ZERO_SHOT.replace('heads: 2', 'heads: 3')}", "width 8 is not a multiple of heads 3"),
    (CLIP + f"zero_shot: {ZERO_SHOT.replace('heads: 2', 'heads: 2, vocabulary: 2')}", "zero_shot.text.vocabulary"),
    (CLIP + f"zero_shot: {ZERO_SHOT.replace('t.json', '../t.json')}", "must be a path inside its repo"),
    (CLIP + f"zero_shot: {ZERO_SHOT.replace('heads: 2', 'heads: 2, auto_map: evil')}", "auto_map: Extra inputs"),
    ("x" * 1_000_001, "more than the 1000000 that are read"),
]


@pytest.mark.parametrize(("text", "message"), BAD_ENTRIES, ids=range(len(BAD_ENTRIES)))
def test_a_bad_entry_gets_its_message(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RequestError, match=re.compile(f"bad.yaml.*{message}", re.DOTALL)):
        entries.read(path)
    assert [found.name for found in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize("name", ["", "../x", "A", "a/b", ".hidden", "a b", "x" * 81, "-x"])
def test_names_that_could_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="use lower-case letters"):
        entries.check_name(name)


def test_all_faults_of_an_entry_are_listed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD.replace("n_classes: 10", "n_classes: 1") + "colour: red\nparameters: -3\n")
    with pytest.raises(RequestError) as caught:
        entries.read(path)
    assert all(key in str(caught.value) for key in ("n_classes", "colour", "parameters"))


def test_every_entry_states_its_size_and_marks_file_names_behind_links() -> None:
    for path in FILES:
        entry = entries.read(path)
        assert entry.parameters, path
        if any(source.page and "drive.google.com/file/" in source.page for source in entry.sources):
            assert any("the file name behind" in one for one in entry.unverified), path

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest

from robustctl.conventions import CONVENTIONS, KNOWN
from robustctl.errors import RequestError
from robustctl.recipe import read as recipe
from robustctl.recipe.schema import Settings
from robustctl.threats import require_plausible

GOOD = """\
dataset: cifar10
about: {paper: none, cost: none}
method:
  name: e-at
train:
  threats: {linf: 8/255, l1: 12}
  epochs: 3
  batch_size: 128
evaluate:
  threats: {linf: 8/255, l2: 0.5, l1: 12}
attack: {name: apgd, steps: 10}
optim:
  lr: {preact-resnet18: 0.05, default: 0.01}
  weight_decay: 5e-4
schedule: {name: step-per-third}
selection: {images: 1000}
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def message(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(RequestError) as caught:
        recipe.load(write(tmp_path, text), overrides)
    return str(caught.value)


@pytest.mark.parametrize("name", recipe.names())
def test_shipped_recipe_is_valid_and_says_where_it_comes_from(name: str) -> None:
    loaded = recipe.load(name)
    text = loaded.path.read_text()
    assert loaded.settings.dataset == name.split("/")[0]
    assert text.startswith("# ") and "robustctl" in text.split("dataset:")[0], "the header names the command"
    if loaded.settings.dataset in CONVENTIONS:
        standard = {threat.norm: threat.eps for threat in CONVENTIONS[loaded.settings.dataset].threats}
        assert all(threat.eps == standard[threat.norm] for threat in loaded.settings.evaluate_threats)
    known = KNOWN[loaded.settings.dataset]
    require_plausible([*loaded.settings.train_threats, *loaded.settings.evaluate_threats], known.input_shape)


def value(settings: Settings, key: str) -> object:
    found: object = settings.model_dump(mode="json")
    for part in key.split("."):
        found = found[int(part) if part.isdigit() else part] if found is not None else None  # type: ignore[index]
    return found


@pytest.mark.parametrize(
    ("name", "key", "published"),
    [
        ("cifar10/ramp-wrn", "outer.name", "trades-xent"),  # RAMP B.6: that of Croce and Hein
        ("cifar10/e-at-wrn", "outer.name", "trades-xent"),
        ("cifar10/z-mc", "schedule.name", "one-cycle"),  # thesis 3.3.4: OneCycleLR's defaults
        ("cifar10/z-ps", "schedule.name", "one-cycle"),
        ("cifar10/overfitting-l1", "regularize.l1", 5e-5),  # thesis 2.3.6
        ("cifar10/overfitting-l2", "optim.weight_decay", 5e-3),
        ("cifar10/overfitting-l2", "optim.decay_on", "weights"),
        ("cifar10/overfitting-l2", "regularize", None),
        ("cifar10/msd-paper", "train.threats.l2", "0.3"),  # the authors' code, as the next ones
        ("cifar10/msd-paper", "train.epochs", 50),
        ("cifar10/msd-paper", "attack.steps.l1", 50),
        ("cifar10/msd-paper", "architecture.preact-resnet18.bn_before_fc", False),
        ("imagenet/fgsm", "resize.0.size", 128),
        ("imagenet/fgsm", "resize.1.batch_size", 224),
        ("imagenet/fgsm", "schedule.through.2", [6.0, 0.1]),
        ("imagenet/free-fast", "resize.2.size", 288),
        ("mnist/avg", "train.threats.l1", "12"),  # MSD 5.2
        ("mnist/avg", "evaluate.threats.l1", "10"),
        *((f"cifar10/{name}-wrn", "schedule.peak", 0.4) for name in ("e-at", "ramp", "avg", "msd", "l1-at")),
        *((f"mnist/{name}", "schedule.peak", 0.4) for name in ("e-at", "e-at-larger", "avg", "msd", "l2-at")),
        *(
            (f"cifar10/{name}", "optim.decay_on", "weights")
            for name in ("e-at-wrn", "max-wrn", "ramp-scratch", "sat-scratch", "l1-at", "at-gp-scratch")
        ),
        ("cifar10/e-at", "optim.decay_on", "all"),  # their fine-tuning decays everything
        ("imagenet/ramp", "train.batch_size", 64),  # RAMP section 5
        ("imagenet/e-at", "train.batch_size", 256),  # E-AT section A
    ],
)
def test_recipe_has_the_published_value(name: str, key: str, published: object) -> None:
    assert value(recipe.load(name).settings, key) == published


def test_imagenets_batches_shrink_as_images_grow() -> None:
    resized = [phases for name in recipe.names() if (phases := recipe.load(name).settings.resize)]
    assert resized
    for phases in resized:
        assert [phase.size for phase in phases] == sorted({phase.size for phase in phases})
        assert [phase.batch_size for phase in phases] == sorted({phase.batch_size for phase in phases}, reverse=True)


def test_unions_in_headers_are_rows_of_the_papers_tables(shared: Path) -> None:
    with (shared / "reference" / "union.csv").open(newline="") as file:
        rows = {tuple(row[key] for key in ("clean", "linf", "l2", "l1", "union")) for row in csv.DictReader(file)}
    printed = re.compile(r"(?<![\d.] / )" + " / ".join([r"(\d+\.\d+)"] * 5) + r"(?! / \d)")
    found = {
        (name, row)
        for name in recipe.names()
        if not name.startswith("digits/")
        for row in printed.findall(recipe.load(name).path.read_text())
    }
    assert len(found) > 80
    assert not {(name, row) for name, row in found if row not in rows}


@pytest.mark.parametrize("name", recipe.names())
def test_header_tells_what_to_expect_and_the_cost_on_which_hardware(name: str) -> None:
    loaded = recipe.load(name)
    header = loaded.path.read_text().split("dataset:")[0]
    assert "# Expected" in header or "# No published numbers" in header
    assert f"--recipe {name.split('/')[1]}" in header or f"--recipe {name}" in header
    assert re.search("A100|V100|RTX|1080 Ti|CPU|hardware|not published", loaded.settings.about.cost)


def test_every_method_has_a_recipe() -> None:
    from robustctl import discovery

    used = {recipe.load(name).settings.method.name for name in recipe.names()}
    assert used == set(discovery.names("robustctl.training.methods"))


def test_three_faults_are_listed_with_their_lines(tmp_path: Path) -> None:
    text = GOOD.replace("epochs: 3", "epochs: 0").replace("weight_decay", "weight_decai").replace("l2: 0.5", "l2: 8/0")
    found = message(tmp_path, text)
    assert "4 faults" in found  # a misspelt key is unknown, and the right one is missing
    assert "line 7: train.epochs: input should be greater than 0 (given: 0)" in found
    assert "line 10: evaluate.threats: eps '8/0' divides by zero" in found
    assert "line 14: optim.weight_decai: unknown key. Did you mean 'weight_decay'?" in found


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("name: e-at", "name: e-att", "line 4: method.name: unknown method 'e-att'. Did you mean 'e-at'?"),
        (
            "name: e-at",
            "name: e-at\n  samplign: uniform",
            "line 5: method.samplign: unknown key. Did you mean 'sampling'",
        ),
        ("name: e-at", "name: ramp\n  weight: 0.5", "line 3: method.pair: missing"),
        (
            "name: e-at",
            "name: ramp\n  weight: -1\n  pair: [linf, l1]",
            "method.weight: input should be greater than or",
        ),
        ("name: e-at", "name: msd", "line 11: attack.name: method msd needs pgd, not apgd"),
        ("l1: 12}\n  epochs", "l2: 0.5}\n  epochs", "line 6: train.threats: method e-at trains on linf and l1"),
        ("step-per-third", "step-per-thrid", "Did you mean 'step-per-third'?"),
        ("steps: 10", "steps: {linf: 10}", "attack.steps lacks l1, which train.threats names"),
        ("attack: {name: apgd, steps: 10}", "", "attack: missing; method e-at needs one of apgd, pgd"),
        ("linf: 8/255, l1: 12}\n  ep", "lnif: 8/255, l1: 12}\n  ep", "unknown norm 'lnif'. Did you mean 'linf'?"),
        ("epochs: 3", "epochs: 3\n  epochs: 4", "line 8: train.epochs: given twice"),
        ("selection: {images: 1000}", "", "selection: missing"),
        (
            "preact-resnet18:",
            "preact-resnet81:",
            "line 13: optim.lr.preact-resnet81: unknown architecture 'preact-resnet81'. Did you mean 'preact-resnet1",
        ),
        (
            "selection:",
            "architecture:\n  preact-resnet81: {activation: softplus}\nselection:",
            "line 17: architecture.preact-resnet81: unknown architecture 'preact-resnet81'. Did you mean",
        ),
        ("5e-4", "5e-4\n  nesterov: true\n  momentum: 0", "line 12: optim: nesterov: true needs a momentum above 0"),
        (
            "optim:",
            "optim:\n  name: adam\n  momentum: 0.5",
            "line 14: optim.momentum: unknown key. Known: decay_on, lr,",
        ),
        ("optim:", "optim:\n  name: adamm", "line 13: optim.name: unknown name 'adamm'. Did you mean 'adam'?"),
        (
            "selection:",
            "extra: {path: x, share: 0.999}\nselection:",
            "line 16: extra.share: 0.999 of a batch of 128 is 128 images; both sources must give at least one",
        ),
        (
            "selection:",
            "extra: {path: x, share: 0.1}\nresize: [{at: 0, size: 32, batch_size: 4}]\nselection:",
            "line 16: extra.share: 0.1 of a batch of 4 is 0 images",
        ),
        (
            "name: e-at",
            "name: ramp\n  weight: 0.5\n  pair: [linf, l1]\n  auto_steps: 0",
            "line 7: method.auto_steps: input should be greater than 0",
        ),
        ("steps: 10}", "steps: 10}\nouter: {name: trades}", "line 11: attack.start: outer trades needs a random start"),
    ],
)
def test_fault_names_the_users_key_and_what_would_be_right(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert expected in message(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize(
    ("name", "override", "expected"),
    [
        ("msd", "attack.start=random", "attack.start: method msd starts from zero, not from random"),
        (
            "msd",
            "outer={name: trades}",
            "outer.name: method msd begins at the clean image, where trades has no gradient",
        ),
        ("fgsm-zero", "outer={name: trades}", "use cross-entropy or trades-xent"),
        ("free", "outer={name: trades-xent}", "use cross-entropy"),
        ("z-mc", "outer={name: trades}", "outer: method z-mc has a loss of its own; remove the block"),
    ],
)
def test_attack_that_could_not_climb_is_refused(name: str, override: str, expected: str) -> None:
    with pytest.raises(RequestError) as caught:
        recipe.load(f"cifar10/{name}", [override])
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["fgsm", "max", "e-at"])
def test_trades_goes_with_attacks_from_a_random_start(name: str) -> None:
    overrides = ["outer={name: trades}", *([] if name == "fgsm" else ["attack.start=random"])]
    assert recipe.load(f"cifar10/{name}", overrides).settings.outer.name == "trades"


def test_override_is_checked_like_the_file_and_recorded(tmp_path: Path) -> None:
    loaded = recipe.load(write(tmp_path, GOOD), ["optim.lr=0.02", "train.epochs=1"])
    assert loaded.settings.optim.lr == {"default": 0.02} and loaded.settings.train.epochs == 1
    assert loaded.overrides == ("optim.lr=0.02", "train.epochs=1")
    found = message(tmp_path, GOOD, "optim.lrr=1", "train.epochs=none")
    assert "--set optim.lrr=1: optim.lrr: unknown key. Did you mean 'lr'?" in found
    assert "--set train.epochs=none: train.epochs:" in found


@pytest.mark.parametrize(
    ("name", "override", "expected"),
    [
        ("natural", "attack.steps=2", "attack: method natural takes no attack block; remove it"),
        ("fgsm", "attack={name: 3}", "attack: method fgsm takes no attack block; remove it"),
        ("e-at", "attack={steps: 2}", "attack.name: missing; give one of apgd, pgd"),
        ("e-at", "attack.name=", "attack.name: missing; give one of apgd, pgd"),
        ("e-at", "attack.name=zzz", "attack.name: unknown name 'zzz'. Available: apgd, pgd"),
        ("e-at", "outer.beta=3", "outer.name: missing; give one of cross-entropy, hat, mart, score, trades, trades-x"),
        ("e-at", "optim.lr.kind=1", "optim.lr.kind: unknown architecture 'kind'. The nearest of "),
    ],
)
def test_override_of_a_block_is_told_what_the_block_lacks_and_nothing_that_is_not_near(
    name: str, override: str, expected: str
) -> None:
    with pytest.raises(RequestError) as caught:
        recipe.load(f"digits/{name}", [override])
    (fault,) = (line for line in str(caught.value).splitlines()[1:] if not line.startswith("hint: "))
    assert fault.startswith(f"  --set {override}: {expected}")
    assert "Did you mean" not in fault and "(given:" not in fault


@pytest.mark.parametrize("override", ["optim.lr", "=3", "optim..lr=3", "optim.lr=[1"])
def test_malformed_override_is_a_request_error(tmp_path: Path, override: str) -> None:
    assert "--set" in message(tmp_path, GOOD, override)


@pytest.mark.parametrize("text", ["", "- a\n", "a: [1\n", "a: !!python/object:os.system {}\n", "\x00"])
def test_file_that_is_no_recipe_is_a_request_error(tmp_path: Path, text: str) -> None:
    assert "mine.yaml" in message(tmp_path, text)


def test_learning_rate_goes_by_architecture(tmp_path: Path) -> None:
    optim = recipe.load(write(tmp_path, GOOD)).settings.optim
    assert optim.lr_for("preact-resnet18") == 0.05 and optim.lr_for("wide-resnet") == 0.01


def test_name_is_looked_up_for_the_models_dataset() -> None:
    assert recipe.load("e-at", dataset="digits").name == "digits/e-at"
    assert recipe.load("digits/e-at").short_name == "e-at"


@pytest.mark.parametrize(
    ("name", "dataset", "expected"),
    [
        ("e-att", "digits", "Did you mean 'e-at'?"),
        ("e-at", None, "say which: "),
        ("e-at", "svhn", "no recipes for dataset 'svhn'"),
        ("cifar10/e-at", "digits", "is for dataset 'cifar10', the model for 'digits'"),
        ("cifar10/eat", None, "Did you mean 'cifar10/e-at'?"),
        ("nowhere.yaml", None, "no recipe file at nowhere.yaml"),
    ],
)
def test_recipe_that_does_not_fit_is_a_request_error(name: str, dataset: str | None, expected: str) -> None:
    with pytest.raises(RequestError, match=expected.replace("(", r"\(").replace("?", r"\?")):
        recipe.load(name, (), dataset)


def test_resolved_recipe_reads_back_the_same() -> None:
    settings = recipe.load("cifar10/ramp-wrn").settings
    assert recipe.from_resolved(settings.model_dump(mode="json")) == settings


def test_differences_name_the_changed_keys() -> None:
    old = recipe.load("digits/e-at").resolved()
    new = recipe.load("digits/e-at", ["optim.lr=0.5", "method.sampling=uniform"]).resolved()
    lines = recipe.differences(old, new)
    assert [line.split(" ")[0] for line in lines] == ["method.sampling", "optim.lr.default"]


@pytest.mark.parametrize(
    ("name", "dimension", "verdict"),
    [("cifar10/e-at", 3072, "holds: .*radius 0.6138"), ("mnist/e-at", 784, "DOES NOT hold: .*radius 1.7379")],
)
def test_hull_line_says_whether_the_assumption_holds(name: str, dimension: int, verdict: str) -> None:
    line = recipe.hull_line(recipe.load(name).settings, dimension)
    assert line is not None and re.search(verdict, line)
    assert recipe.hull_line(recipe.load("cifar10/sat").settings, 3072) is None


def test_reading_recipes_imports_no_torch() -> None:
    read = "import sys; from robustctl.recipe import read as recipe; [recipe.load(name) for name in recipe.names()]"
    code = f"{read}; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("name", [one for one in recipe.names() if one.startswith("cifar10/")])
def test_preact_resnet18_ends_in_normalisation_but_in_msds_own_code(name: str) -> None:
    args = recipe.load(name).settings.architecture.get("preact-resnet18", {})
    assert args.get("bn_before_fc", True) == (name != "cifar10/msd-paper")

"""Every forgery of a published claim is caught: exit code 1, and a sentence that says where."""

import json
import lzma
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from claimed import adopt, change_json, change_witnesses, claim_of, seal
from safetensors.torch import load_file, save_file
from verdicts import rewritten, texts, verdict

from robustctl.data import load
from robustctl.evaluation.witness_code import pack, unpack
from robustctl.publish.card import section_sha256_in
from robustctl.results import union as results
from robustctl.threats import Threat
from robustctl.workflows.claims import published_text

Content = dict[str, Any]


def test_a_claim_without_its_file_of_witnesses_cannot_be_checked(shelf: Path, tmp_path: Path) -> None:
    next((shelf / "witnesses").glob("*")).unlink()
    seal(shelf)
    claim = verdict(f"file://{shelf}", tmp_path)
    assert claim["verdict"] == "cannot be checked" and "no witnesses" in texts(claim)


def test_points_whose_witness_was_removed_are_named(shelf: Path, tmp_path: Path) -> None:
    images, threat = load("digits", "test", 40), Threat.of("linf", "0.2")

    def drop_one(tensors: dict[str, torch.Tensor], _: object) -> None:
        index = tensors["linf.index"]
        x_adv = unpack(tensors["linf.delta.0"].numpy().tobytes(), images.images(index), threat)
        packed = pack(x_adv[1:], images.images(index[1:]), threat)
        tensors["linf.index"], tensors["linf.delta.0"] = (
            index[1:].clone(),
            torch.tensor(list(packed), dtype=torch.uint8),
        )

    removed = int(load_file(next((shelf / "witnesses").glob("*")))["linf.index"][0])
    change_witnesses(shelf, drop_one)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "cannot be checked"
    assert claim["findings"][0]["points"] == [removed]


def test_broken_points_that_are_claimed_to_be_robust_are_found_by_the_fresh_attack(shelf: Path, tmp_path: Path) -> None:
    """The most thorough forgery: everything fits together, and no witness is left that would contradict it."""
    result = results.read(claim_of(shelf))
    rewritten(shelf, dict.fromkeys(result.norms, result.points.clean))

    def drop_all(tensors: dict[str, torch.Tensor], _: object) -> None:
        for norm in result.norms:
            tensors.pop(f"{norm}.delta.0")
            tensors[f"{norm}.index"] = torch.zeros(0, dtype=torch.int64)

    change_witnesses(shelf, drop_all)
    claim = verdict(shelf, tmp_path, "--seed", 1, "--sample", 12)
    assert claim["verdict"] == "not reproduced" and "linf" in texts(claim) and "survivors fell" in texts(claim)


def test_witnesses_that_contradict_the_claim_are_found(shelf: Path, tmp_path: Path) -> None:
    result = results.read(claim_of(shelf))
    first = next(i for i, one in enumerate(result.points.robust["linf"]) if not one and result.points.clean[i])
    forged = {norm: list(bits) for norm, bits in result.points.robust.items()}
    forged["linf"][first] = 1
    rewritten(shelf, forged)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "claimed to be robust are broken" in texts(claim)


def test_changed_labels_are_found(shelf: Path, tmp_path: Path) -> None:
    labels = results.read(claim_of(shelf)).points.label
    rewritten(shelf, label=[(labels[0] + 1) % 10, *labels[1:]])
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "labels of the claim" in texts(claim)
    assert claim["findings"][-1]["points"] == [0]


def test_another_subset_of_points_is_found(shelf: Path, tmp_path: Path) -> None:
    index = results.read(claim_of(shelf)).points.index
    rewritten(shelf, index=[one + 100 for one in index])
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "labels of the claim" in texts(claim)


def test_other_images_under_the_same_names_are_found(shelf: Path, tmp_path: Path) -> None:
    change_json(claim_of(shelf), lambda content: content["data"].update(content_sha256="0" * 64))
    adopt(shelf)
    assert "images of digits (test) are not those" in texts(verdict(shelf, tmp_path))


def test_swapped_weights_are_found(shelf: Path, tmp_path: Path) -> None:
    tensors = load_file(shelf / "model.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.dim() > 1)
    save_file({**tensors, name: tensors[name] * 1.01}, shelf / "model.safetensors")
    seal(shelf)
    claim = verdict(f"file://{shelf}", tmp_path)
    assert claim["verdict"] == "not reproduced" and "weights are not those" in texts(claim)


def test_figures_that_do_not_follow_from_the_points_are_found(shelf: Path, tmp_path: Path) -> None:
    change_json(claim_of(shelf), lambda content: content["union"].update(acc=0.9))
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "union.acc" in texts(claim)


CARD_EDITS = {
    "value": ("      value: 0.475", "      value: 0.99", "the robust accuracy, linf, eps 0.2 is 0.99"),
    "radius": ("eps: '0.2'", "eps: '0.3'", "eps 0.3 of the robust accuracy, linf"),
    "points": ("        n: 40", "        n: 9000", "n 9000 of the clean accuracy"),
    "attack": ("attack: fast", "attack: full", "attack full of the clean accuracy"),
    "data": ("      type: digits", "      type: uoft-cs/cifar10", "dataset uoft-cs/cifar10"),
    "another figure": ("name: clean accuracy", "name: certified accuracy", "certified accuracy"),
    "no form of the hub": ("    metrics:", "    measures:", "not of the hub's form"),
    "no YAML": ("model-index:", "model-index: [", "the front matter"),
    "table": ("| linf:0.2 | 47.5 ", "| linf:0.2 | 97.5 ", "the card's section of robustctl"),
    "a flag": ("- estimate: the fast protocol is weak", "- the protocol is strong", "the card's section of robustctl"),
    "second opinion": ("0 of 8 sampled survivors", "0 of 800 sampled survivors", "the card's section of robustctl"),
}


@pytest.mark.parametrize(("there", "forged", "told"), CARD_EDITS.values(), ids=list(CARD_EDITS))
def test_what_only_the_card_says_is_found(shelf: Path, tmp_path: Path, there: str, forged: str, told: str) -> None:
    card = shelf / "README.md"
    text = card.read_text()
    assert there in text
    card.write_text(text.replace(there, forged, 1))
    claim = verdict(shelf, tmp_path, "--sample", 0)
    assert claim["verdict"] == "not reproduced" and told in texts(claim)


SECTION_EDITS = [name for name in CARD_EDITS if "section of robustctl" in CARD_EDITS[name][2]]


@pytest.mark.parametrize("name", SECTION_EDITS)
def test_a_card_that_was_changed_together_with_its_hash_is_compared_with_the_results(
    shelf: Path, tmp_path: Path, name: str
) -> None:
    there, forged, _ = CARD_EDITS[name]
    rewrite_card(shelf, lambda text: text.replace(there, forged, 1))
    claim = verdict(shelf, tmp_path, "--sample", 0)
    assert claim["verdict"] == "not reproduced" and "does not follow from its results" in texts(claim)
    assert "the one that was pushed" not in texts(claim)


def test_a_line_that_was_taken_out_of_the_card_and_one_that_was_put_in_are_found(shelf: Path, tmp_path: Path) -> None:
    rewrite_card(shelf, lambda text: re.sub(r"^\| union .*\n", "", text, flags=re.MULTILINE))
    assert "the card lacks '| union" in texts(verdict(shelf, tmp_path, "--sample", 0))
    rewrite_card(shelf, lambda text: text.replace("## Provenance\n", "## Provenance\n| union | 99.0 |\n"))
    assert "the card says '| union | 99.0 |'" in texts(verdict(shelf, tmp_path, "--sample", 0))


def rewrite_card(shelf: Path, change: Callable[[str], str]) -> None:
    """Change a card, and the hash of its section so that it fits."""
    card = shelf / "README.md"
    text = change(card.read_text())
    assert text != card.read_text()
    card.write_text(text)
    change_json(shelf / "robustctl/run.json", lambda content: content.update(card_sha256=section_sha256_in(text)))
    assert published_text(shelf, "card_sha256") == section_sha256_in(text)


def test_points_that_are_claimed_to_withstand_their_8_bit_images_are_judged(shelf: Path, tmp_path: Path) -> None:
    broken: list[int] = []

    def forge(content: Content) -> None:
        points = content["points"]
        column, clean = points["robust_8bit"]["linf"], points["clean"]
        broken.extend(i for i, right in enumerate(column) if clean[i] and not right)
        column[broken[0]] = 1
        content["norms"]["linf"]["acc_8bit"] = sum(column) / len(column)

    honest = results.read(claim_of(shelf))
    claim = verdict(shelf, tmp_path)
    assert {norm: one["proven"] for norm, one in claim["eight_bit"].items()} == honest.points.shares_8bit()
    change_json(claim_of(shelf), forge)
    adopt(shelf)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "claimed to withstand their 8-bit images do not" in texts(claim)
    assert claim["findings"][0]["points"] == [honest.points.index[broken[0]]]


def test_a_share_on_8_bit_images_without_its_points_is_recomputed(shelf: Path, tmp_path: Path) -> None:
    """Results of earlier versions have the share alone."""

    def forge(content: Content, by: int) -> None:
        content["points"].pop("robust_8bit", None)
        content["norms"]["linf"]["acc_8bit"] += by / 40

    change_json(claim_of(shelf), lambda content: forge(content, 0))
    adopt(shelf)
    assert verdict(shelf, tmp_path)["verdict"] == "confirmed"
    change_json(claim_of(shelf), lambda content: forge(content, 1))
    adopt(shelf)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "cannot be checked" and "8-bit images is another here" in texts(claim)


def test_a_name_that_stands_twice_in_a_result_is_refused(shelf: Path, tmp_path: Path) -> None:
    path = claim_of(shelf)
    path.write_text(path.read_text().replace('"average":', '"average": 0.99, "average":', 1))
    adopt(shelf)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "'average' is given twice" in texts(claim)


@pytest.mark.parametrize(
    ("index", "told"), [(0, "is no list of different points"), (-1, "has a witness of point -1"), (9**6, "of point 5")]
)
def test_a_witness_that_is_listed_twice_or_of_no_point_is_found(
    shelf: Path, tmp_path: Path, index: int, told: str
) -> None:
    def forge(tensors: dict[str, torch.Tensor], _: object) -> None:
        tensors["linf.index"][1] = index or tensors["linf.index"][0]

    change_witnesses(shelf, forge)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and told in texts(claim)


def test_the_figures_in_the_hub_s_own_format_are_compared_with_the_results(shelf: Path, tmp_path: Path) -> None:
    """The images of this claim are not on the hub, so that no figure in that format follows from it."""
    (shelf / ".eval_results").mkdir()
    path = shelf / ".eval_results/robustctl.yaml"
    for text, told in [
        ("- dataset: {id: a/b, task_id: union}\n  value: 0.99\n", "0.99"),
        ("a: 1", "no list"),
        ("[", "not YAML"),
    ]:
        path.write_text(text)
        claim = verdict(shelf, tmp_path, "--sample", 0)
        assert claim["verdict"] == "not reproduced" and told in texts(claim)


def test_a_protocol_that_this_version_does_not_know_is_noted(shelf: Path, tmp_path: Path) -> None:
    change_json(
        claim_of(shelf), lambda content: content.update(attack={**content["attack"], "name": "next"}, versions={})
    )
    adopt(shelf)
    assert "this version knows no protocol next" in "\n".join(verdict(shelf, tmp_path)["notes"])


def test_what_the_user_wrote_around_the_card_s_section_is_nobody_s_claim(shelf: Path, tmp_path: Path) -> None:
    card = shelf / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlanguage: en\n", 1) + "\nMy own words.\n")
    assert verdict(shelf, tmp_path)["verdict"] == "confirmed"


def set_in(content: Content, name: str, value: object) -> None:
    """Set the value under a dotted name."""
    *path, last = name.split(".")
    for part in path:
        content = content[part]
    content[last] = value


OPINION = {"linf": {"sample": 8, "fell": 3, "by": {"fmn": 1}, "evaluations": 100}}
# By the dotted name of what is edited, its value, and what tells it even if names, witnesses and card were made to fit.
EDITS: list[tuple[str, object, str]] = [
    ("attack.seed", 7, ""),
    ("versions", {"robustctl": "9.9"}, ""),
    ("attack.passes", 10**6, "less than or equal to 101"),
    ("attack.draws", 10**6, "less than or equal to 101"),
    ("attack.name", "full", "other ones than the protocol full"),
    ("attack.name", "adaptive", "other ones than the protocol adaptive"),
    ("attack.name", "strongest", "other ones than the protocol strongest"),
    ("attack.protocol", "linf: apgd-ce 1x20", "other ones than the protocol fast"),
    ("flags", [], "the flag 'estimate"),
    ("second_opinion", OPINION, "which follows from its own content"),
    ("data.n", 4000, "do not cover"),
    ("data.split", "train", "does not follow from them and its split"),
    ("norms.linf.eps_text", "0.3", "from its eps_text follows"),
    ("union.ci95", [0.9, 1.0], "union.ci95"),
    ("union.acc", float("nan"), "NaN"),
    ("weights_sha256", "0" * 64, "weights are not those"),
]


@pytest.mark.parametrize(("name", "value", "told"), EDITS, ids=[f"{name}={value}"[:30] for name, value, _ in EDITS])
def test_an_edited_result_is_found_by_its_name_and_by_what_follows(
    shelf: Path, tmp_path: Path, name: str, value: object, told: str
) -> None:
    change_json(claim_of(shelf), lambda content: set_in(content, name, value))
    claim = verdict(shelf, tmp_path, "--sample", 0)
    assert claim["verdict"] == "not reproduced" and len(claim["findings"]) == 1
    if told:
        adopt(shelf)
        claim = verdict(shelf, tmp_path, "--sample", 0)
        assert claim["verdict"] == "not reproduced" and told in texts(claim)


def test_larger_radii_are_found_by_the_witnesses_of_the_smaller_ones(shelf: Path, tmp_path: Path) -> None:
    change_json(claim_of(shelf), lambda content: content["norms"]["linf"].update(eps=0.3, eps_text="0.3"))
    adopt(shelf)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "of other weights or radii than the claim" in texts(claim)


def test_a_point_that_is_counted_twice_is_found(shelf: Path, tmp_path: Path) -> None:
    def double(content: Content) -> None:
        points = content["points"]
        for column in (points["index"], points["label"], points["clean"], *points["robust"].values()):
            column[-1] = column[0]

    change_json(claim_of(shelf), double)
    adopt(shelf)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "counted twice" in texts(claim)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38, -1e-6])
def test_a_witness_that_is_no_image_is_found_and_never_classified(shelf: Path, tmp_path: Path, value: float) -> None:
    images, threat = load("digits", "test", 40), Threat.of("l2", "0.45")

    def spoil(tensors: dict[str, torch.Tensor], _: object) -> None:
        x = images.images(tensors["l2.index"])
        x_adv = unpack(tensors["l2.delta.0"].numpy().tobytes(), x, threat)
        x_adv[0, 0, 0, 0] = value
        tensors["l2.delta.0"] = torch.tensor(list(pack(x_adv, x, threat)), dtype=torch.uint8)

    change_witnesses(shelf, spoil)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "l2: witnesses lie outside the ball or the box" in texts(claim)


def test_witnesses_of_another_model_are_found(shelf: Path, tmp_path: Path) -> None:
    def swap(_: object, metadata: dict[str, str]) -> None:
        metadata["origin"] = json.dumps({**json.loads(metadata["origin"]), "weights_sha256": "1" * 64})

    change_witnesses(shelf, swap)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "of other weights or radii than the claim" in texts(claim)


BOMBS: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
    "a list of a million points": lambda: {"linf.index": torch.arange(1_000_000)},
    "a chunk of 100 MB": lambda: {"linf.delta.0": torch.zeros(100_000_000, dtype=torch.uint8)},
    "a chunk that unpacks to 128 MB": lambda: {"linf.delta.0": unpacking_to(1 << 27)},
}


def unpacking_to(size: int) -> torch.Tensor:
    """Few bytes that unpack to so many."""
    maker = lzma.LZMACompressor(preset=0)
    block = bytes(1 << 24)
    packed = b"".join([*(maker.compress(block) for _ in range(size >> 24)), maker.flush()])
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_of_witnesses_cannot_fill_the_memory(shelf: Path, tmp_path: Path, bomb: str) -> None:
    change_witnesses(shelf, lambda tensors, _: tensors.update(BOMBS[bomb]()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "linf." in texts(claim)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def test_a_witness_outside_the_ball_is_found(shelf: Path, tmp_path: Path) -> None:
    images, threat = load("digits", "test", 40), Threat.of("l2", "0.45")

    def move(tensors: dict[str, torch.Tensor], _: object) -> None:
        index = tensors["l2.index"]
        x = images.images(index)
        x_adv = unpack(tensors["l2.delta.0"].numpy().tobytes(), x, threat)
        x_adv[0] = 1 - x[0]
        tensors["l2.delta.0"] = torch.tensor(list(pack(x_adv, x, threat)), dtype=torch.uint8)

    change_witnesses(shelf, move)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "l2: witnesses lie outside" in texts(claim)


def test_another_normalisation_is_found(shelf: Path, tmp_path: Path) -> None:
    change_json(shelf / "config.json", lambda content: content.update(normalization={"mean": [0.1], "std": [1.2]}))
    assert "architecture or normalisation" in texts(verdict(shelf, tmp_path))


def test_another_normalisation_is_found_by_the_verdicts_too(shelf: Path, tmp_path: Path) -> None:
    """Even where the witnesses say that they belong to it."""
    from robustctl.spec import model_sha256, read_spec

    change_json(shelf / "config.json", lambda content: content.update(normalization={"mean": [0.6], "std": [0.2]}))
    digest = model_sha256(read_spec(shelf))

    def adopt(_: object, metadata: dict[str, str]) -> None:
        metadata["origin"] = json.dumps({**json.loads(metadata["origin"]), "model_sha256": digest})

    change_witnesses(shelf, adopt)
    claim = verdict(shelf, tmp_path)
    assert claim["verdict"] == "not reproduced" and "claimed to be right are classified wrongly" in texts(claim)

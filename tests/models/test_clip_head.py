"""A CLIP as transformers publishes one, from the hub to a classifier with a zero-shot head."""

import json
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from command import robust
from hub_server import Fault, Server
from safetensors.torch import load, save
from torch import Tensor

import robustctl
from robustctl.architectures.clip import MEAN, STD
from robustctl.models import fetch
from robustctl.models.find import home
from robustctl.models.shelf import read_record

transformers = pytest.importorskip("transformers", reason="CLIP is an extra")

here = pytest.mark.usefixtures("in_process")

CLASSES = ["airplane", "cat", "truck"]
PROMPT = "a photo of a {}"
ENDLESS = {  # an expression that backtracks without end
    "type": "Sequence",
    "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 64},
        {"type": "Replace", "pattern": {"Regex": "(a+)+(a+)+(a+)+c"}, "content": "x"},
    ],
}
SIZES = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random CLIP and its tokenizer, as ``save_pretrained`` writes them."""
    from tokenizers.pre_tokenizers import ByteLevel

    folder = tmp_path_factory.mktemp("clip")
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *[f"{letter}</w>" for letter in letters], "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    tokenizer.save_pretrained(folder)
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    text = SIZES | {"vocab_size": len(tokens), "max_position_embeddings": 32} | ends
    vision = SIZES | {"image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        )
        for parameter in model.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))  # fresh ones have zeros and ones that hide faults
        model.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture
def published(clip: Path) -> dict[str, bytes]:
    """The files of the repo by name."""
    return {name: (clip / name).read_bytes() for name in ("config.json", "model.safetensors", "tokenizer.json")}


def entry(tokenizer: dict[str, object], **more: object) -> dict[str, object]:
    args = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "heads": 2, "projection": 8}
    text = {"width": 16, "layers": 2, "heads": 2, "vocabulary": 514, "context": 32}
    return {
        "description": "A tiny CLIP",
        "architecture": {"name": "clip", "args": args},
        "input_shape": [3, 16, 16],
        "n_classes": 3,
        "dataset": "made",
        "licence": "mit",
        "zero_shot": {"classes": CLASSES, "prompt": PROMPT, "text": text, "tokenizer": tokenizer},
    } | more


def add(tmp_path: Path, content: dict[str, object], name: str = "tiny") -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    assert robust("models", "add", path) == 0


def publish(hub: Server, tmp_path: Path, files: dict[str, bytes], **more: object) -> None:
    """Put the files on the hub, and an entry ``tiny`` that is pinned to them."""
    place = {"repo": "leaf/clip", "revision": hub.add("leaf/clip", files)}
    add(
        tmp_path,
        entry(place | {"file": "tokenizer.json"}, sources=[place | {"file": "model.safetensors"}], **more),
    )


def edited(tokenizer: bytes, **parts: object) -> bytes:
    """The tokenizer with other parts."""
    return json.dumps(json.loads(tokenizer) | parts).encode()


def replacing(old: str, new: str) -> dict[str, object]:
    """A normalizer that puts one text in the place of another."""
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def expected(clip: Path, x: Tensor) -> Tensor:
    """Logits of transformers' own zero-shot classification."""
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(clip)(
        [PROMPT.replace("{}", name) for name in CLASSES], padding=True, return_tensors="pt"
    )
    pixels = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    with torch.no_grad():
        logits: Tensor = model(**tokens, pixel_values=pixels).logits_per_image
    return logits


def test_a_fetched_clip_gives_the_logits_of_transformers_own_zero_shot_classification(
    hub: Server, tmp_path: Path, clip: Path, published: dict[str, bytes]
) -> None:
    publish(hub, tmp_path, published)
    x = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        logits = robustctl.load_model("tiny")(x)
    torch.testing.assert_close(logits, expected(clip, x), rtol=0, atol=1e-5)
    assert logits.std(dim=0).min() > 0.1 and logits.std(dim=1).min() > 0.1  # neither images nor classes coincide
    assert not (home() / "weights" / ".tiny").exists()
    assert set(load((home() / "weights" / "tiny.safetensors").read_bytes())) == {
        *(f"vision.{name}" for name in load(published["model.safetensors"]) if name.startswith("vis")),
        "head.weight",
        "head.bias",
    }


@here
def test_the_weights_are_fetched_once_and_the_config_never(
    hub: Server, tmp_path: Path, published: dict[str, bytes]
) -> None:
    publish(hub, tmp_path, published)
    assert robust("pull", "tiny") == 0
    asked = [line.rpartition("/")[2] for line in hub.log if "resolve" in line]
    assert asked == ["tokenizer.json", "model.safetensors"]


@here
def test_half_precision_weights_become_float32(
    hub: Server, tmp_path: Path, clip: Path, published: dict[str, bytes]
) -> None:
    tensors = load(published["model.safetensors"])
    halves = save({name: tensor.half() for name, tensor in tensors.items()}, {"format": "pt"})
    publish(hub, tmp_path, published | {"model.safetensors": halves})
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(robustctl.load_model("tiny")(x), expected(clip, x), rtol=0, atol=0.1)


@here
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda all_: {**all_, "decoder.weight": torch.zeros(1)}, r"text tower\) do not fit.*unexpected decoder"),
        (lambda all_: {k: v for k, v in all_.items() if k != "logit_scale"}, "missing logit_scale"),
        (lambda all_: {k: v for k, v in all_.items() if "fc2.bias" not in k}, "missing text_model.encoder"),
        (
            lambda all_: {k: v for k, v in all_.items() if k != "visual_projection.weight"},
            "missing vision.visual_projection.weight",
        ),
        (lambda all_: {**all_, "vision_model.extra": torch.zeros(1)}, "unexpected vision.vision_model.extra"),
        (lambda all_: {**all_, "text_projection.weight": torch.zeros(8, 9)}, r"shape \[8, 9\], expected \[8, 16\]"),
        (lambda all_: {**all_, "logit_scale": torch.tensor(float("nan"))}, "NaN or infinity in: logit_scale"),
        (lambda all_: {f"clip.{k}": v for k, v in all_.items()}, "every name begins with 'clip.'"),
        (
            lambda all_: {**all_, "text_model.embeddings.position_ids": torch.arange(32)[None]},
            "unexpected text_model.embeddings.position_ids",
        ),
    ],
    ids=range(9),
)
def test_every_tensor_of_the_file_belongs_somewhere_or_is_a_fault(
    hub: Server,
    tmp_path: Path,
    published: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    message: str,
) -> None:
    changed = save(change(load(published["model.safetensors"])))
    publish(hub, tmp_path, published | {"model.safetensors": changed})
    capsys.readouterr()
    assert robust("pull", "tiny") == 1
    assert re.search(message, capsys.readouterr().err, re.DOTALL)
    assert not (home() / "weights" / "tiny.safetensors").exists()


@here
def test_a_rule_of_the_entry_drops_what_older_files_hold_beside_the_weights(
    hub: Server, tmp_path: Path, published: dict[str, bytes]
) -> None:
    tensors = load(published["model.safetensors"])
    for tower, length in (("text_model", 32), ("vision_model", 5)):
        tensors[f"{tower}.embeddings.position_ids"] = torch.arange(length)[None]
    names = ["text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"]
    publish(hub, tmp_path, published | {"model.safetensors": save(tensors)}, keys={"drop": names})
    assert robust("pull", "tiny") == 0


@here
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: b"<!DOCTYPE html><html>Sign in</html>", "is a web page, not a tokenizer"),
        (lambda text: text[:1000], "damaged or no tokenizer"),
        (lambda text: b"", "damaged or no tokenizer"),
        (lambda text: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "damaged or no tokenizer"),
        (lambda text: b'{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}', "damaged or no tokenizer"),
        (lambda text: b"[" * 100_000, "damaged or no tokenizer"),
        (lambda text: b"\x80\x04\x95.", "damaged or no tokenizer"),
        (
            lambda text: edited(text, post_processor=None),
            "is not the tokenizer of this model: the tokens of 'a photo of a airplane' do not stand between 512",
        ),
        (
            lambda text: edited(text, normalizer=replacing("cat", "airplane")),
            "are the tokens of 'a photo of a airplane'",
        ),
        (lambda text: edited(text, normalizer=replacing("cat", "cat" * 20)), "are 71, more than 32"),
        (lambda text: text.replace(b'"a": 64', b'"a": 600', 1), "are not all below 514"),
        (lambda text: edited(text, normalizer=ENDLESS), "damaged or no tokenizer .*Regex search error"),
    ],
    ids=range(12),
)
def test_a_bad_tokenizer_gets_its_message_and_makes_no_head(
    hub: Server,
    tmp_path: Path,
    published: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    change: Callable[[bytes], bytes],
    message: str,
) -> None:
    publish(hub, tmp_path, published | {"tokenizer.json": change(published["tokenizer.json"])})
    capsys.readouterr()
    assert robust("pull", "tiny") == 1
    assert re.search(message, capsys.readouterr().err, re.DOTALL)
    assert not (home() / "weights" / "tiny.safetensors").exists()


@pytest.mark.slow
def test_a_tokenizer_that_unpacks_beyond_its_size_is_stopped_by_the_memory_limit(
    hub: Server, tmp_path: Path, published: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    doubling = {"type": "Sequence", "normalizers": [replacing("a", "aa")] * 60}
    publish(hub, tmp_path, published | {"tokenizer.json": edited(published["tokenizer.json"], normalizer=doubling)})
    assert robust("pull", "tiny") == 1
    assert "may need more memory than its size justifies" in capsys.readouterr().err


@here
def test_a_tokenizer_that_is_too_large_is_not_fetched(
    hub: Server,
    tmp_path: Path,
    published: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fetch, "MAX_TOKENIZER_BYTES", 1000)
    publish(hub, tmp_path, published)
    hub.files["t.json"] = published["tokenizer.json"]
    elsewhere = {"url": f"{hub.url}/files/t.json", "file": "t.json"}
    assert robust("pull", "tiny") == 1
    assert f"has {len(published['tokenizer.json'])} bytes, more than 1000" in capsys.readouterr().err
    add(tmp_path, entry(elsewhere, sources=[elsewhere]), "plain")
    assert robust("pull", "plain") == 1
    assert "sends more than the 1000 bytes" in capsys.readouterr().err


@here
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("tokenizer", 404, times=9), "there is no such file (404)"),
        (Fault("tokenizer", 503, times=9), "answered 503; gave up after 5 attempts"),
        (Fault("tokenizer", html=True, times=9), "answered with a web page (HTML)"),
        (Fault("tokenizer", cut=100, times=9), "gave up after 5 attempts"),
        (Fault("tokenizer", flip=True, times=9), "its git hash is"),
        (Fault("safetensors", flip=True, times=9), "its SHA-256 is"),
    ],
)
def test_a_bad_answer_gets_its_message_and_the_same_command_completes_later(
    hub: Server,
    tmp_path: Path,
    published: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    fault: Fault,
    message: str,
) -> None:
    publish(hub, tmp_path, published)
    hub.faults.append(fault)
    assert robust("pull", "tiny") == 1
    assert message in capsys.readouterr().err
    assert not (home() / "weights" / "tiny.safetensors").exists()
    hub.faults.clear()
    assert robust("pull", "tiny") == 0


@here
def test_a_tokenizer_that_changed_since_the_first_download_is_refused(
    hub: Server, tmp_path: Path, published: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    place: dict[str, object] = {"repo": "leaf/clip", "revision": "main"}
    hub.add("leaf/clip", published)
    add(tmp_path, entry(place | {"file": "tokenizer.json"}, sources=[place | {"file": "model.safetensors"}]))
    assert robust("pull", "tiny") == 0
    record = read_record("tiny")
    assert record is not None and record.tokenizer == "leaf/clip@main: tokenizer.json"
    (home() / "weights" / "tiny.safetensors").unlink()
    hub.add("leaf/clip", {"tokenizer.json": published["tokenizer.json"][:-1] + b"\n"})
    assert robust("pull", "tiny") == 1
    assert f"expected {record.files[record.tokenizer].sha256}" in capsys.readouterr().err
    hub.add("leaf/clip", published)
    assert robust("pull", "tiny") == 0


def test_without_transformers_the_extra_is_named_before_anything_is_fetched(
    hub: Server,
    tmp_path: Path,
    published: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(hub, tmp_path, published)
    monkeypatch.setitem(sys.modules, "transformers", None)
    for command in (["pull", "tiny"], ["eval", "tiny", "--union", "--data", "digits"]):
        assert robust(*command) == 2
        assert "pip install 'robustctl[clip]'" in capsys.readouterr().err
    assert not hub.log
    for command in (["models", "list", "--arch", "clip"], ["models", "show", "tiny"], ["models", "verify", "tiny"]):
        assert robust(*command) == 0


def test_offline_no_socket_is_opened_and_both_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert robust("pull", "leaf-clip-l14-cifar10") == 1
    error = capsys.readouterr().err
    assert "HF_HUB_OFFLINE is set" in error
    assert "download model.safetensors from LEAF-CLIP/CLIP-ViT-L-FARE2@main: model.safetensors" in error
    assert "into the same folder, tokenizer.json from openai/clip-vit-large-patch14@main: tokenizer.json" in error


@here
def test_files_brought_by_hand_make_the_same_classifier_without_a_socket(
    tmp_path: Path,
    clip: Path,
    published: dict[str, bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = {"page": "https://example.org/clip"}
    add(tmp_path, entry(page | {"file": "tokenizer.json"}, sources=[page | {"file": "model.safetensors"}]))
    assert robust("pull", "tiny") == 1
    assert "bring the file: download model.safetensors from https://example.org/clip and" in capsys.readouterr().err
    folder = tmp_path / "brought"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(published["model.safetensors"])
    assert robust("models", "import", folder / "model.safetensors", "--name", "tiny") == 2
    assert "tokenizer.json of https://example.org/clip into the folder of model.safetensors" in capsys.readouterr().err
    (folder / "tokenizer.json").write_bytes(published["tokenizer.json"])
    assert robust("models", "import", folder / "model.safetensors", "--name", "tiny") == 0
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(robustctl.load_model("tiny")(x), expected(clip, x), rtol=0, atol=1e-5)
    assert robust("models", "verify", "tiny", "--local") == 0


@here
def test_the_registrys_commands_know_a_clip_like_any_other_model(
    hub: Server, tmp_path: Path, published: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    publish(hub, tmp_path, published)
    capsys.readouterr()
    assert robust("models", "show", "tiny") == 0
    shown = capsys.readouterr().out
    assert "prompt: a photo of a {}" in shown and "- airplane" in shown and "not here; fetched when needed" in shown
    assert robust("models", "verify", "tiny") == 0
    assert capsys.readouterr().out.count("answers") == 2
    assert robust("pull", "tiny") == 0
    capsys.readouterr()
    assert robust("models", "list", "--here", "--arch", "clip") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("*  tiny ")
    assert robust("models", "verify", "tiny") == 0
    assert "tiny: is what was fetched" in capsys.readouterr().out
    hub.add("leaf/clip", {"tokenizer.json": b"{}"})
    assert robust("models", "mirror", "tiny", "--repo", "alice/tiny") == 0
    assert "head: zero-shot, 'a photo of a {}' for airplane, cat, truck" in hub.read("alice/tiny", "README.md").decode()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(robustctl.load_model("alice/tiny")(x), robustctl.load_model("tiny")(x))

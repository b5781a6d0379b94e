"""Conversion of published files: what is found in them, and a corpus of bad ones with their messages."""

import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustctl import checkpoint
from robustctl.architectures import Classifier, build
from robustctl.errors import RequestError, RobustctlError
from robustctl.models import convert as conversion
from robustctl.models.convert import convert
from robustctl.models.entry import KeyRules
from robustctl.spec import Architecture, ModelSpec, Normalization

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def tensors(conv_model: Classifier) -> Tensors:
    return {name: tensor.clone() for name, tensor in conv_model.net.state_dict().items()}


@pytest.mark.parametrize(
    ("wrap", "at"),
    [
        (lambda tensors: tensors, ()),
        (lambda tensors: OrderedDict(tensors), ()),
        (lambda tensors: {"state_dict": tensors, "epoch": 3}, ("state_dict",)),
        (lambda tensors: {"model": tensors, "optimizer": {"lr": 0.1, "momentum": [tensors["0.weight"]]}}, ("model",)),
        (lambda tensors: {"state_dict": [tensors], "err": 0.1}, ("state_dict", 0)),
        (lambda tensors: [tensors], (0,)),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_the_only_state_dict_of_a_file_is_found_and_kept_bit_by_bit(
    tmp_path: Path,
    conv_spec: ModelSpec,
    tensors: Tensors,
    in_process: None,
    wrap: Callable[[Tensors], object],
    at: tuple[str | int, ...],
    legacy: bool,
) -> None:
    torch.save(wrap(tensors), tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    answer = convert(tmp_path / "a.pt", tmp_path / "out" / "b.safetensors", conv_spec, KeyRules(), detect=True)
    assert answer.at == at
    written = checkpoint.read_tensors(tmp_path / "out" / "b.safetensors")
    assert set(written) == set(tensors)
    assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items())


def test_key_rules_drop_and_strip_as_they_say(tmp_path: Path, conv_spec: ModelSpec, tensors: Tensors) -> None:
    wrapped = {f"module.model.{name}": tensor for name, tensor in tensors.items()}
    wrapped |= {f"module.attacker.model.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"model": wrapped, "amp": None}, tmp_path / "a.ckpt")
    rules = KeyRules(at=("model",), drop=("module.attacker.",), strip="module.model.")
    convert(tmp_path / "a.ckpt", tmp_path / "b.safetensors", conv_spec, rules)
    assert torch.equal(checkpoint.read_tensors(tmp_path / "b.safetensors")["0.weight"], tensors["0.weight"])


class Trap:
    """Unpickling this would make a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def _pickled(content: object) -> Callable[[Path, Tensors], None]:
    return lambda path, tensors: path.write_bytes(pickle.dumps(content))


def _saved(change: Callable[[Tensors], object]) -> Callable[[Path, Tensors], None]:
    return lambda path, tensors: torch.save(change(tensors), path)


def _cut(share: float) -> Callable[[Path, Tensors], None]:
    def make(path: Path, tensors: Tensors) -> None:
        torch.save(tensors, path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])

    return make


def _safetensors_cut(path: Path, tensors: Tensors) -> None:
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:-100])


def _raw(content: bytes) -> Callable[[Path, Tensors], None]:
    return lambda path, tensors: path.write_bytes(content)


def _zip_of_text(path: Path, tensors: Tensors) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../evil.txt", "x")


def _bias(value: torch.Tensor) -> Callable[[Path, Tensors], None]:
    return _with("0.bias", value)


def _trapped(**options: bool) -> Callable[[Path, Tensors], None]:
    return lambda path, tensors: torch.save({"a": Trap(path.parent / "trace")}, path, **options)


def _with(name: str, value: object) -> Callable[[Path, Tensors], None]:
    return _saved(lambda tensors: {**tensors, name: value})


BAD_FILES: list[tuple[str, str, Callable[[Path, Tensors], None], str]] = [
    ("trap", "a.pt", _trapped(), "more than tensors"),
    ("old trap", "a.pth", _trapped(_use_new_zipfile_serialization=False), "more than tensors"),
    ("bare trap", "a.pt", lambda path, _: path.write_bytes(pickle.dumps(Trap(path.parent / "trace"))), "cannot read"),
    ("module object", "a.pt", _saved(lambda _: torch.nn.Linear(1, 1)), "more than tensors"),
    ("empty", "a.pt", _raw(b""), "damaged or no PyTorch file"),
    ("pointer", "a.pt", _raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"), "cannot read"),
    ("web page", "a.pt", _raw(b"<!DOCTYPE html><html>"), "is a web page, not weights"),
    ("web page after space", "a.pt", _raw(b"\n\n <html lang='en'>"), "is a web page, not weights"),
    ("xml", "a.pt", _raw(b"<?xml version='1.0'?><Error>AccessDenied</Error>"), "is a web page, not weights"),
    ("random bytes", "a.pt", _raw(bytes(range(256)) * 8), "cannot read"),
    ("zip that climbs", "a.pt", _zip_of_text, "damaged or no PyTorch file"),
    ("cut in the middle", "a.pt", _cut(0.5), "damaged or no PyTorch file"),
    ("cut at the end", "a.pt", _cut(0.98), "damaged or no PyTorch file"),
    ("a number", "a.pt", _saved(lambda _: 3), "no state dict: a int"),
    ("a tensor", "a.pt", _saved(lambda tensors: tensors["0.weight"]), "no state dict: a Tensor"),
    ("no tensors", "a.pt", _saved(lambda _: {"epoch": 1, "acc": 0.5}), "no state dict: keys acc, epoch"),
    ("empty dict", "a.pt", _saved(lambda _: {}), "no state dict"),
    ("two state dicts", "a.pt", _saved(lambda all_: {"model": all_, "ema": all_}), "several state dicts.*--at ema"),
    ("list of two", "a.pt", _saved(lambda all_: {"s": [all_, all_]}), "no state dict: keys s"),
    ("missing", "a.pt", _saved(lambda all_: dict(list(all_.items())[1:])), "missing 0.weight"),
    ("extra", "a.pt", _with("extra.weight", torch.zeros(1)), "unexpected extra.weight"),
    ("misshaped", "a.pt", _with("0.weight", torch.zeros(1, 1)), r"0.weight has shape \[1, 1\], expected"),
    ("prefix", "a.pt", _saved(lambda all_: {f"module.{name}": one for name, one in all_.items()}), "--strip module."),
    ("nan", "a.pt", _bias(torch.full((2,), float("nan"))), "NaN or infinity in: 0.bias"),
    ("infinity", "a.pt", _bias(torch.full((2,), float("inf"))), "NaN or infinity in: 0.bias"),
    ("sparse", "a.pt", _bias(torch.zeros(2).to_sparse()), "not a dense real tensor"),
    ("complex", "a.pt", _bias(torch.zeros(2, dtype=torch.complex64)), "not a dense real tensor"),
    ("integers", "a.pt", _bias(torch.zeros(2, dtype=torch.int64)), "0.bias is int64, needed is float32"),
    ("yes and no", "a.pt", _bias(torch.zeros(2, dtype=torch.bool)), "0.bias is bool, needed is float32"),
    ("beyond float32", "a.pt", _bias(torch.full((2,), 1e39, dtype=torch.float64)), "0.bias reaches beyond 3.4e"),
    (
        "compiled",
        "a.pt",
        _saved(lambda all_: {f"module._orig_mod.{name}": one for name, one in all_.items()}),
        "tensors are all there: --strip module._orig_mod.$",
    ),
    ("cut safetensors", "a.safetensors", _safetensors_cut, r"\d+ of \d+ bytes are there; fetch it again"),
    ("empty safetensors", "a.safetensors", _raw(b""), "cannot read"),
    ("pickle named safetensors", "a.safetensors", _pickled({"a": 1}), "not a safetensors file"),
    ("huge header", "a.safetensors", _raw(struct.pack("<Q", 1 << 60) + b"{}"), "not a safetensors file"),
    ("header without JSON", "a.safetensors", _raw(struct.pack("<Q", 4) + b"abcd"), "not a safetensors file"),
]


@pytest.mark.parametrize(("name", "file", "make", "message"), BAD_FILES, ids=[case[0] for case in BAD_FILES])
def test_a_bad_file_gets_its_message_and_leaves_nothing(
    tmp_path: Path,
    conv_spec: ModelSpec,
    tensors: Tensors,
    in_process: None,
    name: str,
    file: str,
    make: Callable[[Path, Tensors], None],
    message: str,
) -> None:
    make(tmp_path / file, tensors)
    with pytest.raises(RequestError, match=re.compile(message, re.DOTALL)):
        convert(tmp_path / file, tmp_path / "out.safetensors", conv_spec, KeyRules(), detect=True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == [file]


def test_a_trap_in_a_process_of_its_own_leaves_no_trace(tmp_path: Path, conv_spec: ModelSpec) -> None:
    torch.save({"state_dict": Trap(tmp_path / "trace")}, tmp_path / "a.pt")
    with pytest.raises(RequestError, match="code from a file is never run"):
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors", conv_spec, KeyRules(), detect=True)
    assert not (tmp_path / "trace").exists()


@pytest.mark.slow
def test_a_file_that_unpacks_beyond_its_size_is_stopped_by_the_memory_limit(
    tmp_path: Path, conv_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({"0.weight": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            content = plain.read(name)
            packed.writestr(name, bytes(4 << 30) if name.endswith("data/0") else content)
    with pytest.raises(RobustctlError, match="needs more memory|cannot read"):
        convert(bomb, tmp_path / "b.safetensors", conv_spec, KeyRules(), detect=True)
    assert not (tmp_path / "b.safetensors").exists()


def test_a_process_that_takes_too_long_is_stopped(
    tmp_path: Path, conv_spec: ModelSpec, tensors: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(tensors, tmp_path / "a.pt")
    monkeypatch.setattr(conversion, "SPARE_SECONDS", 0.01)
    with pytest.raises(RobustctlError, match="took more than 0 s and was stopped"):
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors", conv_spec, KeyRules(), detect=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_rule_for_a_prefix_that_is_not_there_names_the_tensors(
    tmp_path: Path, conv_spec: ModelSpec, tensors: Tensors
) -> None:
    torch.save(tensors, tmp_path / "a.pt")
    with pytest.raises(RequestError, match="tensors without the prefix 'module.': 0.weight"):
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors", conv_spec, KeyRules(strip="module."))


RESNET = ModelSpec(
    architecture=Architecture(name="preact-resnet18"), input_shape=(3, 32, 32), n_classes=10, dataset="cifar10"
)


def test_absent_counters_of_batch_normalisation_are_filled_in_and_said(
    tmp_path: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = build(RESNET).net.state_dict()
    torch.save({name: one for name, one in tensors.items() if "tracked" not in name}, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors", RESNET, KeyRules(), detect=True)
    assert "a.pt has no counters of batch normalisation" in capsys.readouterr().err
    assert set(checkpoint.read_tensors(tmp_path / "b.safetensors")) == set(tensors)
    torch.save({name: one for name, one in tensors.items() if "running" not in name}, tmp_path / "a.pt")
    with pytest.raises(RequestError, match=r"missing .*running_mean"):
        convert(tmp_path / "a.pt", tmp_path / "c.safetensors", RESNET, KeyRules(), detect=True)


CONSTANTS = {"mu": torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), "sigma": torch.full((1, 3, 1, 1), 0.25)}


def test_the_normalisation_in_a_file_is_offered_to_who_has_said_none(
    tmp_path: Path, in_process: None, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({**build(RESNET).net.state_dict(), **CONSTANTS}, tmp_path / "a.pt")
    destination = tmp_path / "b.safetensors"
    with pytest.raises(RequestError, match="--mean 0.4,0.5,0.6 --std 0.25,0.25,0.25") as caught:
        convert(tmp_path / "a.pt", destination, RESNET, KeyRules(), detect=True, ask=True)
    assert "--drop mu --drop sigma" in str(caught.value) and "--no-normalisation" in str(caught.value)
    dropping = KeyRules(drop=("mu", "sigma"))
    convert(tmp_path / "a.pt", destination, RESNET, dropping, detect=True)
    assert "holds a normalisation of its own" in capsys.readouterr().err
    constants = Normalization(mean=[0.4, 0.5, 0.6], std=[0.25] * 3)
    convert(
        tmp_path / "a.pt", destination, RESNET.model_copy(update={"normalization": constants}), dropping, detect=True
    )
    assert capsys.readouterr().err == ""


def test_where_constants_are_usual_somebody_must_say_them(tmp_path: Path, in_process: None) -> None:
    torch.save(build(RESNET).net.state_dict(), tmp_path / "a.pt")
    with pytest.raises(RequestError, match="usual for cifar10: --mean 0.4914,0.4822,0.4465 .*--no-normalisation"):
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors", RESNET, KeyRules(), detect=True, ask=True)
    mine = RESNET.model_copy(update={"dataset": "mine"})
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors", mine, KeyRules(), detect=True, ask=True)

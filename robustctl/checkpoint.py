"""Weights on disk. The only user of safetensors.

A model directory holds ``config.json`` (a ``ModelSpec``) and ``model.safetensors`` with the tensors of the network
behind the normalisation, under the zoo's own names.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustctl.architectures import Classifier, build, empty_copy
from robustctl.errors import RequestError
from robustctl.files import atomic_path, scratch, write_text
from robustctl.progress import say
from robustctl.reading import is_file, parse_json, read_json
from robustctl.spec import CONFIG, WEIGHTS, ModelSpec, read_spec


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors atomically; a reader sees the old file or the new one, never half of it.

    The same tensors and texts make the same bytes.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary, scratch(path.parent) as folder:
        made = folder / temporary.name  # the library makes a temporary file of its own beside what it writes
        save_file(contiguous, made, metadata={"format": "pt", **(metadata or {})})
        if metadata:
            _sort_header(made)
        made.replace(temporary)


def _sort_header(path: Path) -> None:
    """Sort the texts in the header, which the library writes in a random order."""
    with path.open("r+b") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # else the library escapes something in another way; then the order stays
            file.seek(8)
            file.write(text.ljust(length))


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file; raises RequestError as ``read_tensors`` does."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, ValueError, OSError) as error:
        raise RequestError(f"cannot read {path}: {error}") from None


def read_tensor(path: Path, name: str, dtype: torch.dtype, most: int) -> Tensor:
    """Read one tensor of a file from anybody, after its header was asked how large it is.

    Raises:
        RequestError: the file or the tensor is missing or damaged, of another type, or has more than ``most`` numbers.
    """
    try:
        with safe_open(path, "pt") as file:
            if name not in file.keys():  # noqa: SIM118 (the file is no mapping)
                raise RequestError(f"{path} lacks {name}; fetch it again")
            numbers = math.prod(file.get_slice(name).get_shape())
            if numbers > most:
                raise RequestError(f"{path}: {name} has {numbers} numbers; there can be at most {most}")
            tensor: Tensor = file.get_tensor(name)
    except (SafetensorError, ValueError, OSError) as error:
        raise RequestError(f"cannot read {path}: {error}") from None
    if tensor.dtype != dtype:
        raise RequestError(f"{path}: {name} is {tensor.dtype}, not {dtype}".replace("torch.", ""))
    return tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or the shards that ``<path>.index.json`` beside it names.

    Raises:
        RequestError: missing, truncated (with the bytes found and the bytes expected) or not safetensors at all.
    """
    index = path.with_name(f"{path.name}.index.json")
    if not is_file(path) and is_file(index):
        return _read_shards(index)
    return _read_file(path)


def _read_file(path: Path) -> dict[str, Tensor]:
    if not is_file(path):
        raise RequestError(f"no weights at {path}")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise RequestError(f"cannot read {path}: {_damage(path) or error}") from None


def _read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of every shard, in the hub's format: ``weight_map`` says which file of the directory holds which."""
    try:
        files = sorted({str(file) for file in read_json(index)["weight_map"].values()})
    except (RequestError, KeyError, TypeError, AttributeError, OSError) as error:
        raise RequestError(f"cannot read {index}: {error!r}") from None
    if strays := [file for file in files if Path(file).name != file or not file.endswith(".safetensors")]:
        raise RequestError(f"{index} names files outside its directory: {', '.join(strays)}")
    return {name: tensor for file in files for name, tensor in _read_file(index.with_name(file)).items()}


def load_weights(model: Classifier, tensors: Mapping[str, Tensor], source: str) -> list[str]:
    """Load tensors into the model's network, strictly.

    Counters of batch normalisation, which older files lack and which no evaluation uses, are 0 if they are absent.

    Args:
        source: what to call these weights in a message.

    Returns:
        The names of the counters that were absent.

    Raises:
        RequestError: missing, unexpected or misshaped tensors (all are listed), numbers of another kind, or values
            that are not finite or that float32 cannot hold.
    """
    wanted = model.net.state_dict()
    _compare(wanted, tensors, source)
    _require_numbers(wanted, tensors, source)
    absent = [name for name in wanted if name not in tensors]
    zeros = {name: torch.zeros_like(wanted[name]) for name in absent}
    model.net.load_state_dict({**tensors, **zeros}, strict=True)
    return absent


def _require_numbers(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse what a copy into the network would change without a word: integers, complex numbers, too large ones."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() != wanted[name].is_floating_point() or tensor.is_complex():
            kind, needed = (str(one.dtype).removeprefix("torch.") for one in (tensor, wanted[name]))
            raise RequestError(f"weights of {source}: {name} is {kind}, needed is {needed}")
    floats = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if broken := [name for name, tensor in floats.items() if not tensor.isfinite().all()]:
        raise RequestError(f"weights of {source} hold NaN or infinity in: {', '.join(broken)}")
    for name, tensor in floats.items():
        largest = torch.finfo(wanted[name].dtype).max
        if tensor.dtype == torch.float64 and tensor.numel() and float(tensor.abs().max()) > largest:
            raise RequestError(f"weights of {source}: {name} reaches beyond {largest:.3g}, the range of float32")


def require_fit(spec: ModelSpec, tensors: Mapping[str, Tensor], source: str) -> None:
    """Raise RequestError, as ``load_weights`` does, for tensors of other names and shapes; takes no memory.

    A network that was not built yet is not built for them then: a spec from anybody's repo may describe a network of
    any size.
    """
    if (empty := empty_copy(spec)) is not None:
        _compare(empty.state_dict(), tensors, source)


def _compare(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    counters = ".num_batches_tracked"
    faults = [f"missing {name}" for name in wanted if name not in tensors and not name.endswith(counters)]
    faults += [f"unexpected {name}" for name in tensors if name not in wanted]
    faults += [
        f"{name} has shape {list(tensors[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    if faults:
        raise RequestError(f"weights of {source} do not fit the architecture:\n  " + "\n  ".join(faults))


def save_model(model: Classifier, spec: ModelSpec, directory: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` into an existing directory."""
    save_tensors(model.net.state_dict(), directory / WEIGHTS)
    write_text(directory / CONFIG, spec.model_dump_json(by_alias=True, indent=2) + "\n")


def load_model(directory: Path) -> tuple[Classifier, ModelSpec]:
    """Read a model directory.

    Returns:
        The classifier in eval mode on the CPU, and its spec.

    Raises:
        RequestError: either file is missing or damaged, or they do not belong together.
    """
    spec = read_spec(directory)
    return load_from(spec, directory / WEIGHTS), spec


def load_from(spec: ModelSpec, weights: Path) -> Classifier:
    """Build the spec's classifier in eval mode and fill it from one weights file; raises as ``load_model`` does."""
    tensors = read_tensors(weights)
    require_fit(spec, tensors, str(weights))
    model = build(spec)
    if absent := load_weights(model, tensors, str(weights)):
        say(f"{weights} has no counters of batch normalisation ({absent[0]}, ...); they are 0 and no result needs them")
    return model.eval()


def weights_sha256(model: Classifier) -> str:
    """Hash of the network's tensors: their names, types, shapes and bytes, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _damage(path: Path) -> str | None:
    """Say how many bytes a truncated file lacks, from its own header; None when that is not what is wrong."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else None
        if length is None or length > 100_000_000:
            return "it is not a safetensors file"
        header = file.read(length)
    try:
        entries = parse_json(header.decode(), "its header")
        expected = (
            8 + length + max(entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__")
        )
    except (RequestError, ValueError, KeyError, TypeError, AttributeError):
        return "it is truncated or not a safetensors file"
    return f"{size} of {expected} bytes are there; fetch it again" if size < expected else None

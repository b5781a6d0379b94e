"""Published weights (.pt, .ckpt, .pth, .safetensors) to a model's safetensors, in a process of its own.

The process reads pickles through ``torch.load(weights_only=True)`` alone, within limits of memory and time, and writes
weights only after they have loaded strictly into the network that they are meant for.
"""

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from robustctl import user_code
from robustctl.conventions import KNOWN
from robustctl.errors import RequestError, RobustctlError, RunError
from robustctl.files import scratch, writing
from robustctl.hub.download import is_web_page
from robustctl.models.entry import KeyRules, ZeroShot
from robustctl.models.key_hints import Normalisation, network_prefix, own_normalisation, suggestion, written
from robustctl.models.layouts import renamed
from robustctl.progress import say
from robustctl.spec import WEIGHTS, ModelSpec

if TYPE_CHECKING:
    from torch import Tensor

WITHOUT = "or --no-normalisation if it takes pixels in [0,1] as they are"
SPARE_BYTES = 2 << 30
SPARE_SECONDS = 120.0
SLOWEST_BYTES_PER_SECOND = 4 << 20


class Conversion(BaseModel):
    """The request to the process that converts. ``detect``: look for the state dict if ``keys.at`` says nothing.

    A file with ``zero_shot`` is a whole CLIP, and ``tokenizer`` the file of its tokenizer. ``model_code`` is the code
    that the user has named for the network, if it is not one of robustctl's. ``ask``: nobody has said whether images
    are normalised, so that it is a fault if the file or its data set make one think so.
    """

    source: Path
    folder: Path
    spec: ModelSpec
    keys: KeyRules
    detect: bool
    zero_shot: ZeroShot | None = None
    tokenizer: Path | None = None
    model_code: str | None = None
    ask: bool = False


class Answer(BaseModel):
    """Its answer: the path at which the state dict stood, the number of parameters and what to say; or the fault."""

    at: tuple[str | int, ...] = ()
    parameters: int = 0
    notes: tuple[str, ...] = ()
    fault: str | None = None
    exit_code: int = 0


def convert(
    source: Path,
    destination: Path,
    spec: ModelSpec,
    keys: KeyRules,
    *,
    detect: bool = False,
    zero_shot: ZeroShot | None = None,
    tokenizer: Path | None = None,
    ask: bool = False,
    record: Callable[[Path], None] = lambda made: None,
) -> Answer:
    """Write ``destination`` (safetensors, atomically) from a published file, for a CLIP with its ``tokenizer``.

    A spec of the user's own code needs that code granted, as ``architectures.build`` does.

    Args:
        ask: refuse a file whose images seem to be normalised although ``spec`` has no normalisation.
        record: called with the converted file before it moves to ``destination``: what it cannot record is not kept.

    Raises:
        RequestError: the file is damaged, holds more than tensors, or does not fit ``spec``; all misfits are listed.
        RunError: it needs more memory or time than its size justifies, or the disk is full.
    """
    if not source.is_file():
        raise RequestError(f"no file {source}")
    granted = user_code.current()
    with writing(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with scratch(destination.parent) as folder:
            asked = Conversion(
                source=source.resolve(),
                folder=folder,
                spec=spec,
                keys=keys,
                detect=detect,
                zero_shot=zero_shot,
                tokenizer=tokenizer and tokenizer.resolve(),
                model_code=granted.text if granted else None,
                ask=ask,
            )
            answer = _ask(asked)
            if answer.fault:
                raise (RequestError if answer.exit_code == RequestError.exit_code else RunError)(answer.fault)
            for note in answer.notes:
                say(note)
            record(folder / WEIGHTS)
            (folder / WEIGHTS).replace(destination)
    return answer


def _ask(asked: Conversion) -> Answer:
    command = [sys.executable, "-P", "-X", "utf8", "-m", __name__]
    limit = SPARE_SECONDS + asked.source.stat().st_size / SLOWEST_BYTES_PER_SECOND
    request = asked.model_dump_json(by_alias=True)
    what = f"{asked.source} with {asked.tokenizer.name}" if asked.tokenizer else f"{asked.source}"
    try:
        done = subprocess.run(command, input=request, capture_output=True, encoding="utf-8", timeout=limit)
    except subprocess.TimeoutExpired:
        raise RunError(f"reading {what} took more than {limit:.0f} s and was stopped") from None
    try:
        return Answer.model_validate_json(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if done.returncode < 0:
            ended = f"was ended by signal {-done.returncode}"
            raise RunError(f"reading {what} {ended}; it may need more memory than its size justifies") from None
        raise RunError(f"reading {what} failed (exit code {done.returncode}: {last})") from None


def _main() -> None:
    """The process: a conversion on stdin, an answer on stdout."""
    asked = Conversion.model_validate_json(sys.stdin.read())
    try:
        answer = _run(asked)
    except RobustctlError as error:
        answer = Answer(fault=str(error), exit_code=error.exit_code)
    except MemoryError:
        answer = Answer(fault=f"{asked.source} needs more memory than its size justifies", exit_code=1)
    print(answer.model_dump_json())


def _run(asked: Conversion) -> Answer:
    from robustctl import checkpoint
    from robustctl.architectures import build

    _limit_memory(asked.source.stat().st_size)
    with user_code.granted(user_code.parse("--model-code", asked.model_code) if asked.model_code else None):
        model = build(asked.spec)
    content: Any = (
        checkpoint.read_tensors(asked.source) if asked.source.suffix == ".safetensors" else _unpickle(asked.source)
    )
    at, tensors = _state_dict(content, asked)
    wanted = model.net.state_dict()
    found = own_normalisation(_beside(tensors, wanted), asked.spec.input_shape[0])
    if asked.ask and found:
        raise _offer(asked, found, suggestion(tensors, wanted, asked.keys))
    try:
        kept = renamed(asked.keys.layout, _apply(tensors, asked.keys, asked.source), model.net, asked.source.name)
        if asked.zero_shot and asked.tokenizer:
            from robustctl.models import clip_head

            kept = clip_head.classifier(model.net, kept, asked.zero_shot, asked.tokenizer, asked.source.name)
        absent = checkpoint.load_weights(model, kept, asked.source.name)
    except RequestError as error:
        raise RequestError(f"{error}{suggestion(tensors, wanted, asked.keys)}") from None
    if asked.ask:
        _require_normalisation(asked)
    checkpoint.save_tensors(model.net.state_dict(), asked.folder / WEIGHTS)
    count = sum(parameter.numel() for parameter in model.parameters())
    return Answer(at=at, parameters=count, notes=_notes(asked, found, absent))


def _beside(tensors: "Mapping[str, Tensor]", wanted: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors that are not the network's own, under whatever prefix it lies."""
    prefix = network_prefix(tensors, wanted) or ""
    return {name: tensor for name, tensor in tensors.items() if name.removeprefix(prefix) not in wanted}


def _offer(asked: Conversion, found: Normalisation, keys: str) -> RequestError:
    """The constants that lie in the file, for a user who has not said any."""
    both = " and ".join(found.names)
    return RequestError(f"{asked.source} holds its own normalisation ({both}); say {found.options}, {WITHOUT}{keys}")


def _require_normalisation(asked: Conversion) -> None:
    """Raise RequestError if networks for the data set are usually normalised; its usual constants are shown."""
    known = KNOWN.get(asked.spec.dataset)
    if known and known.mean and known.std:
        usual = f"--mean {written(known.mean)} --std {written(known.std)}"
        raise RequestError(
            f"nothing says how {asked.source.name} normalises its images. Give the constants (usual for "
            f"{asked.spec.dataset}: {usual}), {WITHOUT}"
        )


def _notes(asked: Conversion, found: Normalisation | None, absent: list[str]) -> tuple[str, ...]:
    notes = []
    given = asked.spec.normalization
    if found and not (given and _close(given.mean, found.mean) and _close(given.std, found.std)):
        said = f"mean {written(given.mean)}, std {written(given.std)}" if given else "none"
        notes.append(f"{asked.source.name} holds a normalisation of its own ({found.options}); what is used is {said}")
    if absent:
        notes.append(
            f"{asked.source.name} has no counters of batch normalisation ({absent[0]}, ...); they are set to 0"
        )
    return tuple(notes)


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= 1e-3 * abs(b) for a, b in zip(one, other, strict=True))


def _limit_memory(size: int) -> None:
    """Allow four times the file beyond what torch itself has mapped already; systems without limits go without."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        limit = mapped + SPARE_BYTES + 4 * size
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _unpickle(path: Path) -> object:
    """Read a pickle without running anything from it."""
    import torch

    if is_web_page(path):
        raise RequestError(f"{path} is a web page, not weights; download the file itself")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        if "can't allocate" in str(error) or "not enough memory" in str(error):
            raise MemoryError from None
        raise RequestError(f"cannot read {path}: {_pickle_fault(str(error))}") from None


def _pickle_fault(message: str) -> str:
    named = re.search(r"(?:Unsupported global: GLOBAL|Unsupported class|GLOBAL) ([\w.]+)", message)
    if named or "eights_only" in message or "eights only" in message:
        what = f" (it names {named[1]})" if named else ""
        return f"it holds more than tensors{what}, and code from a file is never run; get a plain state dict instead"
    return "it is damaged or no PyTorch file"


def _state_dict(content: object, asked: Conversion) -> tuple[tuple[str | int, ...], "dict[str, Tensor]"]:
    """Follow ``keys.at``, or find the only state dict there is."""
    if asked.keys.at or not asked.detect:
        found = _follow(content, asked)
        if not _is_state_dict(found):
            where = ".".join(map(str, asked.keys.at)) or "its top"
            raise RequestError(f"{asked.source} has no state dict at {where}; it holds {_parts(content)}")
        return asked.keys.at, found
    found = _candidates(content)
    if len(found) != 1:
        problem = "no state dict" if not found else "several state dicts"
        ways = "".join(f"\n  --at {'.'.join(map(str, at))}" for at in found)
        raise RequestError(f"{asked.source} holds {problem}: {_parts(content)}{ways}")
    return next(iter(found.items()))


def _follow(content: Any, asked: Conversion) -> Any:
    for step in asked.keys.at:
        try:
            content = content[step]
        except (KeyError, IndexError, TypeError):
            raise RequestError(f"{asked.source} has no {step!r} on the path {list(asked.keys.at)}") from None
    return content


def _candidates(content: Any) -> "dict[tuple[str | int, ...], dict[str, Tensor]]":
    """State dicts at the top, else under one key, else in a list of one under one key."""
    if _is_state_dict(content):
        return {(): content}
    if isinstance(content, list) and len(content) == 1 and _is_state_dict(content[0]):
        return {(0,): content[0]}
    found: dict[tuple[str | int, ...], dict[str, Tensor]] = {}
    for key, part in content.items() if isinstance(content, dict) else ():
        if _is_state_dict(part):
            found[(key,)] = part
        elif isinstance(part, list) and len(part) == 1 and _is_state_dict(part[0]):
            found[(key, 0)] = part[0]
    return found


def _is_state_dict(content: Any) -> bool:
    from torch import Tensor

    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _parts(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    return "keys " + ", ".join(sorted(map(str, content))[:20])


def _apply(tensors: "dict[str, Tensor]", keys: KeyRules, source: Path) -> "dict[str, Tensor]":
    """Drop and strip, as the rules say."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(keys.drop)}
    strangers = [name for name in kept if not name.startswith(keys.strip)]
    if strangers:
        raise RequestError(f"{source}: tensors without the prefix {keys.strip!r}: {', '.join(strangers[:10])}")
    for name, tensor in kept.items():
        if tensor.is_sparse or tensor.is_quantized or tensor.is_complex():
            raise RequestError(f"{source}: {name} is not a dense real tensor")
    return {name.removeprefix(keys.strip): tensor for name, tensor in kept.items()}


if __name__ == "__main__":
    _main()

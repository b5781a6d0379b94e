"""Attacks from outside as a user names them: functions in files, Python functions, and files of adversarial images."""

import hashlib
import inspect
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robustctl import losses, user_code
from robustctl.attacks import Attack, Settings
from robustctl.data.image_data import to_float
from robustctl.discovery import load, own_files
from robustctl.errors import RequestError
from robustctl.evaluation.external import External, ExternalAttack, ExternalImages
from robustctl.evaluation.protocols import DEFAULT
from robustctl.oracle import Oracle
from robustctl.threats import Norm, Threat, parse_norm
from robustctl.user_code import UserCode


def parse_attacks(text: str) -> tuple[str, list[External]]:
    """Read ``--attack``: a protocol, attacks of the user's own, or several with commas: ``fast,my.py:attack``.

    Returns:
        The protocol (the default one if the text names none), and the attacks from outside.

    Raises:
        RequestError: two protocols, or an attack that is not there.
    """
    own = own_files("robustctl.attacks")
    protocols, attacks = [], []
    for part in _parts(text):
        if ":" in part:
            attacks.append(attack_of(user_code.parse("--attack", part)))
        elif part in own:
            declares = hasattr(load("robustctl.attacks", part, "attack"), "ATTACK")
            attacks.append(attack_of(UserCode(part, own[part], "ATTACK" if declares else own[part].stem)))
        else:
            protocols.append(part)
    if len(protocols) > 1:
        raise RequestError(f"--attack {text}: one protocol at a time, not {protocols[0]} and {protocols[1]}")
    return (protocols or [DEFAULT])[0], attacks


def attack_of(code: UserCode | Callable[..., Tensor]) -> External:
    """An attack from outside: a function or an ``ATTACK`` in a file of the user's, or the function itself.

    Raises:
        RequestError: it is no function that takes ``(model, x, y, eps, norm)`` or ``(oracle, x, y, threat)``.
    """
    if isinstance(code, UserCode):
        function = code.load()
        function = _as_declared(function) if isinstance(function, Attack) else function
        args = ", ".join(f"{key}={value!r}" for key, value in code.args.items())
        name = f"{code.file.name}:{code.name}" + (f"({args})" if args else "")
        made = ExternalAttack(name, code.sha256, function, dict(code.args))
    else:
        function, name = code, getattr(code, "__qualname__", type(code).__qualname__)
        made = ExternalAttack(name, hashlib.sha256(_source(code).encode()).hexdigest(), code, {})
    if not callable(function):
        raise RequestError(f"attack {made.name} is a {type(function).__name__}, not a function")
    try:
        signature = inspect.signature(function)
        positional = 4 if list(signature.parameters)[:1] == ["oracle"] else 5
        known = {"generator": None} if "generator" in signature.parameters else {}
        signature.bind(*range(positional), **known, **made.args)
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"attack {made.name} takes neither (model, x, y, eps, norm) nor (oracle, x, y, threat): {error}"
        ) from None
    return made


def _as_declared(attack: Attack) -> Callable[..., Tensor]:
    """A file's ``ATTACK`` (docs/attacks.md) as a function of the contract, with the settings that a protocol would say.

    Raises:
        RequestError: it is for training only.
    """
    if attack.run is None:
        raise RequestError("this attack is for training only; an evaluation cannot run it")
    run = attack.run

    def function(
        oracle: Oracle,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        generator: list[torch.Generator],
        steps: int = 100,
        loss: str = "ce",
        targets: int = 0,
    ) -> Tensor:
        if threat.norm not in attack.norms:
            raise NotImplementedError
        return run(oracle, x, y, threat, Settings(steps, getattr(losses, loss), targets, generator))

    return function


def read_images(path: Path) -> External:
    """Read adversarial images made anywhere (``--x-adv``).

    Args:
        path: an ``.npz`` file with ``index`` (n,), positions in the split; ``x_adv`` (n, c, h, w), floats in [0,1] or
            uint8; ``norm``, one for all or (n,) of them. A point may have several images.

    Raises:
        RequestError: no such file, or arrays that are missing or do not fit together.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise RequestError(f"--x-adv {path}: there is no such .npz file")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if missing := [name for name in ("index", "x_adv", "norm") if name not in arrays]:
                raise RequestError(f"--x-adv {path} has no array {missing[0]!r}; it has {', '.join(arrays) or 'none'}")
            index, x_adv, norm = arrays["index"], arrays["x_adv"], arrays["norm"]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RequestError(f"--x-adv {path}: {error}") from None
    if x_adv.ndim != 4 or not (x_adv.dtype == np.uint8 or np.issubdtype(x_adv.dtype, np.floating)):
        raise RequestError(
            f"--x-adv {path}: x_adv is {x_adv.dtype} {list(x_adv.shape)}; give floats or uint8 (n, c, h, w)"
        )
    if index.shape != x_adv.shape[:1] or not np.issubdtype(index.dtype, np.integer):
        raise RequestError(
            f"--x-adv {path}: index is {index.dtype} {list(index.shape)}; give {len(x_adv)} whole numbers"
        )
    if norm.shape not in ((), x_adv.shape[:1]):
        raise RequestError(f"--x-adv {path}: norm has shape {list(norm.shape)}; give one, or {len(x_adv)} of them")
    pixels = torch.from_numpy(x_adv if x_adv.dtype == np.uint8 else x_adv.astype(np.float32))
    images: dict[Norm, dict[int, list[Tensor]]] = {}
    for position, text, image in zip(index.tolist(), np.broadcast_to(norm, index.shape).tolist(), pixels, strict=True):
        images.setdefault(parse_norm(str(text)), {}).setdefault(position, []).append(to_float(image))
    return ExternalImages(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), images)


def given_attacks(attacks: Sequence[str | Callable[..., Tensor]], x_adv: str | Path | None) -> list[External]:
    """The attacks from outside that a Python caller gives; errors as ``attack_of`` and ``read_images``."""
    codes = [user_code.parse("attacks", one) if isinstance(one, str) else one for one in attacks]
    return [*map(attack_of, codes), *([read_images(Path(x_adv))] if x_adv is not None else [])]


def _parts(text: str) -> list[str]:
    """Split at commas that are not inside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _source(function: Any) -> str:
    """A text that tells two functions of one name apart, as far as it can be known."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return repr(function)

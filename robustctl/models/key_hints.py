"""The names of a published file's tensors tell the network's prefix, and a normalisation that lies beside it.

Nothing here is applied: these are hints, in the words of the options of ``models import``.
"""

import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustctl.models.entry import KeyRules

if TYPE_CHECKING:
    from torch import Tensor

COUNTER = "num_batches_tracked"
PAIRS = (("mu", "sigma"), ("mean", "std"), ("new_mean", "new_std"))
"""Names of the two tensors of a normalisation, as RobustBench, timm-like wrappers and MadryLab have them."""


@dataclass(frozen=True)
class Normalisation:
    """Constants found in a file: the names of their tensors, and one value a channel."""

    names: tuple[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def options(self) -> str:
        """``--mean 0.5,0.5,0.5 --std 0.25,0.25,0.25``."""
        return f"--mean {written(self.mean)} --std {written(self.std)}"


def written(values: Iterable[float]) -> str:
    """Numbers as an option takes them, with the digits that float32 has."""
    return ",".join(f"{value:.7g}" for value in values)


def own_normalisation(tensors: "Mapping[str, Tensor]", channels: int) -> Normalisation | None:
    """The first pair of tensors that are called as a normalisation's constants and have a value for each channel."""
    for name, tensor in tensors.items():
        parent, dot, last = name.rpartition(".")
        for mean, std in PAIRS:
            other = tensors.get(f"{parent}{dot}{std}")
            if last == mean and other is not None and tensor.numel() == other.numel() == channels:
                values = [tuple(map(float, one.flatten().tolist())) for one in (tensor, other)]
                if all(value > 0 for value in values[1]):
                    return Normalisation((name, f"{parent}{dot}{std}"), values[0], values[1])
    return None


def network_prefix(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    """The whole prefix under which every tensor of the network is there; the shortest one if there are several.

    Counters of batch normalisation may be absent.
    """
    present = set(names)
    needed = {name for name in wanted if not name.endswith(COUNTER)}
    if not needed:
        return None
    longest = max(needed, key=lambda name: (len(name), name))
    prefixes = {name.removesuffix(longest) for name in present if name.endswith(longest)}
    whole = [prefix for prefix in prefixes if all(prefix + name in present for name in needed)]
    return min(whole, key=lambda prefix: (len(prefix), prefix), default=None)


def suggestion(tensors: Iterable[str], wanted: Iterable[str], rules: KeyRules) -> str:
    """The options that would make the tensors of a state dict fit, on a line of its own; empty if none is known.

    Args:
        tensors: all names in the state dict, before ``rules`` changed them.
        wanted: the names that the network has.
    """
    names = list(tensors)
    prefix = network_prefix(names, wanted)
    if prefix is None:
        prefix = shared_prefix(name for name in names if not name.startswith(rules.drop))
        if prefix in ("", rules.strip):
            return ""
        return f"\n  every name begins with '{prefix}'; if that is a wrapper, cut it: --strip {shlex.quote(prefix)}"
    own = {prefix + name for name in wanted}
    surplus = dropped([name for name in names if name not in own], own)
    options = [*(["--strip", prefix] if prefix else []), *(part for drop in surplus for part in ("--drop", drop))]
    if not options or (prefix == rules.strip and set(surplus) <= set(rules.drop)):
        return ""
    return f"\n  the network's own tensors are all there: {shlex.join(options)}"


def dropped(names: Iterable[str], own: Collection[str]) -> list[str]:
    """Prefixes of tensors beside the network's ``own``: each as short as it can be without meeting one of these."""
    found = set()
    for name in names:
        parts = name.split(".")
        shorter = (".".join(parts[:i]) + ("." if i < len(parts) else "") for i in range(1, len(parts) + 1))
        found.add(next((start for start in shorter if not any(one.startswith(start) for one in own)), name))
    return sorted(found)


def shared_prefix(names: Iterable[str]) -> str:
    """The longest part, up to a dot, that all names begin with; empty if there is none."""
    split = [name.split(".")[:-1] for name in names]
    parts: list[str] = []
    for column in zip(*split, strict=False):
        if len(set(column)) != 1:
            break
        parts.append(column[0])
    return ".".join(parts) + "." if parts and split else ""

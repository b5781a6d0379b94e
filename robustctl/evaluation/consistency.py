"""Whether the parts of a result fit together that no figure follows from: one that was edited may contradict itself."""

from collections.abc import Iterator

from robustctl.evaluation import reference
from robustctl.evaluation.adaptive import masking_flags
from robustctl.evaluation.protocols import PROTOCOLS, ROUNDS
from robustctl.results.union import UnionResult
from robustctl.threats import Threat
from robustctl.version import __version__

FIRST = "first"
"""The round that every protocol with rounds begins with."""


def contradictions(result: UnionResult) -> list[str]:
    """The contradictions between parts of a result, one sentence each; empty if they fit together."""
    return [*_protocol(result), *_opinions(result), *_flags(result)]


def _protocol(result: UnionResult) -> Iterator[str]:
    """The name of a protocol against how it is spelt out.

    Protocols with rounds are worked on, so that an earlier version may spell them out in another way: their rounds must
    be there. A name that is not known here may be a later version's.
    """
    name, text, norms = result.attack.name, result.attack.protocol, list(result.norms)
    if name in PROTOCOLS:
        fits = all(f"{norm}: {', '.join(map(str, PROTOCOLS[name][norm]))}" in text.split("; ") for norm in norms)
    elif name in ROUNDS:
        fits = result.rounds is not None and all(f"{norm}: {FIRST} [" in text for norm in norms)
    elif name == reference.NAME:
        fits = all(f"{norm}: pyautoattack" in text for norm in norms)
    else:
        fits = result.versions.get("robustctl") != __version__
    if not fits:
        yield f"its attacks are other ones than the protocol {name} has, which it names"


def _opinions(result: UnionResult) -> Iterator[str]:
    for norm, one in (result.second_opinion or {}).items():
        left = sum(result.points.robust.get(norm, []))
        if norm not in result.norms or one.sample > left or one.fell > one.sample or sum(one.by.values()) != one.fell:
            yield f"its second opinion in {norm} does not add up: {one.fell} of {one.sample} fell, of {left} survivors"


def _flags(result: UnionResult) -> Iterator[str]:
    """Flags that its own content calls for."""
    threats = [Threat.of(norm, one.eps_text) for norm, one in result.norms.items()]
    wanted = ["estimate:"] if result.attack.name == "fast" else []
    wanted += ["union-only:"] if result.attack.union_only else []
    for threat in threats:
        opinion = (result.second_opinion or {}).get(threat.norm)
        wanted += [f"second-opinion: in {threat} "] if opinion and opinion.fell else []
        wanted += [f"masking: in {threat} "] if masking_flags(result.rounds or [], [threat]) else []
    for begin in wanted:
        if not any(flag.startswith(begin) for flag in result.flags):
            yield f"the flag {begin.strip(' :')!r}, which follows from its own content, is missing"

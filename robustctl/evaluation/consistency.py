"""Whether a result's protocol is what its name says; the other parts are compared whenever a result is read."""

from robustctl.evaluation import reference
from robustctl.evaluation.protocols import PROTOCOLS, ROUNDS
from robustctl.results.union import UnionResult
from robustctl.version import __version__

FIRST = "first"
"""The round that every protocol with rounds begins with."""


def knows(name: str) -> bool:
    """Whether this version has a protocol of that name, so that a result's attacks can be compared with it."""
    return name in PROTOCOLS or name in ROUNDS or name == reference.NAME


def contradictions(result: UnionResult) -> list[str]:
    """A sentence if the attacks differ from the protocol that the result names.

    Protocols with rounds change from version to version, and with them their descriptions: only the presence of rounds
    is compared. A name that is not known here may be a later version's.
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
    return [] if fits else [f"its attacks are other ones than the protocol {name} has, which it names"]

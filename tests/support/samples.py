"""Results to publish."""

from robustctl.results.result_file import DataInfo, index_sha256
from robustctl.results.union import AttackInfo, Points, UnionResult, summarize
from robustctl.threats import Threat


def result(model: str, weights_sha256: str, robust: int, flags: tuple[str, ...] = ()) -> UnionResult:
    """An evaluation of ten points, of which ``robust`` are robust in every norm."""
    ones = [1] * robust + [0] * (10 - robust)
    points = Points(index=list(range(10)), label=[0] * 10, clean=[1] * 10, robust={"linf": ones, "l1": ones})
    threats = [Threat.of("linf", "0.15"), Threat.of("l1", "1.8")]
    return UnionResult(
        model=model,
        weights_sha256=weights_sha256,
        data=DataInfo(source="digits", split="test", n=10, index_sha256=index_sha256("test", range(10))),
        **summarize(points, threats, {}, False),
        attack=AttackInfo(name="standard", protocol="linf: ...", seed=0),
        flags=list(flags),
        seconds=1.0,
        device="cpu",
        versions={"torch": "2"},
        points=points,
    )

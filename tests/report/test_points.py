import csv
import io

import pytest

from robustctl.report import points
from robustctl.results import union as results
from robustctl.results.result_file import DataInfo, index_sha256
from robustctl.results.union import AttackInfo, Points, UnionResult
from robustctl.threats import Threat


@pytest.mark.parametrize(("union_only", "unproven"), [(True, "<=1"), (False, "1")])
def test_of_a_union_only_result_a_norm_s_verdict_is_marked_where_the_union_has_none_of_it(
    union_only: bool, unproven: str
) -> None:
    verdicts = Points(
        index=[5, 6, 7, 8], label=[0] * 4, clean=[1, 1, 1, 0], robust={"linf": [1, 1, 0, 0], "l1": [1, 0, 0, 0]}
    )
    threats = [Threat.parse("linf:8/255"), Threat.parse("l1:12")]
    result = UnionResult(
        model="m",
        weights_sha256="0" * 64,
        data=DataInfo(source="digits", split="test", n=4, index_sha256=index_sha256("test", range(5, 9))),
        attack=AttackInfo(name="standard", protocol="p", seed=0, union_only=union_only),
        flags=["union-only: the norms are bounds"] * union_only,
        seconds=1,
        device="cpu",
        versions={},
        points=verdicts,
        **results.summarize(verdicts, threats, {}, union_only),
    )
    rows = list(csv.DictReader(io.StringIO(points.render([("r", result)]))))
    assert [row["linf"] for row in rows] == ["1", unproven, "0", "0"]
    assert [row["l1"] for row in rows] == ["1", "0", "0", "0"]
    assert [row["l2"] for row in rows] == [""] * 4
    assert [row["union"] for row in rows] == ["1", "0", "0", "0"]

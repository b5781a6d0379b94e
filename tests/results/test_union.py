import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustctl.errors import RequestError
from robustctl.results import statistics
from robustctl.results import union as results
from robustctl.results.result_file import Accuracy, DataInfo, index_sha256
from robustctl.results.union import AttackInfo, Points, UnionResult, unlike_data
from robustctl.threats import Threat


def make(clean=(1, 1, 1, 0), linf=(1, 1, 0, 0), l1=(1, 0, 1, 0), **changes) -> UnionResult:
    points = Points(
        index=list(range(len(clean))), label=[0] * len(clean), clean=list(clean), robust={"linf": linf, "l1": l1}
    )
    threats = [Threat.parse("linf:8/255"), Threat.parse("l1:12")]
    fields = {
        "model": "m",
        "weights_sha256": "0" * 64,
        "data": DataInfo(
            source="digits", split="test", n=len(clean), index_sha256=index_sha256("test", range(len(clean)))
        ),
        "attack": AttackInfo(name="standard", protocol="p", seed=0, precision="float32", union_only=False),
        "flags": [],
        "seconds": 1.0,
        "device": "cpu",
        "versions": {},
        "points": points,
        **results.summarize(points, threats, {}, upper_bound=False),
    }
    return UnionResult(**(fields | changes))


def test_wilson_agrees_with_published_values():
    # Newcombe 1998 (Statistics in Medicine 17), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for n_correct, n, lower, upper in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert statistics.wilson(n_correct, n) == pytest.approx((lower, upper), abs=6e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_estimate_and_stays_in_the_unit_interval(pair):
    n_correct, n = pair
    lower, upper = statistics.wilson(n_correct, n)
    assert 0 <= lower <= n_correct / n <= upper <= 1


def test_interval_of_a_mean_of_bits_is_wilsons():
    bits = [1, 0, 0, 1, 1, 0, 1, 1]
    assert statistics.wilson_mean(bits) == pytest.approx(statistics.wilson(5, 8))


def test_interval_of_a_mean_grows_with_correlation_between_norms():
    together, apart = [1.0, 0.0] * 50, [2 / 3, 1 / 3] * 50
    widths = [upper - lower for lower, upper in map(statistics.wilson_mean, (together, apart))]
    assert widths[0] > 2 * widths[1]


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_test_of_the_discordant_points(pairs):
    first, second = zip(*pairs, strict=True)
    paired = statistics.mcnemar(first, second)
    m, low = paired.only_first + paired.only_second, min(paired.only_first, paired.only_second)
    expected = min(1.0, 2 * sum(math.comb(m, k) * 0.5**m for k in range(low + 1)))
    assert paired.p_value == pytest.approx(expected)
    assert statistics.mcnemar(second, first).p_value == paired.p_value


def test_mcnemar_survives_thousands_of_differing_points():
    assert statistics.mcnemar([1] * 3000 + [0] * 2000, [0] * 3000 + [1] * 2000).p_value < 1e-40


def test_union_is_the_points_robust_in_every_norm():
    result = make()
    assert result.union.n_correct == 1
    assert result.average == pytest.approx(0.5)
    assert result.union.acc <= min(accuracy.acc for accuracy in result.norms.values())


def test_of_a_union_only_result_norms_and_average_are_bounds():
    points = make().points
    threats = [Threat.parse("linf:8/255"), Threat.parse("l1:12")]
    union_only = AttackInfo(name="standard", protocol="p", seed=0, union_only=True)
    bounded = make(
        norms=results.summarize(points, threats, {}, upper_bound=True)["norms"],
        attack=union_only,
        flags=["union-only: ..."],
    )
    names = ("clean", "linf", "l1", "average", "union")
    assert [bounded.is_bound(name) for name in names] == [False, True, True, True, False]
    assert not any(make().is_bound(name) for name in names)


def test_a_result_reads_back_equal(tmp_path):
    result = make()
    result.write(tmp_path / "r.json")
    assert results.read(tmp_path / "r.json") == result


def test_the_file_has_the_contracts_keys(tmp_path):
    make().write(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    contract = "schema model weights_sha256 data clean norms average union attack flags seconds device versions"
    assert set(contract.split()) <= set(content)
    assert {"source", "split", "n", "index_sha256"} == set(content["data"])
    assert {"acc", "n_correct", "ci95"} == set(content["clean"]) == set(content["union"])
    assert {"eps", "eps_text", "acc", "n_correct", "ci95"} <= set(content["norms"]["linf"])
    assert {"name", "protocol", "seed"} <= set(content["attack"])
    assert content["norms"]["linf"]["eps_text"] == "8/255"


def test_an_edited_figure_is_refused(tmp_path):
    make().write(tmp_path / "r.json")
    content = json.loads((tmp_path / "r.json").read_text())
    content["union"] = Accuracy.of([1, 1, 1, 0]).model_dump()
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(RequestError, match="union.acc is 0.75; from its per-point verdicts follows 0.25"):
        results.read(tmp_path / "r.json")


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"schema": "robustctl.eval/1"}', '{"schema": "other"}'])
def test_what_is_no_result_is_refused_with_its_path(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(RequestError, match=r"r\.json"):
        results.read(tmp_path / "r.json")


def test_unlike_results_say_why():
    other = make(
        clean=(1, 1, 1),
        linf=(1, 0, 0),
        l1=(0, 0, 1),
        attack=AttackInfo(name="full", protocol="q", seed=0, precision="float32", union_only=False),
    )
    reasons = " | ".join(results.unlike(make(), other))
    assert "n: 4 against 3" in reasons
    assert "attack: standard" in reasons
    assert results.unlike(make(), make(model="another")) == []


def test_preprocessing_is_written_where_there_was_some_and_keeps_results_apart():
    data = DataInfo(
        source="folder", split="val", n=4, index_sha256=index_sha256("val", range(4)), preprocessing="centre 288x288"
    )
    cut, plain = make(data=data), make(data=data.model_copy(update={"preprocessing": None}))
    assert json.loads(cut.model_dump_json(by_alias=True))["data"]["preprocessing"] == "centre 288x288"
    assert "preprocessing" not in json.loads(plain.model_dump_json(by_alias=True))["data"]
    assert results.unlike(cut, plain) == ["preprocessing: centre 288x288 against images as they are"]
    assert cut.data.text == "folder (val), centre 288x288" and plain.data.text == "folder (val)"


def _info(source: str, content: str | None, indices: str = "1" * 64, n: int = 10) -> DataInfo:
    return DataInfo(source=source, split="test", n=n, index_sha256=indices, content_sha256=content)


def test_data_are_the_same_if_pixels_and_labels_are_whatever_they_are_called() -> None:
    one = _info("x.npz", "a" * 64)
    assert unlike_data(one, _info("./x.npz", "a" * 64, indices="2" * 64)) == []
    (reason,) = unlike_data(one, _info("x.npz", "b" * 64))
    assert reason == "data: pixels or labels of x.npz (test) differ from the ones of x.npz (test)"
    assert unlike_data(one, _info("x.npz", "a" * 64, n=9)) == ["n: 10 against 9"]


def test_older_results_without_a_hash_are_compared_by_name() -> None:
    old = _info("x.npz", None)
    assert unlike_data(old, _info("x.npz", "a" * 64)) == []
    assert unlike_data(old, _info("y.npz", "a" * 64, indices="2" * 64)) == [
        "data: x.npz test against y.npz test",
        "the lists of points differ",
    ]

"""Stored proofs are scored again, a batch at a time."""

from collections.abc import Iterator

import pytest

from robustctl.evaluation import audit, referee
from robustctl.evaluation.store import Row, Store, encode
from robustctl.threats import Threat

LINF = Threat.parse("linf:0.5")


def fill(store: Store, data, x_adv) -> None:
    """Call every point broken, and store ``x_adv`` as its proof."""
    rows = [Row(i, True, True, 1.0, encode(x_adv[i], x)) for i, x in enumerate(data.x)]
    store.add("linf", "apgd-ce", rows)


def test_a_proof_that_does_not_hold_is_flagged(linear, linear_data, tmp_path) -> None:
    data = linear_data.select([1, 2, 3])
    with Store(tmp_path / "s.sqlite", {}) as store:
        fill(store, data, data.x)  # the images themselves, which the model gets right
        flags, rounded = audit.audit(linear, data, store, [LINF], [True] * 3)
    assert flags == ["rescoring: 3 verdicts of linf did not hold in another batch"]
    assert rounded == {"linf": [1, 1, 1]}


def test_proofs_that_hold_are_not(linear, linear_data, tmp_path) -> None:
    data = linear_data.select([0, 10])  # images that the model gets wrong
    with Store(tmp_path / "s.sqlite", {}) as store:
        fill(store, data, data.x)
        assert audit.audit(linear, data, store, [LINF], [True] * 2) == ([], {"linf": [0, 0]})


def test_only_a_batch_of_proofs_is_in_memory(linear, linear_data, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = linear_data.select([i % 40 for i in range(300)])
    read, judged, ahead = 0, 0, []
    plain_adversarial, plain_judge = Store.adversarial, referee.judge

    def adversarial(store: Store, norm: str) -> Iterator[tuple[int, bytes]]:
        nonlocal read
        for one in plain_adversarial(store, norm):
            read += 1
            yield one

    def judge(model, x, *more) -> referee.Verdicts:
        nonlocal judged
        ahead.append(read - judged)
        judged += len(x)
        return plain_judge(model, x, *more)

    monkeypatch.setattr(Store, "adversarial", adversarial)
    monkeypatch.setattr(audit.referee, "judge", judge)
    with Store(tmp_path / "s.sqlite", {}) as store:
        fill(store, data, data.x)
        audit.audit(linear, data, store, [LINF], [True] * 300)
    assert judged == 300
    assert max(ahead) == audit.BATCH


def test_chunks_take_no_more_than_they_hand_out() -> None:
    items = iter(range(7))
    chunks = audit.chunks(items, 3)
    assert next(chunks) == [0, 1, 2]
    assert next(items) == 3
    assert list(chunks) == [[4, 5, 6]]
    assert list(audit.chunks([], 2)) == []

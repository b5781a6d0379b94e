"""The lines of ``metrics.jsonl``: who writes them, who hears them, and what a resumption takes back."""

import json
from pathlib import Path
from typing import Any

from robustctl.training.metrics_log import MetricsLog


def test_lines_are_appended_and_each_listener_hears_every_one(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    log = MetricsLog(tmp_path, [heard.append], leads=True)
    for step in (1, 2):
        log.write({"step": step})
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [1, 2]
    assert [line["step"] for line in heard] == [1, 2]


def test_lines_beyond_the_saved_position_are_cut_off(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, [], leads=True)
    assert log.size() == 0
    log.write({"step": 1})
    kept = log.size()
    log.write({"step": 2})
    log.cut(kept)
    assert log.path.read_text() == '{"step": 1}\n' and log.size() == kept


def test_only_the_leading_process_writes_and_is_heard(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    log = MetricsLog(tmp_path, [heard.append], leads=False)
    log.write({"step": 1})
    assert not log.path.exists() and not heard

"""The reader of YAML and JSON: what breaks a bound is one message, at once."""

import os
import time
from pathlib import Path

import pytest

from robustctl.errors import RequestError
from robustctl.reading import MAX_DEPTH, compose_yaml, parse_json, parse_yaml, read_json, read_text

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"b{i}: &b{i} [{','.join([f'*b{i - 1}' if i else '*a'] * 9)}]\n" for i in range(9)
)
BAD_YAML = [
    ("a: 1\nb: !!bool foo", "line 2: a value does not fit its tag bool"),
    ("a: !!int ''", "line 1: a value does not fit its tag int"),
    ("a: !!timestamp x", "line 1: a value does not fit its tag timestamp"),
    ("a: !!float x", "line 1: a value does not fit its tag float"),
    ("a: 1:30:00", "line 1: a number is written in base 60"),
    ("a: 1" + ":59" * 300_000, "line 1: a number is written in base 60"),
    ("a: " + "9" * 5000, "line 1: a number is written in base 60 \\(1:30\\) or is too long"),
    (LAUGHS, "line 6: with its aliases written out"),
    ("a: &a [1, *a]", "line 1: the alias \\*a stands inside what it names"),
    ("&a {b: &c {d: *a}}", "stands inside"),
    ("a: " + "[" * 300 + "]" * 300, f"nested more than {MAX_DEPTH} deep"),
    ("a: " + "{b: " * 300 + "1" + "}" * 300, f"nested more than {MAX_DEPTH} deep"),
    ("a: " + "[" * 100_000, "nest"),
    ('a: "\\ud800"', "line 1"),
    ("a: !!python/object/apply:os.system [x]", "line 1"),
    ("a: *b", "undefined alias"),
    ("x" * 2_000_000, "2000000 characters"),
    ("a: \x00", "not YAML"),
    ("a: 1\nb: {c: 1,\n c: 2}", "line 3: c: given twice"),
]
BAD_JSON = [
    ("[" * 100_000 + "]" * 100_000, "nested more than"),
    ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested more than"),
    ('{"a": NaN}', "NaN is no number of JSON"),
    ('{"a": -Infinity}', "-Infinity is no number"),
    ('{"a": "\\ud800"}', "half a character"),
    ('{"\\udc00": 1}', "half a character"),
    ('{"a": ' + "9" * 5000 + "}", "not JSON"),
    ('{"a": {"b": 1, "c": 2, "b": 1}}', "'b' is given twice"),
    ("{", "not JSON"),
    ("", "not JSON"),
]


@pytest.mark.parametrize(("text", "message"), BAD_YAML, ids=range(len(BAD_YAML)))
def test_yaml_that_breaks_a_bound_is_refused_at_once(text: str, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(RequestError, match=message):
        parse_yaml(text, "recipe x")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(("text", "message"), BAD_JSON, ids=range(len(BAD_JSON)))
def test_json_that_breaks_a_bound_is_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse_json(text, "r.json")


def test_sound_texts_are_read() -> None:
    assert parse_yaml("a: &x {b: [1, 2.5]}\nc: *x", "x") == {"a": {"b": [1, 2.5]}, "c": {"b": [1, 2.5]}}
    assert parse_json('{"a": ["[[[", "\\"]", 1e-3, "\\ud83d\\ude00"]}', "x") == {"a": ["[[[", '"]', 1e-3, "\U0001f600"]}
    node, content = compose_yaml("a: 1\nb:\n  c: 2", "x")
    assert node is not None and node.value[1][0].start_mark.line == 1 and content["b"] == {"c": 2}


@pytest.mark.parametrize("path", ["/dev/zero", "/", "pipe", "a" * 300, "a\0b"])
def test_what_is_no_regular_file_is_refused_and_never_waited_for(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(RequestError, match=r"not a regular file|cannot read"):
        read_text(Path(path))


def test_bytes_that_are_not_utf_8_and_files_that_are_too_large_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(RequestError, match="not UTF-8 text: .* at byte 7"):
        read_json(tmp_path / "a")
    with pytest.raises(RequestError, match="has 10 bytes, more than the 5"):
        read_json(tmp_path / "a", 5)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b")

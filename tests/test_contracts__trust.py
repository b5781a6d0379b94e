"""docs/trust.md names tests that exist, and every fault has one."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
FAULTS = [line for line in PAGE.split("## Mutants")[0].splitlines() if line.startswith("| ") and "fault" not in line]


def test_every_fault_names_a_test() -> None:
    assert len(FAULTS) > 10
    for line in FAULTS:
        assert re.search(r"`tests/[^`]+::test_\w+`", line), line


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[^`]+)::(\w+)`", PAGE)
    assert named
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{path} has no {name}"

"""The Python that the documents show runs, and the package's public functions are typed."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import get_type_hints

import pytest

import robustctl

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
PUBLIC = ("evaluate", "evaluate_intermediate", "finetune", "load_model", "pull", "push", "train")


def _examples(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_the_examples_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    examples = _examples(PAGE)
    assert len(examples) >= 7
    names: dict[str, object] = {}
    for example in examples:
        first = example.partition("\n")[0]
        if file := re.fullmatch(r"# (\w+\.py)", first):
            (tmp_path / file[1]).write_text(example)
            continue
        if first == "# needs foolbox" and find_spec("foolbox") is None:
            continue
        exec(compile(example, str(PAGE), "exec"), names)
    assert (tmp_path / "net.json").is_file()


def test_every_public_function_is_on_the_page_and_typed() -> None:
    text = PAGE.read_text()
    for name in PUBLIC:
        assert f"robustctl.{name}(" in text
        assert getattr(robustctl, name).__doc__
    assert {"name", "return"} == set(get_type_hints(robustctl.pull))
    assert (ROOT / "robustctl" / "py.typed").is_file()


def test_the_package_itself_imports_nothing_heavy() -> None:
    program = "import sys, robustctl; print(*{name.split('.')[0] for name in sys.modules})"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pydantic", "typer"} & set(modules)

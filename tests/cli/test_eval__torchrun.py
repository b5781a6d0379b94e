"""The documented way to evaluate with several processes is understood by torchrun itself."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2]


def _documented() -> list[str]:
    texts = [DOCS / "README.md", *sorted((DOCS / "docs").glob("*.md"))]
    return [line for text in texts for line in re.findall(r"torchrun [^\n`]*-m robustctl [^\n`]*", text.read_text())]


@pytest.mark.parametrize("line", [*_documented(), "torchrun --nproc-per-node 2 -m robustctl eval m --union -n 60"])
def test_torchrun_leaves_our_options_to_us(line: str) -> None:
    from torch.distributed.run import parse_args

    words = line.partition("#")[0].split()[1:]
    ours = words[words.index("robustctl") + 1 :]
    assert parse_args(words).training_script_args == ours

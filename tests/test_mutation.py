"""Random changes of single places of the numerics die; ``python -m pytest -m mutation`` takes hours."""

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import mutant_trial
import mutants
import pytest

SEED, N, LEAST = 0, 200, 0.95


def test_a_sample_is_a_function_of_its_seed_and_holds_every_kind_of_change() -> None:
    chosen = mutants.sample(SEED, N)
    assert chosen == mutants.sample(SEED, N)
    assert len(set(chosen)) == N
    kinds = Counter(one.kind for one in chosen)
    assert kinds.keys() == {"constant", "comparison", "operator", "arguments", "statement"}
    assert min(kinds.values()) > N / 10


def test_a_mutant_is_a_program_with_one_change() -> None:
    for mutant in mutants.sample(1, 60):
        source = (mutants.ROOT / mutant.file).read_bytes()
        assert source[mutant.start : mutant.end].decode() == mutant.old
        changed = source[: mutant.start] + mutant.new.encode() + source[mutant.end :]
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), mutant.name


def test_every_file_has_tests_that_exist() -> None:
    for file in mutants.files():
        for test in mutant_trial.tests_of(str(file.relative_to(mutants.ROOT))):
            assert (mutants.ROOT / test).exists()


def test_every_equivalent_is_still_a_mutant_and_has_a_reason() -> None:
    names = {one.name for file in mutants.files() for one in mutants.mutants_of(file)}
    for name, why in mutants.equivalents().items():
        assert name in names, f"{name}: the code has changed; look at it again"
        assert len(why.split()) > 3


@pytest.mark.mutation
def test_nineteen_of_twenty_mutants_die(tmp_path: Path) -> None:
    subprocess.run([sys.executable, mutants.ROOT / "tests/support/mutant_map.py", tmp_path / "map"], check=True)
    reach = mutant_trial.Reach(**json.loads((tmp_path / "map").read_text()))
    trial, known = mutant_trial.Trial(mutant_trial.copied(tmp_path), reach), mutants.equivalents()
    chosen = [one for one in mutants.sample(SEED, N) if one.name not in known]
    alive = [one.name for one in chosen if trial.fate(one)[0] in ("survived", "too slow")]
    assert len(alive) <= (1 - LEAST) * len(chosen), "\n".join(alive)

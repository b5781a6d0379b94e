"""Two commands that change the same model at once leave it whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WEIGHTS = Path(__file__).parents[2] / "robustctl" / "models" / "weights" / "digits-linf.safetensors"


@pytest.mark.slow
def test_of_two_imports_at_once_one_wins_and_its_model_stays(tmp_path: Path) -> None:
    home = tmp_path / "home"
    options = ["--arch", "kw-small", "--set", "width=32", "--dataset", "digits", "--no-normalisation"]
    command = [sys.executable, "-m", "robustctl", "models", "import", str(WEIGHTS), "--name", "mine", *options]
    environment = {**os.environ, "ROBUSTCTL_HOME": str(home), "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [one.communicate(timeout=300)[1].decode() for one in both]
    assert sorted(one.returncode for one in both) == [0, 2], errors
    assert any("exists already" in error for error in errors)
    assert {path.name for path in (home / "weights").iterdir()} == {"mine.safetensors", "mine.json"}
    assert (home / "entries" / "mine.yaml").is_file()

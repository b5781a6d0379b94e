"""Threads wait without taking a core, unless the user says otherwise; torch reads that when it is imported."""

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from robustctl.cli import main
assert "torch" not in sys.modules, "torch would have read its settings already"
sys.argv = ["robustctl", "--version"]
try:
    main()
except SystemExit:
    pass
print(os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("said", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_passively_unless_the_environment_says_otherwise(said: str | None, expected: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if said is not None:
        environment["OMP_WAIT_POLICY"] = said
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == expected

"""Threads that wait leave their core to others, unless the user says otherwise; torch reads that at its import."""

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
print(os.environ.get("GOMP_SPINCOUNT"))
"""


@pytest.mark.parametrize(
    ("said", "expected"), [({}, "3000"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"), ({"GOMP_SPINCOUNT": "5"}, "5")]
)
def test_threads_spin_for_a_short_time_unless_the_environment_says_otherwise(
    said: dict[str, str], expected: str
) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", CODE], env=kept | said, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == expected

"""Everything that runs on a device runs on the stand-in, which is none: see tests/support/standin."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import standin

ROOT = Path(__file__).parents[1]


def test_the_package_does_on_another_device_what_it_does_on_the_cpu() -> None:
    if reason := standin.missing():
        pytest.skip(reason)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "tests/standin"]
    ran = subprocess.run(command, cwd=ROOT, env={**os.environ, "STANDIN": "1"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-3000:]

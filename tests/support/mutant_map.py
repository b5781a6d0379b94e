"""Which default tests run which lines of the numerics: a mutant is asked only of tests that reach it.

    python tests/support/mutant_map.py MAP [TEST ...]

It runs the default tests (or those named) once under coverage.py, in this checkout, and writes MAP. Code that a test
runs in another process is not seen: such a test is asked about no mutant, so that at most too few die.
"""

import json
import sys
from pathlib import Path

import coverage
import mutants
import pytest


class _Recorder:
    """A plugin of pytest: each line counts for the test that runs it; tests that do not pass are left out."""

    def __init__(self, seen: coverage.Coverage) -> None:
        self.seen = seen
        self.seconds: dict[str, float] = {}
        self.unsound: set[str] = set()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.seen.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.outcome != "passed":
            self.unsound.add(report.nodeid)


def main() -> None:
    target, tests = Path(sys.argv[1]).resolve(), sys.argv[2:] or ["tests"]
    places = {str(file.relative_to(mutants.ROOT)): file for file in mutants.files()}
    seen = coverage.Coverage(data_file=None, include=[str(file) for file in places.values()], messages=False)
    recorder = _Recorder(seen)
    seen.start()
    pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], plugins=[recorder])
    seen.stop()
    sound = [test for test in recorder.seconds if test not in recorder.unsound]
    number = {test: i for i, test in enumerate(sound)}
    lines = {
        name: {
            line: [number[test] for test in tests if test in number]
            for line, tests in seen.get_data().contexts_by_lineno(str(file)).items()
        }
        for name, file in places.items()
    }
    content = {"tests": sound, "seconds": [recorder.seconds[test] for test in sound], "lines": lines}
    target.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    main()

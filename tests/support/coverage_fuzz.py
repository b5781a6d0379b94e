"""Feeds one reader with texts that reach ever more of its code, by atheris.

``coverage_fuzz.py READER FOLDER [-option=...]``; the options are libFuzzer's. It ends with a traceback at the first
text that is neither read nor refused with one message.
"""

import os
import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

with atheris.instrument_imports(include=["robustctl", "yaml"]):
    import readers


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    path = folder / "read" / readers.READERS[name][0]
    path.parent.mkdir(exist_ok=True)

    def feed(content: bytes) -> None:
        path.write_bytes(content)
        if found := readers.finding(name, path):
            raise AssertionError(found)

    os.chdir(folder)
    atheris.Setup([sys.argv[0], *sys.argv[3:]], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

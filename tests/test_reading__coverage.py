"""Texts that are made to reach every branch of a reader are read or refused with one message, each in 5 seconds.

Run with ``-m fuzz``. FUZZ_SECONDS says how long each reader is fed; FAULTS_SEED chooses other texts.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import readers

SECONDS = int(os.environ.get("FUZZ_SECONDS", "60"))
SEED = int(os.environ.get("FAULTS_SEED", "0")) + 1  # libFuzzer takes 0 for a random one
SCRIPT = Path(readers.__file__).with_name("coverage_fuzz.py")


def _word(piece: str) -> str:
    """A piece as a line of libFuzzer's dictionaries."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in piece.encode("utf-8", "surrogatepass")) + '"'


@pytest.mark.fuzz
@pytest.mark.parametrize("name", readers.READERS)
def test_no_text_that_coverage_leads_to_breaks_a_reader(name: str, shared: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, text in enumerate(readers.sound_texts(shared)[name]):
        (corpus / str(number)).write_text(text, encoding="utf-8")
    words = tmp_path / "words"
    words.write_text("\n".join(_word(one) for one in readers.PIECES if len(one) < 100), encoding="utf-8")
    limits = [f"-max_total_time={SECONDS}", "-timeout=5", "-rss_limit_mb=4096", "-max_len=20000", f"-seed={SEED}"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), name, str(tmp_path), *limits, f"-dict={words}", "-print_final_stats=1", "corpus"],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS + 300,
    )
    said = done.stdout + done.stderr
    ran = re.search(r"number_of_executed_units: (\d+)", said)
    print(name, ran and ran[1], re.findall(r"cov: (\d+)", said)[-1:])
    assert done.returncode == 0, said[-3000:]
    assert ran and int(ran[1]) > 10 * SECONDS

"""The fuzzer, briefly: 2,000 damaged files over all readers, and proof that it notices what it is for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import fuzz
from vlm3d_gs.core.errors import InputFileError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it needs fork and limits")
SCRIPT = Path(__file__).parents[1] / "fuzz.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_two_thousand_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """Few of USD, which takes its time, and none where its library is not installed."""
    usd = [name for name in fuzz.TARGETS if name.startswith("usd") and find_spec("pxr")]
    others = [name for name in fuzz.TARGETS if not name.startswith("usd")]
    for count, names in ((140, others), (20, usd)):
        out = tmp_path / "found"
        done = run("--count", str(count), "--seed", "7", "--out", str(out), *names)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count(f": {count} inputs") == len(names)
        assert not out.exists()
        if not usd:
            break


def hang(path: Path) -> None:
    time.sleep(60)


def grow(path: Path) -> None:
    assert bytearray(b"x" * 2**27)


def fail(path: Path) -> None:
    raise ValueError(f"no error of ours: {path.name}")


def crash(path: Path) -> None:
    os.abort()


def several_lines(path: Path) -> None:
    raise InputFileError("one\ntwo")


def refuse(path: Path) -> None:
    raise InputFileError("one")


def test_it_notices(tmp_path: Path) -> None:
    """In a process of its own, since it forks; a refusal is no finding."""
    readers = ("hang", "grow", "fail", "crash", "several_lines", "refuse")
    program = (
        f"import sys; sys.path[:0] = [{str(SCRIPT.parent)!r}, {str(Path(__file__).parent)!r}]\n"
        "import fuzz, test_fuzz\n"
        "fuzz.MOST_SECONDS, fuzz.MOST_BYTES, fuzz.MOST_FINDINGS = 1, 2**26, 1\n"
        f"for name in {readers}:\n"
        "    reader = getattr(test_fuzz, name)\n"
        "    fuzz.TARGETS[name] = lambda: fuzz.Target('.x', (b'abc' * 20,), reader)\n"
        f"    tally, found = fuzz.fuzz(name, 3, 60, 0, fuzz.Path({str(tmp_path)!r}))\n"
        "    print('result', name, found, tally['refused'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    for name in readers:
        expected = "0 3" if name == "refuse" else "1 0"
        assert f"result {name} {expected}\n" in done.stdout
        assert len(list(tmp_path.glob(f"{name}-0.*"))) == (0 if name == "refuse" else 2)

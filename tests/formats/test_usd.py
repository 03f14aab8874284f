"""USD is read in a process of its own: whatever its library does there, here it is one line."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from splat_files import random_splat
from vlm3d_gs.core.errors import InputFileError, MissingDependencyError, WriteError
from vlm3d_gs.formats import usd, usd_child
from vlm3d_gs.formats.convert import read_splat, write_splat

pytest.importorskip("pxr", reason="usd-core is not installed")
WILD = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "wild"


def acting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str) -> None:
    """Put a program of two lines in the place of the reader."""
    program = tmp_path / "program.py"
    program.write_text(f"import os, signal, sys, time, numpy\n{body}\n")
    monkeypatch.setattr(usd_child, "__file__", str(program))


def some(tmp_path: Path, suffix: str = ".usdc") -> Path:
    path = tmp_path / f"a{suffix}"
    write_splat(random_splat(40, 1), path)
    return path


@pytest.mark.skipif(not WILD.is_dir(), reason="the shared fixtures are not here")
def test_a_file_that_crashes_the_library_is_one_line() -> None:
    with pytest.raises(InputFileError, match=r"crash_1\.usdc .*crashed on it \(SIGSEGV\)") as found:
        read_splat(WILD / "crash_1.usdc")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("suffix", [".usda", ".usdc"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = some(tmp_path, suffix)
    assert len(read_splat(path)) == 40
    data = path.read_bytes()
    for length in (9, len(data) // 2, len(data) - 3):
        path.write_bytes(data[:length])
        with pytest.raises(InputFileError) as found:
            read_splat(path)
        assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "crashed on it .SIGSEGV"),
        ("os.abort()", "crashed on it .SIGABRT"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "more time or memory"),
        ("sys.exit(7)", "exit code 7"),
        ("sys.stderr.write('noise\\nit is rotten.\\n'); sys.exit(2)", "file: it is rotten.$"),
        ("pass", "read nothing"),
        ("numpy.savez(sys.argv[2], up='Y')", "holds no visible prim"),
        ("open(sys.argv[2], 'wb').truncate(2**33)", "8589934592 bytes of values"),
    ],
)
def test_however_the_other_process_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    path = some(tmp_path)
    acting(monkeypatch, tmp_path, body)
    with pytest.raises(InputFileError, match=message):
        read_splat(path)


def test_one_that_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = some(tmp_path)
    acting(monkeypatch, tmp_path, "time.sleep(60)")
    monkeypatch.setattr(usd, "CHILD_SECONDS", 0.05)
    with pytest.raises(InputFileError, match="did not end"):
        read_splat(path)


def test_a_library_without_splats_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = some(tmp_path)
    acting(monkeypatch, tmp_path, f"sys.exit({usd_child.TOO_OLD})")
    with pytest.raises(MissingDependencyError, match="usd-core>="):
        read_splat(path)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_its_memory_and_time_are_bounded(tmp_path: Path) -> None:
    for taken, limits, ended in (
        ("bytes(2**29)", "2**27, 60", {1}),
        ("sum(range(10**12))", "2**30, 1", {-signal.SIGXCPU, -signal.SIGKILL}),
    ):
        program = f"from vlm3d_gs.formats import usd_child\nusd_child.limit({limits})\n{taken}"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert done.returncode in ended
        assert ("MemoryError" in done.stderr) == (ended == {1})


def test_a_module_in_the_current_folder_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = some(tmp_path)
    (tmp_path / "numpy.py").write_text("raise SystemExit(5)\n")
    monkeypatch.chdir(tmp_path)
    assert len(read_splat(path.name)) == 40


@pytest.mark.parametrize("suffix", [".usda", ".usdc", ".usdz"])
def test_a_full_disk_is_one_line(tmp_path: Path, suffix: str) -> None:
    """The library's own exception is pages of its source; a limit on the size of files stands for the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(WriteError) as refused:
            write_splat(random_splat(3000, 3), tmp_path / f"a{suffix}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    message = str(refused.value)
    assert message.startswith(f"Cannot write {tmp_path / 'a'}{suffix}: file too large.")
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []

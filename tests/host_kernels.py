"""The arithmetic of cuda/*.cuh, compiled by the host's compiler."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("kernels_on_host.cpp")


def build(folder: Path) -> ctypes.CDLL:
    """Compile tests/kernels_on_host.cpp into `folder` and load it; skips where there is no C++ compiler."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("no C++ compiler (c++, g++ or clang++) on the path")
    library = folder / "kernels_on_host.so"
    flags = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
    done = subprocess.run(
        [compiler, *flags, str(SOURCE), "-o", str(library)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))

"""The door to the compiled library: what it says where there is none, and that it can be built."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from vlm3d_gs.config import OptimConfig
from vlm3d_gs.core.errors import DeviceError
from vlm3d_gs.kernels import available, library, require


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    library.load.cache_clear()


def test_the_error_gives_both_reasons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "none.so")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not available()
    with pytest.raises(
        DeviceError, match=r"no CUDA device; and .*none\.so is not there.*make cuda"
    ):
        require()


def test_a_failed_load_is_remembered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(library, "LIBRARY", broken)
    assert "cannot be loaded" in library.load()[1]
    broken.unlink()
    assert "cannot be loaded" in library.load()[1]
    library.load.cache_clear()


def test_no_kernel_is_used_unless_asked_for() -> None:
    assert not OptimConfig().fused


@pytest.mark.slow
def test_the_library_builds_where_nvcc_is(repo_root: Path, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None or shutil.which("make") is None:
        pytest.skip("nvcc or make is not on the path")
    shutil.copytree(repo_root / "cuda", tmp_path / "cuda", ignore=shutil.ignore_patterns("build"))
    target = tmp_path / "src" / "vlm3d_gs" / "kernels" / library.LIBRARY.name
    target.parent.mkdir(parents=True)
    done = subprocess.run(
        ["make", "-C", str(tmp_path / "cuda")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert target.is_file()
    assert all(f"code=sm_{arch}" in done.stdout for arch in (80, 90, 120))

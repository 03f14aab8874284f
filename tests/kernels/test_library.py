"""The door to the compiled library: what it says where there is none, that it can be built, and wheels that hold it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from vlm3d_gs.config import OptimConfig
from vlm3d_gs.core.errors import DeviceError
from vlm3d_gs.kernels import available, library, require


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    library.load.cache_clear()
    library.refusal.cache_clear()


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


@pytest.fixture(scope="module")
def built(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library for one architecture, built by the compiler of `make setup` or by one on the path."""
    packaged = sorted(Path(sys.prefix).glob("lib/python3*/site-packages/nvidia/cu1*/bin/nvcc"))
    compiler = str(packaged[-1]) if packaged else shutil.which("nvcc")
    if compiler is None:
        pytest.skip("no CUDA compiler: run make setup")

    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(repo_root / "cuda", copy / "cuda", ignore=shutil.ignore_patterns("build"))
    target = copy / "src" / "vlm3d_gs" / "kernels" / library.LIBRARY.name
    target.parent.mkdir(parents=True)
    command = ["make", "-C", str(copy / "cuda"), f"NVCC={compiler}", "CUDA_ARCHS=90"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "code=sm_90" in done.stdout
    assert "code=compute_90" in done.stdout  # as PTX, for cards to come
    return target


def test_the_library_has_every_launcher_that_is_called(
    built: Path, repo_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "LIBRARY", built)
    loaded, reason = library.load()
    assert loaded is not None, reason
    launchers = re.findall(r'launch\(\s*"(\w+)"', "".join(sources(repo_root)))
    assert len(launchers) == 3
    for name in launchers:
        assert hasattr(loaded, f"vlm3d_gs_{name}")


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no card")
def test_a_driver_that_the_library_cannot_use_is_named(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "LIBRARY", built)
    # As on a machine whose torch is of an older CUDA than the library.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not available()
    with pytest.raises(DeviceError, match=r"kernels\.so finds no card: .*(driver|device)"):
        require()


def sources(repo_root: Path) -> list[str]:
    return [file.read_text() for file in (repo_root / "src/vlm3d_gs/kernels").glob("*.py")]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_wheel_with_kernels_is_for_this_platform(
    repo_root: Path, tmp_path: Path, compiled: bool
) -> None:
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(repo_root / name, tmp_path / name)
    kernels = tmp_path / "src" / "vlm3d_gs" / "kernels"
    kernels.mkdir(parents=True)
    (kernels / "__init__.py").touch()
    (kernels.parent / "__init__.py").touch()
    if compiled:
        (kernels / library.LIBRARY.name).write_bytes(b"a library")

    build = "import sys, setuptools.build_meta as build; build.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(tmp_path / "dist")]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)

    (wheel,) = (tmp_path / "dist").iterdir()
    assert wheel.stem.endswith("-py3-none-any") is not compiled
    assert "-py3-none-" in wheel.stem
    with zipfile.ZipFile(wheel) as archive:
        held = f"vlm3d_gs/kernels/{library.LIBRARY.name}" in archive.namelist()
    assert held is compiled

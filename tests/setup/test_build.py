"""The build leaves a wheel or a log, ends what it started, and works with links where packages are incomplete."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from vlm3d_gs.core.errors import SetupError
from vlm3d_gs.setup import build as building
from vlm3d_gs.setup.build import build_wheel, run
from vlm3d_gs.setup.cards import Cards
from vlm3d_gs.setup.environment import inherited
from vlm3d_gs.setup.installer import Installer
from vlm3d_gs.setup.plan import Plan
from vlm3d_gs.setup.toolkit import assemble, find_toolkit
from vlm3d_gs.setup.torch_build import TorchBuild


def silent(_: str) -> None:
    pass


def uncounted(_: int, __: int) -> None:
    pass


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name)


@pytest.fixture
def torch_build(tmp_path: Path) -> TorchBuild:
    """torch with the packages that it asks for."""
    nvidia = tmp_path / "site" / "nvidia" / "cu13"
    touch(
        nvidia / "include/cusparse.h",
        nvidia / "include/cublas_v2.h",
        nvidia / "lib/libcublas.so.13",
    )
    touch(nvidia / "include/cusolverDn.h", nvidia / "include/cuda_runtime.h")
    return TorchBuild("2.11.0+cu130", "13.0", tmp_path / "site" / "torch")


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    """A toolkit whose compiler says its version and compiles nothing."""
    home = tmp_path / "toolkit"
    touch(home / "include/crt/host_config.h", home / "lib/libcudart.so.13", home / "nvvm/bin/cicc")
    touch(home / "bin/nvcc", home / "include/cuda_runtime.h")
    (home / "bin/nvcc").write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "release 13.0, V13.0.88" && exit\n'
        'echo "error: -- unsupported GNU version!"; exit 1\n'
    )
    (home / "bin/nvcc").chmod(0o755)
    return home


def test_packages_become_a_whole_toolkit_by_links(
    toolkit: Path, torch_build: TorchBuild, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    assemble(home, toolkit, torch_build)

    assert (home / "bin/nvcc").is_file()
    assert (home / "nvvm/bin/cicc").is_file()
    assert (home / "include/crt/host_config.h").is_file()
    assert (home / "include/cusparse.h").is_file()
    # the compiler's own come first
    assert (home / "include/cuda_runtime.h").resolve().is_relative_to(toolkit)
    assert (home / "lib64/libcudart.so").resolve().name == "libcudart.so.13"
    # nothing was put into either
    assert not (toolkit / "lib64").exists()
    assert sorted(os.listdir(torch_build.nvidia)) == ["include", "lib"]


def test_a_toolkit_of_the_machine_is_taken_if_it_fits(
    toolkit: Path, torch_build: TorchBuild, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit))
    assert find_toolkit(torch_build) == toolkit
    # not one of another major version, and not one without headers that nobody has
    other = TorchBuild("2.10.0+cu128", "12.8", torch_build.folder)
    assert find_toolkit(other) != toolkit
    (torch_build.nvidia / "include/cusparse.h").unlink()
    assert find_toolkit(torch_build) != toolkit


def test_a_failed_build_leaves_its_log_and_nothing_else(
    toolkit: Path, torch_build: TorchBuild, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    (cache / "tools").mkdir(parents=True)
    (cache / "build-killed").mkdir()  # of a program that was killed
    plan = Plan(torch_build, Cards(None), ("9.0",), Installer(None), toolkit, cache, jobs=1)

    with pytest.raises(SetupError, match="unsupported GNU version") as caught:
        build_wheel(plan, silent, uncounted)

    (log,) = cache.glob("*.log")
    assert str(log) in str(caught.value)
    assert "unsupported GNU version" in log.read_text()
    assert {entry.name for entry in cache.iterdir()} == {"tools", log.name}


def test_what_is_fetched_is_whole_or_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        Path(command[command.index("--target") + 1], "half").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(building, "run", half)
    (tmp_path / "build").mkdir()
    log = tmp_path / "build" / "log.txt"
    with pytest.raises(KeyboardInterrupt):
        building._fetched(tmp_path / "target", Installer(None), ("ninja",), log, silent)
    assert not (tmp_path / "target").exists()


def test_files_that_are_done_are_counted(tmp_path: Path) -> None:
    counted: list[tuple[int, int]] = []
    say = "print('  [1/3] nvcc a.cu'); print('[note] b.cu'); print('[3/3] g++ c.o')"
    log = tmp_path / "log"
    run(
        [sys.executable, "-c", say],
        inherited(),
        log,
        lambda done, all_: counted.append((done, all_)),
    )
    assert counted == [(1, 3), (3, 3)]
    assert "[note] b.cu" in log.read_text()


def test_an_interrupted_build_ends_all_that_it_started(tmp_path: Path) -> None:
    note = tmp_path / "child"
    script = f"sleep 60 & echo $! > {note}; echo '[1/2] a.cu'; wait"

    def interrupt(_: int, __: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(["sh", "-c", script], inherited(), tmp_path / "log", interrupt)

    child = Path("/proc") / note.read_text().strip() / "status"
    for _ in range(50):
        if not child.exists() or "State:\tZ" in child.read_text():
            return
        time.sleep(0.1)
    pytest.fail("the compiler's own child lives on")


def test_a_program_that_fails_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"exit code 3:\nno such thing"):
        run(["sh", "-c", "echo no such thing; exit 3"], inherited(), tmp_path / "log")


def test_the_compiler_is_told_what_torch_wants(
    torch_build: TorchBuild, toolkit: Path, tmp_path: Path
) -> None:
    plan = Plan(
        torch_build, Cards(None), ("8.0", "9.0+PTX"), Installer(None), toolkit, tmp_path, jobs=3
    )
    environment = building._environment(plan, tmp_path / "home", tmp_path / "tools", tmp_path)
    assert environment["TORCH_CUDA_ARCH_LIST"] == "8.0;9.0+PTX"
    assert environment["MAX_JOBS"] == "3"
    assert environment["PATH"].startswith(
        f"{tmp_path / 'tools' / 'bin'}:{tmp_path / 'home' / 'bin'}:"
    )
    assert "NVCC_APPEND_FLAGS" not in environment or "20" not in environment["NVCC_APPEND_FLAGS"]
    assert os.environ.get("CUDA_HOME") != environment["CUDA_HOME"]

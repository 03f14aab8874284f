"""The build itself: everything in one folder that goes when it ends, a bar, and a log that stays if it fails."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import TextIO

from vlm3d_gs.core.errors import SetupError
from vlm3d_gs.setup.environment import inherited
from vlm3d_gs.setup.installer import Installer, pip
from vlm3d_gs.setup.plan import Plan
from vlm3d_gs.setup.toolkit import assemble, compiler_version, packaged_requirement
from vlm3d_gs.setup.wheels import GSPLAT

TOOLS = ("setuptools>=77,<82", "ninja", "packaging")
"""What gsplat's build asks for; torch up to 2.12 wants setuptools below 82."""
COUNT = re.compile(r"^\s*\[(\d+)/(\d+)\]")
"""How ninja counts the files that are done."""
LAST_LINES = 15

Progress = Callable[[int, int], None]
"""Called with the number of files done and of all files."""


def build_wheel(plan: Plan, tell: Callable[[str], None], progress: Progress) -> Path:
    """Build gsplat and put its wheel into the store.

    Args:
        plan: without obstacles.
        tell: called with what is being done.
        progress: called whenever a file has been compiled.

    Returns:
        The wheel.

    Raises:
        SetupError: something could not be fetched or compiled; the message ends with the log's path.
    """
    if plan.installer is None:
        raise SetupError("Neither pip nor uv is there to build with.")

    with _build_folder(plan.cache) as folder:
        log = folder / "log.txt"
        try:
            tools = _fetched(plan.cache / "tools", plan.installer, TOOLS, log, tell)
            if plan.installer.uv:
                _fetched(plan.cache / "pip", plan.installer, ("pip",), log, tell)
            toolkit = plan.toolkit or _packaged_toolkit(plan, plan.installer, log, tell)
            home = folder / "cuda"
            assemble(home, toolkit, plan.torch)

            environment = _environment(plan, home, tools, folder)
            _compile_something(home, environment, folder, log)
            source = _source(plan, environment, log, tell)

            tell(f"building gsplat {GSPLAT} for {', '.join(plan.architectures)}")
            command = [*pip(), "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-index"]
            run(
                [*command, "--wheel-dir", str(folder / "out"), str(source)],
                environment,
                log,
                progress,
            )
        except SetupError as error:
            kept = plan.cache / f"failed-{time.strftime('%Y%m%d-%H%M%S')}.log"
            shutil.copy(log, kept)
            raise SetupError(f"{error} The log: {kept}") from error

        (wheel,) = (folder / "out").glob("gsplat-*.whl")
        plan.store.folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.move(wheel, plan.store.folder / wheel.name))


def _packaged_toolkit(
    plan: Plan, installer: Installer, log: Path, tell: Callable[[str], None]
) -> Path:
    """Return CUDA's compiler in our cache, fetched if it is not there."""
    requirement = (packaged_requirement(plan.torch),)
    _fetched(plan.packaged_toolkit, installer, requirement, log, tell)
    if compiler_version(plan.packaged_home) is None:
        raise SetupError(f"CUDA's compiler in {plan.packaged_home} does not run on this machine.")
    return plan.packaged_home


def _fetched(
    target: Path,
    installer: Installer,
    requirements: Sequence[str],
    log: Path,
    tell: Callable[[str], None],
) -> Path:
    """Return a folder of unpacked packages; it is whole or not there."""
    if not target.is_dir():
        tell(f"fetching {', '.join(requirements)}")
        parts = log.with_name("parts")
        run(installer.fetch(parts, *requirements), inherited(), log)
        parts.rename(target)
    return target


def _source(
    plan: Plan, environment: Mapping[str, str], log: Path, tell: Callable[[str], None]
) -> Path:
    """Return gsplat's source archive, fetched if it is not in the cache."""
    archive = plan.cache / f"gsplat-{GSPLAT}.tar.gz"
    if not archive.is_file():
        tell(f"fetching gsplat {GSPLAT}'s source")
        target = log.with_name("source")
        command = [*pip(), "download", "--quiet", "--no-deps", "--no-build-isolation"]
        command += ["--no-binary", "gsplat", "--dest", str(target), f"gsplat=={GSPLAT}"]
        # Otherwise torch would be imported only to be asked for gsplat's name and version.
        run(command, {**environment, "BUILD_NO_CUDA": "1"}, log)
        (target / archive.name).rename(archive)
    return archive


def _environment(plan: Plan, home: Path, tools: Path, folder: Path) -> dict[str, str]:
    """Return what the build must know; nothing of it stays."""
    (folder / "tmp").mkdir()
    packages = [tools, *([plan.cache / "pip"] if plan.installer and plan.installer.uv else [])]
    changes = {
        "CUDA_HOME": str(home),
        "TORCH_CUDA_ARCH_LIST": ";".join(plan.architectures),
        "MAX_JOBS": str(plan.jobs),
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": os.pathsep.join(map(str, packages)),
    }
    if plan.torch.wants_cxx20():
        # gsplat asks for C++17, and the compiler heeds the last of two.
        changes["NVCC_APPEND_FLAGS"] = "-std=c++20"

    environment = inherited(first={"PATH": home / "bin"}, **changes)
    return {**environment, "PATH": os.pathsep.join([str(tools / "bin"), environment["PATH"]])}


def _compile_something(home: Path, environment: Mapping[str, str], folder: Path, log: Path) -> None:
    """Compile a file of a few lines, which tells in seconds that compiler, g++ and headers do not fit."""
    sample = folder / "sample.cu"
    sample.write_text(
        "#include <cuda_runtime.h>\n#include <cublas_v2.h>\n#include <cusparse.h>\n"
        "#include <cusolverDn.h>\n#include <cub/cub.cuh>\n__global__ void nothing() {}\n"
    )

    architectures = (
        environment["TORCH_CUDA_ARCH_LIST"].replace("+PTX", "").replace(".", "").split(";")
    )
    targets = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]

    command = [
        str(home / "bin" / "nvcc"),
        *targets,
        "-std=c++17",
        "-c",
        str(sample),
        "-o",
        os.devnull,
    ]
    run([*command, "-I", str(home / "include")], environment, log)


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    progress: Progress | None = None,
) -> None:
    """Run a program, its output into the log; if we are interrupted, it and all that it started end too.

    Raises:
        SetupError: it failed; with the last lines that it said.
    """
    with (
        log.open("a", buffering=1) as file,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as program,
    ):
        file.write(f"$ {' '.join(command)}\n")
        try:
            lines = _follow(program.stdout or (), file, progress)
            code = program.wait()
        finally:
            # Interrupted: the program's children would go on without it.
            if program.poll() is None:
                os.killpg(program.pid, signal.SIGKILL)

    if code:
        said = "\n".join(lines)
        raise SetupError(f"{Path(command[0]).name} failed with exit code {code}:\n{said}\n")


def _follow(output: Iterable[str], log: TextIO, progress: Progress | None) -> list[str]:
    """Write all that a program says into the log, count files, and return its last lines."""
    last: deque[str] = deque(maxlen=LAST_LINES)
    for line in output:
        log.write(line)
        last.append(line.rstrip())
        count = COUNT.match(line)
        if count and progress:
            progress(int(count.group(1)), int(count.group(2)))
    return list(last)


@contextmanager
def _build_folder(cache: Path) -> Iterator[Path]:
    """Provide a folder in the cache that is removed at the end; those of programs that were killed go first."""
    for left in cache.glob("build-*"):
        shutil.rmtree(left, ignore_errors=True)

    folder = Path(mkdtemp(prefix="build-", dir=cache))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)

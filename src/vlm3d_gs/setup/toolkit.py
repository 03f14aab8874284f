"""A CUDA toolkit for torch's version: one of this machine, or the compiler's packages in our cache.

Neither is complete by itself: the packages lack the headers of the libraries that torch came with, and name their
folder `lib` where builds look for `lib64`. `assemble` joins both by links, in a folder of ours.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vlm3d_gs.setup.environment import named_toolkits
from vlm3d_gs.setup.torch_build import TorchBuild

PACKAGED_MAJOR = 13
"""The first CUDA whose compiler comes as packages; those of CUDA 12 hold the assembler only."""
PARTS = "nvcc,nvvm,crt,cccl,cudart"
"""The compiler, its second half, their headers, CUDA's C++ library, the runtime."""
HEADERS = ("cuda_runtime.h", "cublas_v2.h", "cusolverDn.h", "cusparse.h")
"""What torch's own headers include."""


def find_toolkit(torch: TorchBuild) -> Path | None:
    """Return the folder of a toolkit that fits torch; None if this machine has none.

    One of torch's own minor version is preferred, and one of the same major version does.
    """
    on_path = shutil.which("nvcc")
    usual = Path("/usr/local")
    places = [*named_toolkits(), *([Path(on_path).resolve().parents[1]] if on_path else [])]
    places += [usual / f"cuda-{torch.cuda}", usual / f"cuda-{torch.cuda_major}", usual / "cuda"]

    fitting = []
    for place in dict.fromkeys(place.resolve() for place in places):
        release = compiler_version(place)
        if release is None or release.split(".")[0] != str(torch.cuda_major):
            continue
        if not missing_headers(place / "include", torch.nvidia / "include"):
            fitting.append((release != torch.cuda, place))
    return min(fitting, key=lambda found: found[0])[1] if fitting else None


def compiler_version(home: Path) -> str | None:
    """Return the version of a toolkit's compiler, such as 13.0; None if it has none that runs."""
    try:
        said = subprocess.run(
            [home / "bin" / "nvcc", "--version"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    found = re.search(r"release (\d+\.\d+)", said.stdout)
    return found.group(1) if found else None


def missing_headers(*folders: Path) -> list[str]:
    """Return what torch's headers include and none of the folders has."""
    return [name for name in HEADERS if not any((folder / name).is_file() for folder in folders)]


def packaged_requirement(torch: TorchBuild) -> str:
    """Return the requirement of the compiler's packages, of the very version of torch's own where that is known."""
    try:
        return f"cuda-toolkit[{PARTS}]=={version('cuda-toolkit')}"
    except PackageNotFoundError:
        return f"cuda-toolkit[{PARTS}]=={torch.cuda}.*"


def assemble(home: Path, toolkit: Path, torch: TorchBuild) -> None:
    """Make `home` look like a whole toolkit, by links to one and to the headers and libraries of torch's packages."""
    (home / "include").mkdir(parents=True)
    (home / "lib64").mkdir()
    for name in ("bin", "nvvm"):
        (home / name).symlink_to(toolkit / name)

    for source in (toolkit, torch.nvidia):
        _link_all(source / "include", home / "include")
        for libraries in ("lib64", "lib"):
            _link_all(source / libraries, home / "lib64")

    # A linker looks for libcudart.so; packages hold only libcudart.so.13.
    for library in list((home / "lib64").glob("lib*.so.*")):
        plain = home / "lib64" / f"{library.name.split('.so.')[0]}.so"
        if not plain.exists():
            plain.symlink_to(library.name)


def _link_all(source: Path, target: Path) -> None:
    """Link whatever the source folder holds and the target does not yet."""
    for entry in source.iterdir() if source.is_dir() else ():
        if not (target / entry.name).exists():
            (target / entry.name).symlink_to(entry.resolve())

"""Whether the installed gsplat can render, found out without importing it: newer versions compile at import."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from vlm3d_gs.setup.environment import named_toolkits

LIBRARIES = ("*.so", "*/*.so", "*.pyd", "*/*.pyd")
"""Where gsplat's compiled code lies in its folder: beside the Python files, or one folder deeper."""
USUAL_TOOLKIT = Path("/usr/local/cuda")
"""Where torch, and so gsplat, looks for a toolkit that nothing else names."""


def gsplat_obstacle() -> str:
    """Return why gsplat cannot render here, as the end of "gsplat ..."; "" if it can.

    gsplat's package on the index holds no compiled code. It compiles itself where it finds a CUDA toolkit, and is
    disabled elsewhere.
    """
    spec = find_spec("gsplat")
    if spec is None:
        return "is not installed"

    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if any(next(folder.glob(name), None) for folder in folders for name in LIBRARIES):
        return ""

    compilers = (home / "bin" / "nvcc" for home in (*named_toolkits(), USUAL_TOOLKIT))
    if shutil.which("nvcc") or any(compiler.is_file() for compiler in compilers):
        return ""
    return "is installed without its compiled code, and there is no CUDA toolkit to compile it"

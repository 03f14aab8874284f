"""vlm3d-gs: a sentence in, a 3D Gaussian splat out.

Importing this package costs milliseconds: the public names below are loaded when they are first
asked for, so `import vlm3d_gs` and `vlm3d-gs --help` never load torch. Rendering is the package
`vlm3d_gs.render`, whose function has the same name and is therefore not repeated here: `from
vlm3d_gs.render import render`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm3d_gs.config import Config
    from vlm3d_gs.core.cameras import Cameras
    from vlm3d_gs.core.errors import Vlm3dGsError
    from vlm3d_gs.core.gaussians import Gaussians
    from vlm3d_gs.formats.convert import read_splat, write_splat
    from vlm3d_gs.pipeline import GenerateResult, generate

__version__ = "0.1.0"

__all__ = [
    "Cameras",
    "Config",
    "Gaussians",
    "GenerateResult",
    "Vlm3dGsError",
    "__version__",
    "generate",
    "read_splat",
    "write_splat",
]

_HOMES = {
    "Cameras": "vlm3d_gs.core.cameras",
    "Config": "vlm3d_gs.config",
    "Gaussians": "vlm3d_gs.core.gaussians",
    "GenerateResult": "vlm3d_gs.pipeline",
    "Vlm3dGsError": "vlm3d_gs.core.errors",
    "generate": "vlm3d_gs.pipeline",
    "read_splat": "vlm3d_gs.formats.convert",
    "write_splat": "vlm3d_gs.formats.convert",
}


def __getattr__(name: str) -> object:
    """Load a public name from the module that owns it, on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vlm3d_gs' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

"""vlm3d-gs: a sentence in, a 3D Gaussian splat out.

    cube = vlm3d_gs.generate("a red cube on top of a blue sphere", seed=3)
    cube.save("cube.spz")
    cube.show()

The public names are loaded on first use, so `import vlm3d_gs` takes milliseconds and loads no torch.

`render_views` is the function `render` of the package `vlm3d_gs.render`. It is not called `render` here, because
`vlm3d_gs.render` would then be the function or the package, depending on what was imported before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm3d_gs.app.generate import generate
    from vlm3d_gs.app.result import Result
    from vlm3d_gs.config import Config
    from vlm3d_gs.config.presets import preset
    from vlm3d_gs.core.cameras import Cameras, orbit
    from vlm3d_gs.core.errors import (
        CheckpointError,
        ConfigError,
        DeviceError,
        ExportError,
        InputFileError,
        LayoutError,
        MissingDependencyError,
        ModelError,
        NotFiniteError,
        ProcessError,
        PromptError,
        RunLostError,
        SetupError,
        ShapeError,
        Vlm3dGsError,
        WriteError,
    )
    from vlm3d_gs.core.gaussians import Gaussians
    from vlm3d_gs.formats.convert import read_splat, write_splat
    from vlm3d_gs.pipeline import GenerateResult
    from vlm3d_gs.render import render as render_views

__version__ = "0.1.0"

__all__ = [
    "Cameras",
    "CheckpointError",
    "Config",
    "ConfigError",
    "DeviceError",
    "ExportError",
    "Gaussians",
    "GenerateResult",
    "InputFileError",
    "LayoutError",
    "MissingDependencyError",
    "ModelError",
    "NotFiniteError",
    "ProcessError",
    "PromptError",
    "Result",
    "RunLostError",
    "SetupError",
    "ShapeError",
    "Vlm3dGsError",
    "WriteError",
    "__version__",
    "generate",
    "orbit",
    "preset",
    "read_splat",
    "render_views",
    "write_splat",
]

_OWNERS = {
    "Cameras": "core.cameras",
    "Config": "config",
    "Gaussians": "core.gaussians",
    "GenerateResult": "pipeline",
    "Result": "app.result",
    "generate": "app.generate",
    "orbit": "core.cameras",
    "preset": "config.presets",
    "read_splat": "formats.convert",
    "write_splat": "formats.convert",
}
"""Module of each public name; those of errors are all in `core.errors`."""


def __getattr__(name: str) -> object:
    """Load a public name from the module that owns it, on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'vlm3d_gs' has no attribute {name!r}")

    if name == "render_views":
        value = import_module("vlm3d_gs.render").render
    else:
        owner = _OWNERS.get(name, "core.errors")
        value = getattr(import_module(f"vlm3d_gs.{owner}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

"""What a caller may choose about a splat file: the axes, and a few options of single formats.

Standard library only, so that commands can name the choices without loading torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Frame = Literal["rdf", "rub", "world"]
"""Axes that files are written in; `world` is our own frame."""
AXES: dict[Frame, str] = {
    "rdf": "x right, y down, z away",
    "rub": "x right, y up, z towards the viewer",
    "world": "x towards the front camera, y its right, z up",
}
"""Each frame in words, as the front camera sees the object."""

PlyFrame = Literal["viewer", "world"]
"""`viewer`: x right, y down, z away. `world`: our own axes, for tools that expect z up."""
SpzFrame = Literal["raw", "rub"]
"""`raw`: the axes of the PLY, as most programs write. `rub`: what the specification says."""
SpzVersion = Literal[2, 3, 4]
"""Version 3 is read nearly everywhere, 4 is newer, 2 for old readers: its rotations are coarser."""


@dataclass(frozen=True, slots=True)
class SplatOptions:
    """How a file is written or read; each option is for one or two formats, the others ignore it."""

    sh_degree: int | None = None
    """Harmonics written, 0 to 3; None keeps the scene's."""
    pad_sh3: bool = False
    """PLY: write all 45 f_rest properties, zeros where the scene has fewer."""
    ply_frame: PlyFrame = "viewer"
    """PLY: axes written."""
    spz_version: SpzVersion = 3
    """SPZ: 2, 3 (gzip) or 4 (zstd)."""
    spz_frame: SpzFrame = "raw"
    """SPZ: axes written, and those of a file read that does not name its own."""

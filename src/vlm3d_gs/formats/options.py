"""What a caller may choose about a splat file: the axes, and a few options of single formats.

Standard library only, so that commands can name the choices without loading torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Frame = Literal["rdf", "rub", "luf", "ldb", "world"]
"""Axes of files; `world` is our own frame, the others say where x, y and z point."""
AXES: dict[Frame, str] = {
    "rdf": "x right, y down, z away",
    "rub": "x right, y up, z towards the viewer",
    "luf": "x left, y up, z away",
    "ldb": "x left, y down, z towards the viewer",
    "world": "x towards the front camera, y its right, z up",
}
"""Each frame in words, as the front camera sees the object."""

SpzVersion = Literal[2, 3, 4]
"""Version 3 is read nearly everywhere, 4 is newer, 2 for old readers: its rotations are coarser."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a file is read."""

    frame: Frame | None = None
    """Axes of the file where the caller knows better than the file and its format's custom."""
    as_points: bool = False
    """Read the vertices of a PLY as points: a ball for each, as large as its distance to its neighbours."""


@dataclass(frozen=True, slots=True)
class SplatOptions:
    """How a file is written; options of a single format are ignored by the others."""

    sh_degree: int | None = None
    """Harmonics written, 0 to 3; None keeps the scene's."""
    pad_sh3: bool = False
    """PLY: write all 45 f_rest properties, zeros where the scene has fewer."""
    frame: Frame | None = None
    """Axes written, of those that the format can hold; None: those that its readers expect."""
    spz_version: SpzVersion = 3
    """SPZ: 2, 3 (gzip) or 4 (zstd)."""

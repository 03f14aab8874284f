"""`vlm3d-gs render`: a splat in, a turntable out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def render(
    splat: Annotated[Path, typer.Argument(help="A splat file (.ply).")],
    out: Annotated[Path, typer.Option(help="What to write: .mp4, .gif, or .png for a sheet.")],
) -> None:
    """Turn a splat before the camera: video, animation or picture sheet."""
    from vlm3d_gs.export.ply import read_ply
    from vlm3d_gs.export.turntable import render_turntable

    render_turntable(read_ply(splat), out)

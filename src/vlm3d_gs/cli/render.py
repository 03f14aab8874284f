"""`vlm3d-gs render`: a splat in, a turntable out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def render(
    splat: Annotated[Path, typer.Argument(help="A splat file of any format.")],
    out: Annotated[
        Path, typer.Option(help="What to write: .mp4, .gif, or .png for a grid of stills.")
    ],
    seconds: Annotated[float, typer.Option(help="Length of the turn.")] = 4.0,
    size_px: Annotated[int, typer.Option(help="Side of the square frames.")] = 256,
    elevation_deg: Annotated[float, typer.Option(help="Height of the camera.")] = 15.0,
) -> None:
    """Turn a splat before the camera: video, animation or stills."""
    from vlm3d_gs.export.formats import read_splat
    from vlm3d_gs.export.turntable import render_turntable

    render_turntable(
        read_splat(splat), out, seconds=seconds, size_px=size_px, elevation_deg=elevation_deg
    )
    typer.echo(f"written to {out}")

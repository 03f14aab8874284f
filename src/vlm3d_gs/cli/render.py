"""`vlm3d-gs render`: a splat in, a turntable or stills out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlm3d_gs.cli.options import AsPoints, FrameOfSplat, OverwriteFile, RunOrSplat
from vlm3d_gs.core.files import expect_free
from vlm3d_gs.formats.options import ReadOptions


def render(
    splat: RunOrSplat,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="What to write: .mp4, .gif, .webp, or .png for a grid of stills. With --cameras: "
            "a folder, or a .png for a single camera. Default: RUN/turntable.mp4 or SPLAT-turntable.mp4.",
        ),
    ] = None,
    overwrite: OverwriteFile = False,
    seconds: Annotated[float, typer.Option(help="Duration of a turn.")] = 4.0,
    size_px: Annotated[int, typer.Option(help="Side of the square frames.")] = 256,
    elevation_deg: Annotated[float, typer.Option(help="Elevation of the camera.")] = 15.0,
    background: Annotated[
        str | None, typer.Option(help="white, grey, black, #rrggbb, or r,g,b from 0 to 1.")
    ] = None,
    beside: Annotated[
        Literal["depth", "normal"] | None,
        typer.Option(help="What a turntable shows to the right of the picture."),
    ] = None,
    cameras: Annotated[
        Path | None,
        typer.Option(
            help="JSON list of cameras: azimuth_deg, elevation_deg, distance, fov_deg; or viewmat, "
            "K, width, height."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Of a scene of several objects show this one alone, as scene.json names it. Repeatable.",
        ),
    ] = None,
    frame: FrameOfSplat = None,
    as_points: AsPoints = False,
) -> None:
    """Render a splat: a turntable, a grid of stills, or the views of a file of cameras."""
    from vlm3d_gs.runs.record import default_output, find_splat
    from vlm3d_gs.show.pictures import render_pictures

    path, _ = find_splat(splat)
    out = out or default_output(splat, "stills" if cameras else "turntable.mp4")
    expect_free(out, overwrite=overwrite)
    files = render_pictures(
        path,
        out,
        seconds=seconds,
        size_px=size_px,
        elevation_deg=elevation_deg,
        background=background,
        beside=beside,
        cameras=cameras,
        only=only or (),
        reading=ReadOptions(frame, as_points),
    )
    for file in files:
        typer.echo(f"written to {file}")

"""`vlm3d-gs convert`: one splat format into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from vlm3d_gs.cli.options import AsPoints, FrameOfSplat
from vlm3d_gs.formats.options import Frame, SplatOptions, SpzVersion
from vlm3d_gs.formats.registry import SPLAT_SUFFIXES


def convert(
    source: Annotated[Path, typer.Argument(help="A splat file of any format.")],
    out: Annotated[
        Path,
        typer.Argument(help=f"File to write: {' '.join(SPLAT_SUFFIXES)}."),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    sh_degree: Annotated[
        int | None,
        typer.Option(help="Degree of the harmonics to write, 0 to 3. Default: all there are."),
    ] = None,
    pad_sh3: Annotated[
        bool, typer.Option("--pad-sh3", help="PLY: write all 62 properties, whatever the degree.")
    ] = False,
    spz_version: Annotated[int, typer.Option(help="SPZ: 2, 3 or 4.")] = 3,
    frame: FrameOfSplat = None,
    as_points: AsPoints = False,
    frame_out: Annotated[
        Frame | None,
        typer.Option(help="Axes of OUT. Default: those that its readers expect; world has z up."),
    ] = None,
    drop_broken: Annotated[
        bool,
        typer.Option(
            "--drop-broken", help="Skip Gaussians with NaN or infinity, and say how many."
        ),
    ] = False,
) -> None:
    """Convert a splat; positions, rotations and harmonics are turned into the axes of the target format."""
    from vlm3d_gs.formats.convert import convert

    options = SplatOptions(
        sh_degree=sh_degree,
        pad_sh3=pad_sh3,
        frame=frame_out,
        spz_version=cast(SpzVersion, spz_version),
    )
    splat = convert(
        source,
        out,
        options,
        frame=frame,
        as_points=as_points,
        drop_broken=drop_broken,
        overwrite=overwrite,
    )
    size = out.stat().st_size / 2**20
    typer.echo(f"written to {out}: {len(splat)} Gaussians, {size:.2f} MiB")

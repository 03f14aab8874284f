"""`vlm3d-gs convert`: one splat format into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from vlm3d_gs.formats.options import Frame, PlyFrame, SplatOptions, SpzFrame, SpzVersion
from vlm3d_gs.formats.registry import SPLAT_SUFFIXES


def convert(
    source: Annotated[Path, typer.Argument(help="A splat file of any format.")],
    out: Annotated[
        Path,
        typer.Argument(help=f"What to write: {' '.join(SPLAT_SUFFIXES)}."),
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")] = False,
    sh_degree: Annotated[
        int | None, typer.Option(help="Harmonics to write, 0 to 3. Default: all there are.")
    ] = None,
    pad_sh3: Annotated[
        bool, typer.Option("--pad-sh3", help="PLY: write all 62 properties, whatever the degree.")
    ] = False,
    ply_frame: Annotated[
        str, typer.Option(help="PLY: axes, viewer (y down) or world (z up).")
    ] = "viewer",
    spz_version: Annotated[int, typer.Option(help="SPZ: 2, 3 or 4.")] = 3,
    spz_frame: Annotated[
        str, typer.Option(help="SPZ written: axes, raw (as the PLY) or rub (y up).")
    ] = "raw",
    spz_frame_in: Annotated[
        str, typer.Option(help="SPZ read: axes, where the file does not say them.")
    ] = "raw",
    frame_in: Annotated[
        str | None, typer.Option(help="Axes of the file read, against custom: rdf, rub or world.")
    ] = None,
    drop_broken: Annotated[
        bool, typer.Option("--drop-broken", help="Leave out Gaussians with NaN or infinity.")
    ] = False,
) -> None:
    """Convert a splat; frames, rotations and harmonics are turned as each format wants them."""
    from vlm3d_gs.formats.convert import convert

    options = SplatOptions(
        sh_degree=sh_degree,
        pad_sh3=pad_sh3,
        ply_frame=cast(PlyFrame, ply_frame),
        spz_version=cast(SpzVersion, spz_version),
        spz_frame=cast(SpzFrame, spz_frame),
    )
    splat = convert(
        source,
        out,
        options,
        frame=cast(Frame | None, frame_in),
        spz_frame=cast(SpzFrame, spz_frame_in),
        drop_broken=drop_broken,
        overwrite=overwrite,
    )
    size = out.stat().st_size / 2**20
    typer.echo(f"written to {out}: {len(splat)} Gaussians, {size:.2f} MiB")

"""`vlm3d-gs convert`: one splat format into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from vlm3d_gs.cli.options import AsPoints, FrameOfSplat
from vlm3d_gs.formats.options import Frame, SplatOptions, SpzVersion
from vlm3d_gs.formats.registry import FORMATS, SPLAT_SUFFIXES

NAMES = ", ".join(row.name for row in FORMATS)


def convert(
    source: Annotated[
        Path, typer.Argument(help="A splat file of any format, or - for standard input.")
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help=f"File to write: {' '.join(SPLAT_SUFFIXES)}; - is standard output, with --to."
        ),
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
    source_format: Annotated[
        str | None,
        typer.Option("--from", help=f"Format of SOURCE, if its bytes do not say: {NAMES}."),
    ] = None,
    target_format: Annotated[
        str | None, typer.Option("--to", help="Format of OUT, if its name does not say.")
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(help="Another splat to join to SOURCE, in SOURCE's axes. Repeatable."),
    ] = None,
    crop: Annotated[
        str | None,
        typer.Option(
            metavar="x,y,z,X,Y,Z",
            help="Keep what is in this box, in the axes of SOURCE (see `info`); - is no bound.",
        ),
    ] = None,
    sphere: Annotated[
        str | None,
        typer.Option(metavar="x,y,z,RADIUS", help="Keep what is in this sphere, in those axes."),
    ] = None,
    min_opacity: Annotated[
        float | None, typer.Option(help="Drop Gaussians below this opacity, 0 to 1.")
    ] = None,
    max_scale: Annotated[
        float | None, typer.Option(help="Drop Gaussians with a larger standard deviation.")
    ] = None,
    largest_part: Annotated[
        bool, typer.Option("--largest-part", help="Drop floaters: what the main part is not near.")
    ] = False,
    decimate: Annotated[
        str | None,
        typer.Option(
            metavar="N|P%", help="Keep this many Gaussians, those that pictures show most of."
        ),
    ] = None,
    scale: Annotated[float, typer.Option(help="Multiply all sizes, after the above.")] = 1.0,
    rotate: Annotated[
        str | None,
        typer.Option(
            metavar="x,y,z", help="Then turn about the x, y and z axis of SOURCE, degrees."
        ),
    ] = None,
    translate: Annotated[
        str | None, typer.Option(metavar="x,y,z", help="Then move, in the axes of SOURCE.")
    ] = None,
) -> None:
    """Convert a splat, and clean it up; all of it is turned into the axes of the target format."""
    from vlm3d_gs.edit.convert import convert_edited, describe
    from vlm3d_gs.edit.settings import parse_edits

    edits = parse_edits(
        crop=crop,
        sphere=sphere,
        min_opacity=min_opacity,
        max_scale=max_scale,
        largest_part=largest_part,
        decimate=decimate,
        scale=scale,
        rotate=rotate,
        translate=translate,
    )
    options = SplatOptions(
        sh_degree=sh_degree,
        pad_sh3=pad_sh3,
        frame=frame_out,
        spz_version=cast(SpzVersion, spz_version),
    )
    done = convert_edited(
        source,
        out,
        edits,
        options,
        merge=merge or (),
        source_format=source_format,
        target_format=target_format,
        frame=frame,
        as_points=as_points,
        drop_broken=drop_broken,
        overwrite=overwrite,
    )
    typer.echo(describe(done), err=str(out) == "-")

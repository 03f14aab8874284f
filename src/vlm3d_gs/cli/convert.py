"""`vlm3d-gs convert`: one splat format into another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from vlm3d_gs.cli.options import AsPoints, FrameOfSplat
from vlm3d_gs.formats.options import Frame, SplatOptions, SpzVersion
from vlm3d_gs.formats.registry import FORMATS, SPLAT_SUFFIXES, WRITTEN

NAMES = ", ".join(row.name for row in FORMATS)
Source = Annotated[
    Path,
    typer.Argument(
        metavar="RUN|SPLAT",
        help="A run's folder, a splat file of any format, or - for standard input.",
    ),
]
Out = Annotated[
    Path,
    typer.Argument(
        help=f"File to write: {' '.join(SPLAT_SUFFIXES)}; - is standard output, with --to."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT.")]
ShDegree = Annotated[
    int | None,
    typer.Option(help="Degree of the harmonics to write, 0 to 3. Default: all there are."),
]
PadSh3 = Annotated[
    bool, typer.Option("--pad-sh3", help="PLY: write all 62 properties, whatever the degree.")
]
SpzVersionChoice = Annotated[int, typer.Option(help="SPZ: 2, 3 or 4.")]
FrameOut = Annotated[
    Frame | None,
    typer.Option(help="Axes of OUT. Default: those that its readers expect; world has z up."),
]
DropBroken = Annotated[
    bool,
    typer.Option("--drop-broken", help="Skip Gaussians with NaN or infinity, and say how many."),
]
SourceFormat = Annotated[
    str | None,
    typer.Option("--from", help=f"Format of SOURCE, if its bytes do not say: {NAMES}."),
]
TargetFormat = Annotated[
    str | None,
    typer.Option(
        "--to",
        help=f"Format of OUT, if its name does not say: {', '.join(row.name for row in WRITTEN)}.",
    ),
]
Merge = Annotated[
    list[Path] | None,
    typer.Option(help="Another splat to join to SOURCE, in SOURCE's axes. Repeatable."),
]
Crop = Annotated[
    str | None,
    typer.Option(
        metavar="x,y,z,X,Y,Z",
        help="Keep what is in this box, in the axes of SOURCE (see `info`); - is no bound.",
    ),
]
Sphere = Annotated[
    str | None,
    typer.Option(metavar="x,y,z,RADIUS", help="Keep what is in this sphere, in those axes."),
]
MinOpacity = Annotated[
    float | None, typer.Option(help="Drop Gaussians below this opacity, 0 to 1.")
]
MaxScale = Annotated[
    float | None, typer.Option(help="Drop Gaussians with a larger standard deviation.")
]
LargestPart = Annotated[
    bool, typer.Option("--largest-part", help="Drop floaters: what the main part is not near.")
]
Decimate = Annotated[
    str | None,
    typer.Option(
        metavar="N|P%", help="Keep this many Gaussians, those that pictures show most of."
    ),
]
Scale = Annotated[float, typer.Option(help="Multiply all sizes, after the above.")]
Rotate = Annotated[
    str | None,
    typer.Option(metavar="x,y,z", help="Then turn about the x, y and z axis of SOURCE, degrees."),
]
Translate = Annotated[
    str | None, typer.Option(metavar="x,y,z", help="Then move, in the axes of SOURCE.")
]


def convert(
    source: Source,
    out: Out,
    overwrite: Overwrite = False,
    sh_degree: ShDegree = None,
    pad_sh3: PadSh3 = False,
    spz_version: SpzVersionChoice = 3,
    frame: FrameOfSplat = None,
    as_points: AsPoints = False,
    frame_out: FrameOut = None,
    drop_broken: DropBroken = False,
    source_format: SourceFormat = None,
    target_format: TargetFormat = None,
    merge: Merge = None,
    crop: Crop = None,
    sphere: Sphere = None,
    min_opacity: MinOpacity = None,
    max_scale: MaxScale = None,
    largest_part: LargestPart = False,
    decimate: Decimate = None,
    scale: Scale = 1.0,
    rotate: Rotate = None,
    translate: Translate = None,
) -> None:
    """Convert a splat, and clean it up; all of it is turned into the axes of the target format."""
    from vlm3d_gs.edit.convert import convert_edited, describe
    from vlm3d_gs.edit.settings import parse_edits
    from vlm3d_gs.runs.record import find_splat

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
        find_splat(source)[0] if source.is_dir() else source,
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

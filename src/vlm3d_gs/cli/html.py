"""`vlm3d-gs html`: a splat in, one offline page out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli.options import AsPoints, FrameOfSplat, OverwriteFile, RunOrSplat
from vlm3d_gs.core.files import expect_free


def html(
    splat: RunOrSplat,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="The page to write, .html. Default: RUN/scene.html or SPLAT-scene.html.",
        ),
    ] = None,
    overwrite: OverwriteFile = False,
    frame: FrameOfSplat = None,
    as_points: AsPoints = False,
) -> None:
    """Write one self-contained page that shows a splat in any browser, offline."""
    from vlm3d_gs.formats.convert import read_splat
    from vlm3d_gs.runs.record import default_output, find_splat
    from vlm3d_gs.show.page import write_page

    path, record = find_splat(splat)
    out = out or default_output(splat, "scene.html")
    expect_free(out, overwrite=overwrite)
    write_page(
        read_splat(path, frame=frame, as_points=as_points),
        out,
        name=splat.resolve().stem,
        record=record,
    )
    typer.echo(f"written to {out}")

"""`vlm3d-gs info`: what is in a splat file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli.options import AsPoints, FrameOfSplat


def info(
    file: Annotated[Path, typer.Argument(help="A splat file of any format.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    frame: FrameOfSplat = None,
    as_points: AsPoints = False,
) -> None:
    """Report what a splat holds: number, degree, axes, bounds, histograms, and what looks wrong."""
    from vlm3d_gs.formats.info import info_text, inspect_splat

    found = inspect_splat(file, frame=frame, as_points=as_points)
    typer.echo(json.dumps(found.as_dict(), indent=2) if as_json else info_text(found))

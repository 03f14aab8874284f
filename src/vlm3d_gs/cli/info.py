"""`vlm3d-gs info`: what is in a splat file."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from vlm3d_gs.cli.options import AsPoints, FrameOfSplat, RunOrSplat


def info(
    file: RunOrSplat,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    frame: FrameOfSplat = None,
    as_points: AsPoints = False,
) -> None:
    """Report what a splat holds: number, degree, axes, bounds, histograms, and what looks wrong."""
    from vlm3d_gs.app.carried import with_proof
    from vlm3d_gs.app.mesh_info import mesh_info
    from vlm3d_gs.formats.info import info_text, inspect_splat
    from vlm3d_gs.runs.proof import proof_text

    mesh = None if as_points else mesh_info(file)
    if mesh is not None:
        typer.echo(json.dumps(mesh.as_dict(), indent=2) if as_json else str(mesh))
        return
    path, proof = with_proof(file)
    found = inspect_splat(path, frame=frame, as_points=as_points)
    if as_json:
        typer.echo(json.dumps(found.as_dict() | ({"proof": proof} if proof else {}), indent=2))
    else:
        typer.echo("\n".join([info_text(found), *([proof_text(proof)] if proof else [])]))

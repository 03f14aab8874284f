"""`vlm3d-gs verify`: is an asset what it says it is?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def verify(
    target: Annotated[Path, typer.Argument(metavar="RUN|GLB", help="A run's folder, or a .glb.")],
    write: Annotated[
        bool,
        typer.Option(
            "--write",
            help="First judge the run, and write its proof into scene.json and scene.glb.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check what an asset says of its making: files, weights, and verdicts, by judging it again.

    Exit code 1 means that something does not hold.
    """
    from vlm3d_gs.app.proving import prove
    from vlm3d_gs.app.proving import verify as check

    if write:
        prove(target)
    checks = check(target)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in checks], indent=2))
    else:
        for one in checks:
            verdict = {True: "holds", False: "WRONG", None: "unknown"}[one.holds]
            typer.echo(f"{verdict:<8} {one.what}: {one.found}")
    raise typer.Exit(1 if any(one.holds is False for one in checks) else 0)

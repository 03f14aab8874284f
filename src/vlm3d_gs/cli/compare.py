"""`vlm3d-gs compare`: runs side by side on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli.options import JudgeKey, Judges, Offline, OwnCritic


def compare(
    targets: Annotated[
        list[Path], typer.Argument(metavar="RUN_A RUN_B ...", help="Runs, or folders of runs.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write, .html.")] = Path(
        "report.html"
    ),
    judge: Judges = None,
    key_file: JudgeKey = None,
    budget: Annotated[
        int | None, typer.Option(help="Most questions for each judge.", min=0)
    ] = None,
    own_critic: OwnCritic = False,
    offline: Offline = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what was found to this file, too.")
    ] = None,
) -> None:
    """Compare runs or folders of runs on one offline page: turntables, checker, judges, curves, settings."""
    from vlm3d_gs.app.comparison import ComparisonRequest, write_json
    from vlm3d_gs.app.comparison import compare as compare_runs

    request = ComparisonRequest(
        targets=tuple(targets),
        out=out,
        judges=tuple(judge or ()),
        key_file=key_file,
        budget=budget,
        own_critic=own_critic,
        offline=offline,
    )
    data = compare_runs(request, typer.echo)
    if json_file is not None:
        write_json(data, json_file)
    typer.echo(f"written to {out}")

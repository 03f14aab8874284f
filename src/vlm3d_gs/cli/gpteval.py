"""`vlm3d-gs evaluate gpteval`: runs in a tournament of GPTEval3D."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli.options import JudgeKey, Judges, Offline, OwnCritic


def gpteval(
    runs: Annotated[Path, typer.Argument(help="Folder of runs of the tournament's prompts.")],
    tournament: Annotated[
        Path,
        typer.Option(
            help="Folder with config.json, prompts.json and methods/, of your own checkout of "
            "3DTopia/GPTEval3D."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the method. Default: that of the folder of runs.")
    ] = None,
    judge: Judges = None,
    key_file: JudgeKey = None,
    budget: Annotated[
        int | None,
        typer.Option(help="Most questions for each judge. Default: as the tournament says.", min=2),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option("--whole", help="Rate all methods anew, not this one against the published."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results. Default: comparisons/NAME of the tournament."),
    ] = None,
    size: Annotated[
        int, typer.Option(help="Side of the pictures, pixels.", min=16, max=2048)
    ] = 512,
    seed: Annotated[
        int, typer.Option(help="Seed of the plan and of the intervals.", min=0, max=2**53)
    ] = 0,
    own_critic: OwnCritic = False,
    offline: Offline = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Draw 120 views of each run, have judges compare them, and rate the method with intervals.

    Every pair is shown in both orders. Answers are kept, so a call that was cut off goes on where it was.
    """
    from vlm3d_gs.app.tournament import TournamentRequest, run_tournament

    request = TournamentRequest(
        runs=runs,
        folder=tournament,
        name=name,
        judges=tuple(judge or ()),
        key_file=key_file,
        whole=whole,
        budget=budget,
        out=out,
        size_px=size,
        seed=seed,
        own_critic=own_critic,
        offline=offline,
    )
    report = run_tournament(request, lambda line: typer.echo(line, err=as_json))
    if as_json:
        typer.echo(json.dumps(report, indent=1))

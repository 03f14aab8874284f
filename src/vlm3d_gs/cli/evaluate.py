"""`vlm3d-gs evaluate`: judge what a run has made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Judge what a run has made.")


@app.callback()
def _group() -> None:
    """Keep `composition` a word of its own while it is the only command here."""


@app.command("composition")
def composition(
    targets: Annotated[list[Path], typer.Argument(help="Run folders or splat files (.ply).")],
    prompt: Annotated[
        str | None, typer.Option(help="What they should show. Default: the run's own prompt.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the full reports here.")
    ] = None,
) -> None:
    """Check colours, shapes and relation on the splat itself, without any neural network.

    Exit code 1 says that at least one scene is not right.
    """
    from vlm3d_gs.evaluate.runs import describe, judge, write_reports

    reports = {}
    for target in targets:
        reports[str(target)] = report = judge(target, prompt)
        typer.echo(describe(str(target), report))
    if json_file is not None:
        write_reports(json_file, reports)
    raise typer.Exit(0 if all(report.ok for report in reports.values()) else 1)

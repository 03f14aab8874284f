"""`vlm3d-gs evaluate`: measure what a run has made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli.gpteval import gpteval

app = typer.Typer(no_args_is_help=True, help="Measure what a run has made.")


app.command("gpteval")(gpteval)


@app.command("composition")
def composition(
    targets: Annotated[list[Path], typer.Argument(help="Runs, folders of runs, or .ply files.")],
    prompt: Annotated[
        str | None, typer.Option(help="What they should be. Default: the prompt of each run.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the full reports to this file.")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="End with Markdown tables.")] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with 1 for scenes that are right but not clean, too."),
    ] = False,
) -> None:
    """Check colours, shapes and relation on the splat itself, without any neural network.

    *Right* says that content is: colours, shapes and the relation. *Clean* says that surfaces are: no haze, floaters,
    holes, dents or foreign colours. Exit code 1 means that at least one scene is not right, with --strict also that one
    is not clean.
    """
    from vlm3d_gs.evaluate.inputs import describe, judge, write_rows
    from vlm3d_gs.evaluate.runs import markdown_table

    rows = judge(targets, prompt, on_row=lambda row: typer.echo(describe(row)))
    if json_file is not None:
        write_rows(json_file, rows)
    if table:
        typer.echo(f"\n{markdown_table(rows)}")
    good = all(row.report.ok if strict else row.report.content_right for row in rows)
    raise typer.Exit(0 if good else 1)

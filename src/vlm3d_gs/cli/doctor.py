"""`vlm3d-gs doctor`: what this machine has, what is missing, and how to get it."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Report what this machine has and what is missing, and make two steps of a real run.

    Exit code 1 means that a run cannot start.
    """
    from vlm3d_gs.app.doctor import healthy, inspect_and_try, report

    findings = inspect_and_try()
    typer.echo(report(findings))
    raise typer.Exit(0 if healthy(findings) else 1)

"""`vlm3d-gs doctor`: what is here, what is missing, what to type."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Say what this machine has, what is missing, and what to type for it."""
    from vlm3d_gs.app.doctor import healthy, inspect, report

    findings = inspect()
    typer.echo(report(findings))
    raise typer.Exit(0 if healthy(findings) else 1)

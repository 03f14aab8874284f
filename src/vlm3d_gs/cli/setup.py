"""`vlm3d-gs setup`: put into this environment what the package index cannot."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Set up what needs more than pip.")


@app.callback()
def _group() -> None:
    """Keep `gpu` a command of its own, although it is the only one."""


@app.command("gpu")
def gpu(
    arch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X.Y",
            help="Compute capability to build for, e.g. 9.0; repeat for several. Default: of the cards here.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before it starts.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
    ] = False,
) -> None:
    """Build and install gsplat, which renders on NVIDIA cards. Needs g++, but no CUDA toolkit and no root.

    Some minutes the first time; the wheel is kept for this and other environments. Exit code 2: something is
    missing (it is named, with its cure) or the build failed.
    """
    from vlm3d_gs.app.gpu_setup import run_setup

    run_setup(arch or [], ask=None if yes else typer.confirm, dry_run=dry_run)

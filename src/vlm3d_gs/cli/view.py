"""`vlm3d-gs view`: look at a splat in the browser, served from this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli.options import FrameOfSplat, Host, Port


def view(
    splat: Annotated[Path, typer.Argument(metavar="SPLAT|RUN", help="A splat, or a run's folder.")],
    host: Host = None,
    port: Port = None,
    frame: FrameOfSplat = None,
) -> None:
    """Show a splat in the browser until Ctrl-C."""
    from vlm3d_gs.app.viewer import show

    show(splat, host=host, port=port, frame=frame, announce=typer.echo)

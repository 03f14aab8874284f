"""`vlm3d-gs view`: look at a splat in the browser, served from this machine."""

from __future__ import annotations

import typer

from vlm3d_gs.cli.options import AsPoints, FrameOfSplat, Host, Port, RunOrSplat
from vlm3d_gs.formats.options import ReadOptions


def view(
    splat: RunOrSplat,
    host: Host = None,
    port: Port = None,
    frame: FrameOfSplat = None,
    as_points: AsPoints = False,
) -> None:
    """Show a splat in the browser until Ctrl-C."""
    from vlm3d_gs.app.viewer import show

    show(splat, host=host, port=port, reading=ReadOptions(frame, as_points), announce=typer.echo)

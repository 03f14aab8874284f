"""`vlm3d-gs view`: look at a splat in the browser, served from here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Host = Annotated[
    str | None, typer.Option(help="Where the page listens. Default: this machine only.")
]
Port = Annotated[int | None, typer.Option(help="Default: any free one.", min=1, max=65535)]


def view(
    splat: Annotated[Path, typer.Argument(metavar="SPLAT|RUN", help="A splat, or a run's folder.")],
    host: Host = None,
    port: Port = None,
) -> None:
    """Show a splat in the browser until Ctrl-C."""
    from vlm3d_gs.app.viewer import show

    show(splat, host=host, port=port, say=typer.echo)

"""`vlm3d-gs studio`: a page to type in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli.options import Host, Port


def studio(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the gallery; new runs go there, too.")
    ] = Path("runs"),
    host: Host = None,
    port: Port = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
) -> None:
    """Serve a page to type in: make splats, watch them form, look through earlier ones, take them away."""
    from vlm3d_gs.studio.page import serve

    serve(folder, host=host, port=port, browser=browser, announce=typer.echo)

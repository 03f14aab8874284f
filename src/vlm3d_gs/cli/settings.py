"""`vlm3d-gs settings`: what can be changed with --set."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm3d_gs.cli.options import Preset
from vlm3d_gs.config.presets import preset


def settings(
    prefix: Annotated[
        str, typer.Argument(help="List only names that begin so, e.g. critic or prior.t_max.")
    ] = "",
    preset_name: Preset = "mini",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the settings that --set changes: value in the preset, what is allowed, and what it means."""
    from vlm3d_gs.app.settings import list_settings, print_settings

    print_settings(list_settings(preset(preset_name, "prompt"), prefix), as_json=as_json)

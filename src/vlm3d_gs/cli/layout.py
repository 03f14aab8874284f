"""`vlm3d-gs layout`: where the objects of a prompt would stand, before anything is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli.options import Critic, Offline, Preset, Settings
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError


def layout(
    prompt: Annotated[str, typer.Argument(help="The scene, in quotes.")] = "",
    layout_file: Annotated[
        Path | None, typer.Option("--layout", help="Read this file instead, edited or your own.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for layout.json and layout.png. Default: none.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier layout in the folder.")
    ] = False,
    from_model: Annotated[
        bool, typer.Option("--from-model", help="Ask the critic for objects and relations.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the layout as JSON, nothing else.")
    ] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of layout files, and end.")
    ] = False,
    preset_name: Preset = "mini",
    critic: Critic = None,
    offline: Offline = False,
    settings: Settings = None,
) -> None:
    """Lay a scene of several objects out, print it, and draw it from above and from the front.

    To change it, edit layout.json and give it back with --layout. Boxes that the file holds are kept; without them they
    are found anew.
    """
    if schema:
        from vlm3d_gs.layout.schema import published_schema

        typer.echo(published_schema(), nl=False)
        return
    if not prompt and layout_file is None:
        raise ConfigError("Give a prompt in quotes, or a layout with --layout FILE.")

    config = apply_settings(
        preset(preset_name, prompt or "the scene"),
        {"critic.enabled": True, "critic.family": critic, "offline": offline or None},
        settings or (),
    )

    from vlm3d_gs.assembly.layout import find_layout, save_layout
    from vlm3d_gs.layout.draw import draw_text
    from vlm3d_gs.layout.files import layout_text

    found = find_layout(config, layout_file, from_model=from_model)
    paths = [] if out is None else save_layout(found, out, overwrite=overwrite)
    typer.echo(layout_text(found) if as_json else draw_text(found), nl=not as_json)
    if paths and not as_json:
        typer.echo(f"\nwritten to {' and '.join(map(str, paths))}")

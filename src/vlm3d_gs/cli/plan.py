"""`vlm3d-gs plan`: what a run would take, before anything is fetched or started."""

from __future__ import annotations

import typer

from vlm3d_gs.cli.options import Critic, Preset, Prompt, Recipe, Settings, Steps
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.recipes import apply_recipe


def plan(
    prompt: Prompt = "anything",
    preset_name: Preset = "mini",
    critic: Critic = None,
    recipe: Recipe = None,
    steps: Steps = None,
    settings: Settings = None,
) -> None:
    """Say what a run would download, and the memory, time and disk that it would take; start nothing."""
    values = {
        "critic.enabled": True if critic else None,
        "critic.family": critic,
        "train.steps": steps,
    }
    start = apply_recipe(preset(preset_name, prompt), recipe)
    config = apply_settings(start, values, settings or ())

    from vlm3d_gs.assembly.forecast import describe_plan

    typer.echo(describe_plan(config))

"""`vlm3d-gs questions`: what the critic is asked about a prompt."""

from __future__ import annotations

from typing import Annotated

import typer

from vlm3d_gs.cli.options import Critic, Preset, Prompt, Settings
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset


def questions(
    prompt: Prompt,
    preset_name: Preset = "mini",
    critic: Critic = None,
    from_model: Annotated[
        bool, typer.Option("--from-model", help="Also ask the critic itself for questions.")
    ] = False,
    settings: Settings = None,
) -> None:
    """List the critic's questions by name and weight; `generate --drop-question NAME` leaves one out."""
    config = apply_settings(
        preset(preset_name, prompt),
        {
            "critic.enabled": True,
            "critic.family": critic,
            "critic.questions.checks": "model" if from_model else None,
        },
        settings or (),
    )

    from vlm3d_gs.assembly.critic import questions_for

    for question in questions_for(config):
        typer.echo(f"{question.name:<12} {question.weight:5.2f}  {question.text}")

"""`vlm3d-gs bench`: what a step costs on this machine, part by part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

PROMPT = "a red cube on top of a blue sphere"


def bench(
    prompt: Annotated[str, typer.Argument(help="What to make while the clock runs.")] = PROMPT,
    preset: Annotated[str, typer.Option(help="Recipe to time.")] = "mini",
    steps: Annotated[int, typer.Option(help="Steps; all schedules are squeezed into them.")] = 40,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    no_critic: Annotated[bool, typer.Option("--no-critic", help="Without the critic.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here too.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change any setting.")
    ] = None,
) -> None:
    """Time the parts of a step; nothing but --json is written."""
    from vlm3d_gs.app.bench import measure_and_show
    from vlm3d_gs.config import apply_settings
    from vlm3d_gs.config.presets import preset as recipe
    from vlm3d_gs.runs.log import provenance, write_json

    values: dict[str, object] = {"train.steps": steps, "device": device}
    if no_critic:
        values["critic.enabled"] = False
    report = measure_and_show(apply_settings(recipe(preset, prompt), values, settings or []))
    if json is not None:
        write_json(json, {**report.to_dict(), **provenance()})

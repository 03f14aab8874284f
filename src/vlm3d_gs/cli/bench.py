"""`vlm3d-gs bench`: how long a step takes on this machine, section by section."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli.options import NoCritic, Preset, Settings

PROMPT = "a red cube on top of a blue sphere"


def bench(
    prompt: Annotated[str, typer.Argument(help="What to make while timing.")] = PROMPT,
    preset_name: Preset = "mini",
    steps: Annotated[
        int, typer.Option(help="Steps to time; all schedules are compressed into them.")
    ] = 40,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    no_critic: NoCritic = False,
    json: Annotated[Path | None, typer.Option(help="Also write the numbers to this file.")] = None,
    settings: Settings = None,
) -> None:
    """Time the sections of a step; no run folder is written."""
    from vlm3d_gs.app.bench import measure_and_show
    from vlm3d_gs.config import apply_settings
    from vlm3d_gs.config.presets import preset
    from vlm3d_gs.runs.log import provenance, write_json

    values: dict[str, object] = {"train.steps": steps, "device": device}
    if no_critic:
        values["critic.enabled"] = False

    report = measure_and_show(apply_settings(preset(preset_name, prompt), values, settings or ()))

    if json is not None:
        write_json(json, {**report.to_dict(), **provenance()})

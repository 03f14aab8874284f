"""`vlm3d-gs refine`: a splat and a sentence in, a better splat out, or the same one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli import options
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.formats.options import ReadOptions

Start = Annotated[
    Path,
    typer.Argument(
        help="A splat file of any format, a point cloud (PLY), a mesh (OBJ, STL, OFF, PLY, glTF), or, with "
        "--object, the folder of a scene."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="What to write. Default: SPLAT-refined.ply beside it."),
]
Part = Annotated[
    str | None,
    typer.Option(
        "--object",
        metavar="NAME",
        help="Refine this object of a scene alone, as scene.json names it; PROMPT is about it, and the whole scene "
        "is written.",
    ),
]
Keep = Annotated[
    float,
    typer.Option(
        help="How much of its looks is held, 0 to 1: the original's share in every picture that is fitted."
    ),
]
Noise = Annotated[
    float | None,
    typer.Option(
        help="Noise of the first pictures, 0 to 1: more changes more. Default: by whether the critic sees the "
        "prompt in the splat."
    ),
]


def refine(
    splat: Start,
    prompt: options.Prompt,
    out: Out = None,
    part: Part = None,
    keep: Keep = 0.0,
    noise: Noise = None,
    preset_name: options.Preset = "mini",
    steps: options.Steps = None,
    seed: options.Seed = None,
    critic: options.Critic = None,
    device: options.Device = None,
    settings: options.Settings = None,
    frame: options.FrameOfSplat = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a splat better, and keep the result only if a judge prefers it."""
    from vlm3d_gs.app.refine import refine_object, refine_splat

    values = {
        "train.seed": seed,
        "critic.enabled": True if critic else None,
        "critic.family": critic,
        "device": device,
    }
    config = apply_settings(preset(preset_name, prompt), values, settings or ())
    if out is None:
        own = splat / "scene" if splat.is_dir() else splat.with_name(splat.stem)
        out = own.with_name(f"{own.name}-refined.ply")

    refined = (
        refine_splat(
            splat,
            config,
            out,
            keep=keep,
            noise_level=noise,
            steps=steps,
            overwrite=overwrite,
            quiet=quiet,
            reading=ReadOptions(frame),
        )
        if part is None
        else refine_object(
            splat,
            part,
            config,
            out,
            keep=keep,
            noise_level=noise,
            steps=steps,
            overwrite=overwrite,
            quiet=quiet,
        )
    )
    if not quiet:
        typer.echo(refined.message)

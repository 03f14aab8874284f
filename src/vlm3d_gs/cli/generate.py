"""`vlm3d-gs generate`: a sentence in, a run folder with a splat out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.cli.view import Host, Port
from vlm3d_gs.config import apply_settings
from vlm3d_gs.errors import ConfigError
from vlm3d_gs.presets import PRESETS, preset

Choice = Annotated[str, typer.Option("--preset", help=f"One of: {', '.join(PRESETS)}.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="a.b=c", help="Change any setting, e.g. optim.sh_lr=0.01. Repeatable."
    ),
]


def generate(
    prompt: Annotated[str, typer.Argument(help="What to make, in quotes.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results. Default: runs/<prompt>.")
    ] = None,
    preset_name: Choice = "mini",
    steps: Annotated[int | None, typer.Option(help="Optimisation steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same machine: same files.")] = None,
    no_critic: Annotated[
        bool, typer.Option("--no-critic", help="Without the vision-language reward.")
    ] = False,
    critic_every: Annotated[
        int | None, typer.Option(help="Ask the critic at every k-th step.")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="Renderer: auto, cpu, gsplat or reference.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    export: Annotated[
        str | None, typer.Option(help="Products, with commas: ply, mp4, gif, sheet.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id of the prior's weights (same family).")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never ask the model hub; see `models pull`.")
    ] = False,
    settings: Settings = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in the folder.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run in the folder.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
    view: Annotated[
        bool, typer.Option("--view", help="Serve a page to watch, pause and stop the run.")
    ] = False,
    host: Host = None,
    port: Port = None,
) -> None:
    """Make a 3D Gaussian splat from a sentence."""
    if not view and (host or port):
        raise ConfigError("--host and --port belong to --view. Add --view, or leave them away.")
    config = apply_settings(
        preset(preset_name, prompt),
        {
            "out": out,
            "train.steps": steps,
            "train.seed": seed,
            "critic.enabled": False if no_critic else None,
            "critic.every": critic_every,
            "render.backend": backend,
            "device": device,
            "prior.model": model,
            "offline": True if offline else None,
            "export.formats": export,
        },
        settings or (),
    )

    if view:
        from vlm3d_gs.viewer import generate as run_and_show

        run_and_show(
            config,
            host=host,
            port=port,
            say=typer.echo,
            overwrite=overwrite,
            resume=resume,
            quiet=quiet,
        )
    else:
        from vlm3d_gs.pipeline import generate as run

        run(config, overwrite=overwrite, resume=resume, quiet=quiet)
    if not quiet:
        typer.echo(f"written to {config.out}")

"""`vlm3d-gs generate`: a sentence in, a run folder with a splat out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.config import apply_settings
from vlm3d_gs.presets import PRESETS, preset
from vlm3d_gs.recipes import RECIPES, apply_recipe

Choice = Annotated[str, typer.Option("--preset", help=f"One of: {', '.join(PRESETS)}.")]
CriticName = Annotated[
    str | None, typer.Option(help="Critic: mini, qwen2.5-vl-7b, ..., server (see models list).")
]
CriticModel = Annotated[str | None, typer.Option(help="Folder or hub id of the critic's weights.")]
Asks = Annotated[
    list[str] | None,
    typer.Option(help='One more Yes/No question, "TEXT" or "TEXT @ WEIGHT". Repeatable.'),
]
Drops = Annotated[
    list[str] | None,
    typer.Option(help="Name of a question not to ask (see `questions`). Repeatable."),
]
Recipe = Annotated[str | None, typer.Option(help=f"Somebody's procedure: {', '.join(RECIPES)}.")]
Seeds = Annotated[
    int | None, typer.Option(help="Begin this many seeds, finish the one that --pick chooses.")
]
Pick = Annotated[str, typer.Option(help="best: by the critic.")]
PickAt = Annotated[
    float, typer.Option(help="Fraction of the run after which the seeds are compared.")
]
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
    critic: CriticName = None,
    critic_model: CriticModel = None,
    ask: Asks = None,
    drop_question: Drops = None,
    recipe: Recipe = None,
    seeds: Seeds = None,
    pick: Pick = "best",
    pick_at: PickAt = 0.4,
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
) -> None:
    """Make a 3D Gaussian splat from a sentence."""
    config = apply_settings(
        apply_recipe(preset(preset_name, prompt), recipe),
        {
            "out": out,
            "train.steps": steps,
            "train.seed": seed,
            "critic.enabled": False if no_critic else True if critic else None,
            "critic.family": critic,
            "critic.model": critic_model,
            "critic.every": critic_every,
            "critic.questions.asks": ask,
            "critic.questions.drop": drop_question,
            "render.backend": backend,
            "device": device,
            "prior.model": model,
            "offline": True if offline else None,
            "export.formats": export,
        },
        settings or (),
    )

    if seeds is not None:
        from vlm3d_gs.selection import generate_best

        generate_best(config, seeds, pick, pick_at, overwrite=overwrite, resume=resume, quiet=quiet)
    else:
        from vlm3d_gs.pipeline import generate as run

        run(config, overwrite=overwrite, resume=resume, quiet=quiet)
    if not quiet:
        typer.echo(f"written to {config.out}")

"""Options of the commands that start a run, each with its help; types of typer, no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vlm3d_gs.config.presets import PRESETS
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.config.recipes import RECIPES

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
Prompt = Annotated[str, typer.Argument(help="What to make, in quotes.")]
Out = Annotated[Path | None, typer.Option(help="Folder for the results. Default: runs/<prompt>.")]
Steps = Annotated[int | None, typer.Option(help="Optimisation steps.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same machine: same files.")]
NoCritic = Annotated[bool, typer.Option("--no-critic", help="Without the vision-language reward.")]
CriticEvery = Annotated[int | None, typer.Option(help="Ask the critic at every k-th step.")]
Backend = Annotated[str | None, typer.Option(help="Renderer: auto, cpu, gsplat or reference.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Export = Annotated[
    str | None,
    typer.Option(help=f"Products, separated by commas: {', '.join(PRODUCTS)}."),
]
Model = Annotated[
    str | None, typer.Option(help="Folder or hub id of the prior's weights (same family).")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never ask the model hub; see `models pull`.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier run in the folder.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with an interrupted run in the folder.")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")]
View = Annotated[
    bool, typer.Option("--view", help="Serve a page to watch, pause and stop the run.")
]

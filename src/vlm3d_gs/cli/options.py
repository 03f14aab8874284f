"""Options that several commands share, each with its help; types of typer, no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from vlm3d_gs.config import Backend as BackendName
from vlm3d_gs.config import CriticFamily
from vlm3d_gs.config.presets import PRESETS, PresetName
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.config.recipes import RecipeName
from vlm3d_gs.formats.options import AXES, Frame

Prompt = Annotated[str, typer.Argument(help="What to make, in quotes.")]
_PRESET_HELP = f"Settings to start from: {', '.join(PRESETS)}."
Preset = Annotated[PresetName, typer.Option("--preset", metavar="PRESET", help=_PRESET_HELP)]
RunPreset = Annotated[
    PresetName | None,
    typer.Option(
        "--preset",
        metavar="PRESET",
        help=f"{_PRESET_HELP} Default: mini, with --resume that of the run.",
    ),
]
Recipe = Annotated[
    RecipeName | None, typer.Option(help="Change the preset to somebody's published procedure.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Change any setting, e.g. optim.sh_lr=0.01; `vlm3d-gs settings` lists them. Repeatable.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Folder for the results. Default: runs/<prompt>, with a number if that is taken.",
    ),
]
Steps = Annotated[int | None, typer.Option(help="Optimisation steps.")]
Seed = Annotated[
    int | None,
    typer.Option(help="Random seed; on one machine the same seed gives the same files."),
]

Critic = Annotated[
    CriticFamily | None,
    typer.Option(metavar="CRITIC", help=f"Critic: {', '.join(get_args(CriticFamily))}."),
]
CriticModel = Annotated[str | None, typer.Option(help="Folder or hub id of the critic's weights.")]
CriticEvery = Annotated[int | None, typer.Option(help="Ask the critic at every k-th step.")]
NoCritic = Annotated[bool, typer.Option("--no-critic", help="Run without the critic.")]
Ask = Annotated[
    list[str] | None,
    typer.Option(help='One more Yes/No question, "TEXT" or "TEXT @ WEIGHT". Repeatable.'),
]
DropQuestion = Annotated[
    list[str] | None,
    typer.Option(help="Name of a question to leave out (see `questions`). Repeatable."),
]

Seeds = Annotated[
    int | None, typer.Option(help="Start this many seeds and finish the one that --pick chooses.")
]
Pick = Annotated[
    Literal["best"] | None, typer.Option(help="best (default): the one with the highest score.")
]
PICK_AT = 0.4
PickAt = Annotated[
    float | None,
    typer.Option(
        help=f"Fraction of the run after which the seeds are compared. Default: {PICK_AT}."
    ),
]

Backend = Annotated[BackendName | None, typer.Option(help="Renderer.")]
Processes = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Processes that share one run: each with a card, or a part of the cores."
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Export = Annotated[
    str | None,
    typer.Option(help=f"Products, separated by commas: {', '.join(PRODUCTS)}."),
]
Model = Annotated[
    str | None, typer.Option(help="Folder or hub id of other weights of the prior's family.")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never contact the model hub; see `models pull`.")
]

FrameOfSplat = Annotated[
    Frame | None,
    typer.Option(
        "--frame",
        help="Axes of the splat, where it names none and those of its format are wrong: "
        f"{'; '.join(f'{frame}: {words}' for frame, words in AXES.items())}.",
    ),
]
AsPoints = Annotated[
    bool,
    typer.Option(
        "--as-points",
        help="Read a PLY as a point cloud: a ball for each vertex, as large as its distance to its "
        "neighbours.",
    ),
]

Judges = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        metavar="JUDGE",
        help="server:MODEL@URL (any OpenAI-compatible server), model:ID (a folder or hub id that "
        "transformers loads), or mini (the embedded critic, held-out questions). Repeatable.",
    ),
]
JudgeKey = Annotated[
    str | None, typer.Option("--key-file", help="File that holds the key of the judges' server.")
]
OwnCritic = Annotated[
    bool,
    typer.Option(
        "--own-critic",
        help="Allow a judge of the family of the critic that the runs were optimised for.",
    ),
]

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier run in the folder.")
]
OverwriteFile = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file that is written.")
]
RunOrSplat = Annotated[
    Path, typer.Argument(metavar="RUN|SPLAT", help="A run's folder, or a splat file of any format.")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue an interrupted run in the folder, with its settings."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Tell all: every question, value and file as it comes."),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the outcome as JSON, and nothing else but errors.")
]
View = Annotated[
    bool, typer.Option("--view", help="Serve a page to watch, pause and stop the run.")
]
Host = Annotated[
    str | None,
    typer.Option(
        help="Address to serve the page at, to whoever has its URL. Default: this machine only."
    ),
]
Port = Annotated[int | None, typer.Option(help="Default: any free port.", min=1, max=65535)]

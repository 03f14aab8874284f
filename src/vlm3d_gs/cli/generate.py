"""`vlm3d-gs generate`: a sentence in, a run folder with a splat out."""

from __future__ import annotations

import typer

from vlm3d_gs.cli.options import (
    Asks,
    Backend,
    Choice,
    CriticEvery,
    CriticModel,
    CriticName,
    Device,
    Drops,
    Export,
    Model,
    NoCritic,
    Offline,
    Out,
    Overwrite,
    Pick,
    PickAt,
    Prompt,
    Quiet,
    Recipe,
    Resume,
    Seed,
    Seeds,
    Settings,
    Steps,
    View,
)
from vlm3d_gs.cli.view import Host, Port
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.recipes import apply_recipe
from vlm3d_gs.core.errors import ConfigError


def generate(
    prompt: Prompt,
    out: Out = None,
    preset_name: Choice = "mini",
    steps: Steps = None,
    seed: Seed = None,
    no_critic: NoCritic = False,
    critic_every: CriticEvery = None,
    critic: CriticName = None,
    critic_model: CriticModel = None,
    ask: Asks = None,
    drop_question: Drops = None,
    recipe: Recipe = None,
    seeds: Seeds = None,
    pick: Pick = "best",
    pick_at: PickAt = 0.4,
    backend: Backend = None,
    device: Device = None,
    export: Export = None,
    model: Model = None,
    offline: Offline = False,
    settings: Settings = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    quiet: Quiet = False,
    view: View = False,
    host: Host = None,
    port: Port = None,
) -> None:
    """Make a 3D Gaussian splat from a sentence."""
    if not view and (host or port):
        raise ConfigError("--host and --port belong to --view. Add --view, or leave them away.")
    if view and seeds is not None:
        raise ConfigError("--view watches one run. Leave --view or --seeds away.")
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
        from vlm3d_gs.app.selection import generate_best

        generate_best(config, seeds, pick, pick_at, overwrite=overwrite, resume=resume, quiet=quiet)
    elif view:
        from vlm3d_gs.app.viewer import generate as run_and_show

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

"""`vlm3d-gs generate`: a sentence in, a run folder with a splat out."""

from __future__ import annotations

import typer

from vlm3d_gs.cli import options
from vlm3d_gs.cli.options import PICK_AT
from vlm3d_gs.cli.terminal import expect_room
from vlm3d_gs.config import apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.recipes import apply_recipe
from vlm3d_gs.core.errors import ConfigError


def generate(
    prompt: options.Prompt,
    out: options.Out = None,
    preset_name: options.Preset = "mini",
    steps: options.Steps = None,
    seed: options.Seed = None,
    no_critic: options.NoCritic = False,
    critic_every: options.CriticEvery = None,
    critic: options.Critic = None,
    critic_model: options.CriticModel = None,
    ask: options.Ask = None,
    drop_question: options.DropQuestion = None,
    recipe: options.Recipe = None,
    seeds: options.Seeds = None,
    pick: options.Pick = None,
    pick_at: options.PickAt = None,
    backend: options.Backend = None,
    device: options.Device = None,
    export: options.Export = None,
    model: options.Model = None,
    offline: options.Offline = False,
    settings: options.Settings = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    quiet: options.Quiet = False,
    view: options.View = False,
    host: options.Host = None,
    port: options.Port = None,
) -> None:
    """Make a 3D Gaussian splat from a sentence."""
    if not view and (host or port):
        raise ConfigError("--host and --port belong to --view. Add --view, or drop them.")
    if view and seeds is not None:
        raise ConfigError("--view watches one run, --seeds starts several. Drop one of them.")

    critics = (critic, critic_model, critic_every, ask, drop_question)
    if no_critic and any(value for value in critics):
        raise ConfigError(
            "--no-critic leaves the critic out; --critic, --critic-model, --critic-every, --ask and "
            "--drop-question belong to it. Drop one or the other."
        )
    if seeds is None and (pick is not None or pick_at is not None):
        raise ConfigError("--pick and --pick-at choose among --seeds. Add --seeds, or drop them.")
    expect_room()

    values = {
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
        "offline": offline or None,
        "export.formats": export,
    }
    config = apply_settings(
        apply_recipe(preset(preset_name, prompt), recipe), values, settings or ()
    )

    if seeds is not None:
        from vlm3d_gs.app.selection import generate_best

        generate_best(
            config,
            seeds,
            pick or "best",
            PICK_AT if pick_at is None else pick_at,
            overwrite=overwrite,
            resume=resume,
            quiet=quiet,
        )
    elif view:
        from vlm3d_gs.app.viewer import generate_in_view

        generate_in_view(
            config,
            host=host,
            port=port,
            announce=typer.echo,
            overwrite=overwrite,
            resume=resume,
            quiet=quiet,
        )
    else:
        from vlm3d_gs.pipeline import generate as run

        run(config, overwrite=overwrite, resume=resume, quiet=quiet)

    if not quiet:
        typer.echo(f"written to {config.out}")

"""`vlm3d-gs generate`: a sentence in, a run folder with a splat out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import typer

from vlm3d_gs.cli import options
from vlm3d_gs.cli.options import PICK_AT
from vlm3d_gs.cli.terminal import expect_room
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import PresetName, preset
from vlm3d_gs.config.recipes import apply_recipe
from vlm3d_gs.config.scenes import for_objects
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.runs.interrupt import exit_code
from vlm3d_gs.runs.progress import in_detail

if TYPE_CHECKING:
    from vlm3d_gs.pipeline import GenerateResult


class _Flags(TypedDict):
    """Arguments that every kind of run takes."""

    overwrite: bool
    resume: bool
    quiet: bool


LayoutFile = Annotated[
    Path | None,
    typer.Option(
        "--layout",
        help="A scene of many objects as this file of `vlm3d-gs layout` says, each made by itself.",
    ),
]


Earlier = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="A finished scene of several objects: those that the prompt still names are kept, and only what is new "
        "is made, or moved.",
    ),
]


def generate(
    prompt: Annotated[str, typer.Argument(help="What to make, in quotes.")] = "",
    layout_file: LayoutFile = None,
    earlier: Earlier = None,
    out: options.Out = None,
    preset_name: options.RunPreset = None,
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
    processes: options.Processes = None,
    export: options.Export = None,
    model: options.Model = None,
    offline: options.Offline = False,
    settings: options.Settings = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.AsJson = False,
    view: options.View = False,
    host: options.Host = None,
    port: options.Port = None,
) -> None:
    """Make a 3D Gaussian splat from a sentence."""
    _refuse_unread(
        view=view,
        place=(host, port),
        several=seeds is not None,
        picks=(pick, pick_at),
        no_critic=no_critic,
        critics=(critic, critic_model, critic_every, ask, drop_question),
    )
    expect_room()
    if layout_file is not None:
        from vlm3d_gs.assembly.layout import prompt_of_file

        prompt = prompt_of_file(layout_file, prompt)

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
        "processes": processes,
        "prior.model": model,
        "offline": offline or None,
        "export.formats": export,
    }
    config, scene = _config(
        prompt, preset_name, recipe, values, settings or (), layout_file, earlier, resume, overwrite
    )
    if resume and _is_done(config, quiet):
        return

    flags = _Flags(overwrite=overwrite, resume=resume, quiet=quiet or as_json)
    with in_detail(verbose):
        if scene:
            result = _run_scene(config, layout_file, earlier, view or seeds is not None, flags)
        else:
            result = _run(config, (host, port) if view else None, seeds, (pick, pick_at), flags)
    _tell(result, config, quiet=quiet, as_json=as_json)


def _config(
    prompt: str,
    preset_name: PresetName | None,
    recipe: str | None,
    values: Mapping[str, Any],
    settings: Sequence[str],
    layout_file: Path | None,
    earlier: Path | None,
    resume: bool,
    overwrite: bool,
) -> tuple[Config, bool]:
    """Return the settings of the run, and whether it makes the objects of a scene one by one."""
    if resume:
        from vlm3d_gs.assembly.resume import config_to_resume

        start = config_to_resume(prompt, values["out"], preset_name)
    else:
        start = preset(preset_name or "mini", prompt)
    config = apply_settings(apply_recipe(start, recipe), values, settings)

    scene = _is_scene(config, layout_file, resume, earlier)
    if scene and not resume:
        start = for_objects(apply_recipe(start, recipe))
        config = apply_settings(start, values, settings)
    if not (overwrite or resume) and config.out == start.out:
        from vlm3d_gs.runs.folder import free_folder

        config = replace(config, out=free_folder(config.out))
    return config, scene


def _run(
    config: Config,
    place: tuple[str | None, int | None] | None,
    seeds: int | None,
    picks: tuple[str | None, float | None],
    flags: _Flags,
) -> GenerateResult:
    """Make a scene as a whole, in the browser at a host and port where these are given."""
    if place is not None:
        from vlm3d_gs.app.viewer import generate_in_view

        host, port = place
        return generate_in_view(config, host=host, port=port, announce=typer.echo, **flags)

    from vlm3d_gs.app.selection import generate_one_or_best

    pick, pick_at = picks
    at = PICK_AT if pick_at is None else pick_at
    return generate_one_or_best(config, seeds, pick or "best", at, **flags)


def _is_done(config: Config, quiet: bool) -> bool:
    """Return whether nothing is left to resume, and say so."""
    from vlm3d_gs.assembly.resume import is_done

    done = is_done(config)
    if done and not quiet:
        typer.echo(f"Nothing to do: the run in {config.out} is done. More --steps go on.")
    return done


def _is_scene(config: Config, layout_file: Path | None, resume: bool, earlier: Path | None) -> bool:
    from vlm3d_gs.assembly.start import is_scene

    given = layout_file is not None or earlier is not None
    return given or is_scene(config, resume=resume)


def _run_scene(
    config: Config,
    layout_file: Path | None,
    earlier: Path | None,
    as_whole: bool,
    flags: _Flags,
) -> GenerateResult:
    if as_whole:
        raise ConfigError(
            "--seeds and --view are for prompts that are made as a whole; the objects of this one are made one by "
            "one. Drop them."
        )
    from vlm3d_gs.app.scene import generate_scene
    from vlm3d_gs.assembly.layout import scene_layout

    layout = scene_layout(config, layout_file, resume=flags["resume"])
    return generate_scene(config, layout, earlier=earlier, **flags)


def _tell(result: GenerateResult, config: Config, *, quiet: bool, as_json: bool) -> None:
    """Say what was made, and end with the exit code that a signal asks for."""
    if as_json or not quiet:
        from vlm3d_gs.app.report import print_report

        # The terminal may be what went away.
        with suppress(OSError):
            print_report(result, config, as_json=as_json)
    if result.signal is not None:
        raise typer.Exit(exit_code(result.signal))


def _refuse_unread(
    *,
    view: bool,
    place: tuple[object, ...],
    several: bool,
    picks: tuple[object, ...],
    no_critic: bool,
    critics: tuple[object, ...],
) -> None:
    """Refuse options that the others leave without a reader.

    Raises:
        ConfigError: which ones, and which to add or drop.
    """
    if not view and any(place):
        raise ConfigError("--host and --port belong to --view. Add --view, or drop them.")
    if view and several:
        raise ConfigError("--view watches one run, --seeds starts several. Drop one of them.")
    if no_critic and any(critics):
        raise ConfigError(
            "--no-critic leaves the critic out; --critic, --critic-model, --critic-every, --ask and "
            "--drop-question belong to it. Drop one or the other."
        )
    if not several and any(value is not None for value in picks):
        raise ConfigError("--pick and --pick-at choose among --seeds. Add --seeds, or drop them.")

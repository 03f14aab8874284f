"""From Python: a sentence, or a whole config, in; a finished run out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm3d_gs.app.result import Result
from vlm3d_gs.app.scene import generate_scene
from vlm3d_gs.assembly.layout import scene_layout
from vlm3d_gs.assembly.start import is_scene
from vlm3d_gs.config import Config, apply_settings
from vlm3d_gs.config.presets import preset as config_of_preset
from vlm3d_gs.config.scenes import for_objects
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.optimize.guidance import Guidance
from vlm3d_gs.optimize.trainer import Observer
from vlm3d_gs.pipeline import generate as generate_whole
from vlm3d_gs.runs.folder import free_folder, newest_folder


def generate(
    prompt: str | Config,
    *,
    preset: str | None = None,
    seed: int | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    guidances: Sequence[Guidance] = (),
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    until: int | None = None,
    observe: Observer | None = None,
) -> Result:
    """Make a splat from a sentence and write the run's folder.

    Ctrl-C, SIGTERM and SIGHUP end the run after the current step: it is saved, then exported as it is.

    Args:
        prompt: what to make; or a whole config, for example from `vlm3d_gs.preset`.
        preset: settings to start from, as `vlm3d-gs generate --preset`; None is mini.
        seed: random seed; None is that of the preset.
        steps: length of the run; None is that of the preset.
        out: folder for the results. None is `runs/<prompt>`, with a number if something is there already.
        settings: further changes by dotted names, as `--set` takes them: `{"critic.enabled": False}`.
        guidances: objectives of your own, beside those of the config.
        overwrite: replace an earlier run in the folder.
        resume: continue an interrupted run in the folder.
        quiet: print nothing.
        until: pause after this step and export what is there; `resume` continues. None is the whole run.
        observe: called after each step; may pause or stop the run.

    Returns:
        The scene, the critic's answers, and ways to look at it and to save it.

    Raises:
        PromptError: the embedded models do not know a word of the prompt.
        ConfigError: the folder is taken, or a setting is not allowed.
        CheckpointError: there is nothing to resume from, it is damaged, or the run had other settings.
        DeviceError: the device is not there.
        ModelError: weights are neither here nor to be had.
        WriteError: the folder cannot be written into.
        ExportError: a product could not be written, or only elsewhere; all others are.
        NotFiniteError: the scene became NaN again and again; its last good state is exported.
        RunLostError: neither a product nor a checkpoint could be written anywhere.

    Example::

        cube = generate("a red cube", seed=3)
        cube.save("cube.spz")
    """
    values = {"train.seed": seed, "train.steps": steps, **(settings or {})}
    config = _config(prompt, preset, values)
    if out is not None:
        config = replace(config, out=Path(out))
    elif isinstance(prompt, str) and resume:
        config = replace(config, out=newest_folder(config.out))
    elif isinstance(prompt, str) and not overwrite:
        config = replace(config, out=free_folder(config.out))

    if is_scene(config, resume=resume):
        if isinstance(prompt, str) and not resume:
            config = apply_settings(for_objects(config), {**values, "out": config.out})
        _expect_no_single_run(config, guidances, until, observe)
        layout = scene_layout(config, None, resume=resume)
        made = generate_scene(config, layout, overwrite=overwrite, resume=resume, quiet=quiet)
    else:
        made = generate_whole(
            config,
            guidances=guidances,
            overwrite=overwrite,
            resume=resume,
            quiet=quiet,
            until=until,
            observe=observe,
        )
    return Result.of(made, config)


def _expect_no_single_run(
    config: Config, guidances: Sequence[Guidance], until: int | None, observe: Observer | None
) -> None:
    if guidances or until is not None or observe is not None:
        raise ConfigError(
            f"The objects of {config.prompt!r} are made one by one, so guidances, until and observe have no one "
            "run to belong to. Leave them out, or ask for one or two objects."
        )


def _config(prompt: str | Config, preset: str | None, values: Mapping[str, Any]) -> Config:
    if isinstance(prompt, Config):
        if preset is not None:
            raise ConfigError(
                f"A config has its preset already ({prompt.preset}). Leave out preset={preset!r}, or give a sentence."
            )
        return apply_settings(prompt, values)
    if not isinstance(prompt, str):
        raise ConfigError(
            f"generate takes a sentence or a Config, got {type(prompt).__name__}. E.g. 'a red cube'."
        )
    return apply_settings(config_of_preset(preset or "mini", prompt), values)

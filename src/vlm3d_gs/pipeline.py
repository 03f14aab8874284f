"""The run: from a sentence to a folder with a splat, as in VLM3D (Bai et al. 2025, arXiv 2509.15772).

`generate` is the whole algorithm; these files hold its steps:

    read the prompt, load the models, start with a faint ball of Gaussians      assembly/start.py
    repeat                                                                      optimize/trainer.py
        first, in rounds                                                        optimize/reconstruct.py
            render views from all around the object                             optimize/views.py
            the diffusion prior draws them better, in short denoising chains    prior/targets.py
            the vision-language critic keeps the best of several                critic/targets.py
            fit the Gaussians to these pictures for a while                     optimize/targets.py
        then, step by step                                                      optimize/distill.py
            the prior: gradient on the renders by score distillation            prior/guidance.py
            the critic: gradient of its reward on the same renders              critic/guidance.py
        back through the renderer, one step of Adam, densify and prune          optimize/step.py
        from time to time, a reading by questions that are not optimised        critic/watch.py
    export the last scene, or an earlier one if its reading was better          assembly/products.py
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vlm3d_gs.assembly.device import run_device
from vlm3d_gs.assembly.objective import build_watch
from vlm3d_gs.assembly.products import write_products
from vlm3d_gs.assembly.start import load_unfinished, new_run, read_prompt
from vlm3d_gs.config import Config
from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.core.profiling import counting
from vlm3d_gs.critic.watch import RewardWatch
from vlm3d_gs.optimize.guidance import Guidance
from vlm3d_gs.optimize.state import TrainState, restore_state
from vlm3d_gs.optimize.trainer import Observer, train
from vlm3d_gs.render import Backend
from vlm3d_gs.runs.log import RunLog, check_run_folder, prepare_run_folder
from vlm3d_gs.show.sheet import write_preview

CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class GenerateResult:
    """What a run made."""

    gaussians: Gaussians
    """The scene, on the CPU."""
    out: Path
    """The run folder."""
    files: tuple[Path, ...]
    """Products written."""
    steps: int
    """Steps done; fewer than configured if the run was stopped."""
    seconds: float
    """From the call to the last file."""
    held_out: float | None = None
    """Held-out score at the end, mean log-odds; None if nothing was watched."""


def generate(
    config: Config,
    *,
    guidances: Sequence[Guidance] = (),
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    until: int | None = None,
    observe: Observer | None = None,
) -> GenerateResult:
    """Make a splat from a sentence and write the run folder. Ctrl-C stops after the current step and still exports.

    Args:
        config: the run, for example from `preset`.
        guidances: objectives of your own, beside those of the config.
        overwrite: replace an earlier run in the folder.
        resume: continue from the checkpoint of an interrupted run in the folder.
        quiet: print nothing.
        until: pause after this step and export what is there; `resume` continues. None is the whole run.
        observe: called after each step; may pause or stop the run.

    Raises:
        PromptError: the embedded models do not know a word of the prompt.
        ConfigError: the folder is taken, or a setting is not allowed.
        CheckpointError: there is nothing to resume from, or it is damaged.
        DeviceError: the device is not there.
        ExportError: the scene has no surface for the mesh in `export.formats`; everything else is written.
    """
    began = time.monotonic()

    # Whatever cannot work is refused before anything is loaded or written.
    prompt = read_prompt(config.prompt, config.priors, config.critic)
    check_run_folder(config.out, overwrite=overwrite, resume=resume)
    device = run_device(config)
    checkpoint = load_unfinished(config.out / CHECKPOINT, config) if resume else None

    state, objective, notes = new_run(config, prompt, device, progress=not quiet)
    everything = [*objective.guidances, *guidances]
    reconstruction = objective.reconstruction
    if reconstruction is not None:
        beside = [*reconstruction.guidances, *guidances]
        reconstruction = replace(reconstruction, guidances=beside)
    watch = build_watch(objective, config)
    prepare_run_folder(config.out, overwrite=overwrite, resume=resume)
    if checkpoint is not None:
        restore_state(checkpoint, state, everything, watch)

    with _run_log(config, state, quiet=quiet, resume=resume) as log:
        for note in notes:
            log.message(note)

        finished = train(
            state,
            config,
            everything,
            log,
            reconstruction=reconstruction,
            checkpoint=config.out / CHECKPOINT,
            show=partial(_write_preview, config.out / "previews", config.render.backend),
            watch=watch,
            until=until,
            observe=observe,
        )

        with counting(state.counts):
            gaussians, readings = choose_scene(state, watch, log)
        _say_left_out(state.counts, log)
        trained_s = time.monotonic() - began
        files, mesh_error = write_products(gaussians, config, log.message)

        score = watch.readings[-1].held_out if watch is not None else None
        seconds = time.monotonic() - began
        result = GenerateResult(gaussians.to("cpu"), config.out, files, state.step, seconds, score)
        summary = _summary(config, result, finished, trained_s, state.counts)
        log.summary(summary | {"runtimes": objective.runtimes} | readings)

    if mesh_error:
        raise ExportError(f"The run is done, all but its mesh: {mesh_error}")
    return result


@contextmanager
def _run_log(config: Config, state: TrainState, *, quiet: bool, resume: bool) -> Iterator[RunLog]:
    """Open the log of the run, which also says what is noticed on the way."""
    step = state.step if resume else None
    with (
        RunLog(config.out, config, quiet=quiet, resume_step=step) as log,
        noticing(log.message),
    ):
        yield log


def choose_scene(
    state: TrainState, watch: RewardWatch | None, log: RunLog
) -> tuple[Gaussians, dict[str, Any]]:
    """Return the scene to export and what summary.json records of the readings.

    The last scene, unless reward and held-out score have diverged: then that of the best reading, and the log says so.
    """
    gaussians = state.optimizer.gaussians.detach()
    if watch is None:
        return gaussians, {}

    watch(gaussians, state.step)
    chosen, step, warning = watch.choose(gaussians)
    if warning is not None:
        log.message(warning)
    return chosen, {"watch": {**watch.summary(), "exported_step": step}}


def _summary(
    config: Config,
    result: GenerateResult,
    finished: bool,
    trained_s: float,
    counts: Mapping[str, int],
) -> dict[str, Any]:
    """Return what summary.json records of any run."""
    return {
        "prompt": config.prompt,
        "preset": config.preset,
        "seed": config.train.seed,
        "steps": result.steps,
        "finished": finished,
        "gaussians": len(result.gaussians),
        "seconds": round(result.seconds, 2),
        "seconds_before_export": round(trained_s, 2),
        "files": [path.name for path in result.files],
        **{name.replace(" ", "_"): number for name, number in counts.items()},
    }


def _say_left_out(counts: Mapping[str, int], log: RunLog) -> None:
    """Tell how many looks of a critic behind a server brought no answer, if any."""
    looks, left_out = counts.get("critic looks", 0), counts.get("critic looks left out", 0)
    if left_out > 0:
        log.message(f"the critic's server gave no answer to {left_out} of {looks + left_out} looks")


def _write_preview(folder: Path, backend: Backend, gaussians: Gaussians, step: int) -> None:
    folder.mkdir(exist_ok=True)
    write_preview(gaussians, folder / f"step_{step:06d}.png", backend=backend)

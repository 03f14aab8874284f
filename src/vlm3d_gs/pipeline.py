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
from vlm3d_gs.assembly.expectation import expectation
from vlm3d_gs.assembly.last_word import final_answers
from vlm3d_gs.assembly.objective import Objective, build_watch
from vlm3d_gs.assembly.products import Written, write_products
from vlm3d_gs.assembly.resume import load_unfinished
from vlm3d_gs.assembly.start import new_run, read_prompt
from vlm3d_gs.config import Config
from vlm3d_gs.core.errors import (
    ConfigError,
    ExportError,
    NotFiniteError,
    RunLostError,
    Vlm3dGsError,
    WriteError,
)
from vlm3d_gs.core.files import make_folder
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.core.profiling import counting
from vlm3d_gs.critic.watch import RewardWatch
from vlm3d_gs.optimize.guidance import Guidance
from vlm3d_gs.optimize.reconstruct import Reconstruction
from vlm3d_gs.optimize.state import TrainState, restore_state
from vlm3d_gs.optimize.trainer import Observer, train
from vlm3d_gs.render import Backend
from vlm3d_gs.runs.answers import Answer, to_plain
from vlm3d_gs.runs.folder import RunFolder, check_run_folder, run_folder
from vlm3d_gs.runs.interrupt import stop_requests
from vlm3d_gs.runs.log import RunLog
from vlm3d_gs.show.sheet import write_preview
from vlm3d_gs.spread.start import several_processes


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
    signal: int | None = None
    """Number of the signal that interrupted the run; None if none did."""
    answers: tuple[Answer, ...] = ()
    """What the critic answers about the scene; empty if none has weights here."""

    @property
    def message(self) -> str:
        """What a person should know, as a line."""
        if self.signal is None:
            return f"written to {self.out}"
        names = ", ".join(path.name for path in self.files)
        return (
            f"interrupted after step {self.steps}; written to {self.out}: {names}. --resume goes on"
        )


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
    """Make a splat from a sentence and write the run folder.

    Ctrl-C, SIGTERM and SIGHUP end the run after the current step: it is saved, then exported as it is.

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
        CheckpointError: there is nothing to resume from, it is damaged, or the run had other settings.
        DeviceError: the device is not there.
        ProcessError: another process of the run ended.
        WriteError: the folder cannot be written into.
        ExportError: a product could not be written, or only elsewhere; all others are.
        NotFiniteError: the scene became NaN again and again; its last good state is exported.
        RunLostError: neither a product nor a checkpoint could be written anywhere.
    """
    began = time.monotonic()
    # Whatever cannot work is refused before anything is loaded or written.
    _expect_no_own(config, guidances)
    prompt = read_prompt(config.prompt, config.priors, config.critic)
    check_run_folder(config.out, overwrite=overwrite, resume=resume)
    device = run_device(config)

    with (
        run_folder(config.out, overwrite=overwrite, resume=resume) as folder,
        several_processes(config, device, folder.path, "whole", resume=resume, until=until) as team,
    ):
        checkpoint, note = load_unfinished(config.out, config) if resume else (None, "")
        state, objective, notes = new_run(config, prompt, team.device, progress=not quiet)
        everything = [*objective.guidances, *guidances]
        watch = build_watch(objective, config)
        if checkpoint is not None:
            restore_state(checkpoint, state, everything, watch)
        with (
            stop_requests() as stop_requested,
            _run_log(folder, config, state, quiet=quiet, resume=resume) as log,
            team.together(stop_requested) as should_stop,
        ):
            _say_what_comes(log, [expectation(config, device), note, *notes], objective)
            troubles, finished = list[Vlm3dGsError](), False
            try:
                finished = train(
                    state,
                    config,
                    everything,
                    log,
                    reconstruction=_judged_by(objective.reconstruction, guidances),
                    folder=folder,
                    show=partial(_write_preview, folder, config.render.backend),
                    watch=watch,
                    until=until,
                    observe=observe,
                    stop_requested=should_stop,
                )
            except NotFiniteError as error:
                troubles.append(error)
            team.part()
            result, written = _finish(folder, config, state, watch, log, finished, began, objective)
            result = replace(result, signal=stop_requested.number)
        if troubles := [*troubles, *written.failures]:
            raise _as_one(troubles, written, folder)
    return result


def _expect_no_own(config: Config, guidances: Sequence[Guidance]) -> None:
    if guidances and config.processes > 1:
        raise ConfigError(
            f"Guidances of your own belong to this process, but processes={config.processes} would need them in each. "
            "Set processes=1."
        )


def _say_what_comes(log: RunLog, lines: Sequence[str], objective: Objective) -> None:
    for line in filter(None, lines):
        log.message(line)
    for item in objective.questions:
        log.detail(f"The critic asks {item.name}: {item.text}")


def _judged_by(
    reconstruction: Reconstruction | None, guidances: Sequence[Guidance]
) -> Reconstruction | None:
    """Add guidances to those that are asked beside the fit."""
    if reconstruction is None:
        return None
    return replace(reconstruction, guidances=[*reconstruction.guidances, *guidances])


def _finish(
    folder: RunFolder,
    config: Config,
    state: TrainState,
    watch: RewardWatch | None,
    log: RunLog,
    finished: bool,
    began: float,
    objective: Objective,
) -> tuple[GenerateResult, Written]:
    """Choose the scene, and write the products and the summary; return what was made, and what was not."""
    scene, readings = choose_scene(state, watch, log)
    trained_s = time.monotonic() - began

    # A run that overwrites another has its place by now, unless it wrote no checkpoint.
    try:
        folder.stand()
        log.ensure()
    except WriteError as error:
        log.message(f"warning: {error}")
    written = write_products(scene, config, log.detail)
    answers = final_answers(scene, objective, config)

    score = watch.readings[-1].held_out if watch is not None else None
    seconds = time.monotonic() - began
    files = tuple(written.files)
    result = GenerateResult(
        scene.to("cpu"), config.out, files, state.step, seconds, score, answers=answers
    )
    try:
        summary = _summary(config, result, finished, trained_s, state.counts)
        more = {"answers": to_plain(answers), "runtimes": objective.runtimes}
        log.summary(summary | more | readings)
    except ExportError as error:
        written.failures.append(error)
    return result, written


def _as_one(troubles: list[Vlm3dGsError], written: Written, folder: RunFolder) -> Vlm3dGsError:
    """Return one error that says what went wrong at the end of a run, and where what could be written is."""
    first = troubles[0]
    if isinstance(first, NotFiniteError):
        return first

    resumable = folder.checkpoint.is_file()
    if not written.files and isinstance(first, WriteError) and not resumable:
        return RunLostError(f"The run is lost, nothing of it could be written: {first}")

    text = f"The run is done, all but this: {first}"
    if len(troubles) > 1:
        text += f" ({len(troubles) - 1} more could not be written.)"
    if written.elsewhere is not None:
        names = [path.name for path in written.files if path.parent == written.elsewhere]
        text += f" In {written.elsewhere} instead: {', '.join(names)}."
    if isinstance(first, WriteError):
        return WriteError(f"{text} Then --resume writes what is missing." if resumable else text)
    return ExportError(text)


@contextmanager
def _run_log(
    folder: RunFolder, config: Config, state: TrainState, *, quiet: bool, resume: bool
) -> Iterator[RunLog]:
    """Open the log of the run, which also says what is noticed on the way."""
    step = state.step if resume else None
    with (
        RunLog(folder, config, quiet=quiet, resume_step=step) as log,
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
        _say_left_out(state.counts, log)
        return gaussians, {}

    with counting(state.counts):
        watch(gaussians, state.step)
    _say_left_out(state.counts, log)
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


def _write_preview(folder: RunFolder, backend: Backend, gaussians: Gaussians, step: int) -> None:
    make_folder(folder.previews)
    write_preview(gaussians, folder.previews / f"step_{step:06d}.png", backend=backend)

"""From a config to a run folder: the only place where models, trainer and exporters meet."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vlm3d_gs.assembly.objective import (
    Objective,
    build_objective,
    build_questions,
    build_vlm,
    check_choice,
)
from vlm3d_gs.assembly.plan import has_large_critic, large_priors, plan_memory
from vlm3d_gs.assembly.products import write_products
from vlm3d_gs.config import Config, SceneConfig
from vlm3d_gs.config.bounds import check_device
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.core.errors import CheckpointError, ConfigError, DeviceError, ExportError, PromptError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.initialize import ball, shell
from vlm3d_gs.core.profiling import counting
from vlm3d_gs.core.prompts import Prompt, parse_prompt
from vlm3d_gs.core.seeding import generator, generators
from vlm3d_gs.critic.questions.templates import Question
from vlm3d_gs.critic.watch import RewardWatch
from vlm3d_gs.models import family_entry, locate
from vlm3d_gs.models.catalogue import Role
from vlm3d_gs.optimize.optimizer import SceneOptimizer
from vlm3d_gs.optimize.state import TrainState, restore_state
from vlm3d_gs.optimize.trainer import Observer, train
from vlm3d_gs.render import can_render_on_gpu
from vlm3d_gs.runs.checkpoint import Checkpoint, load_checkpoint
from vlm3d_gs.runs.log import RunLog, check_run_folder, prepare_run_folder
from vlm3d_gs.show.sheet import write_preview

CHECKPOINT = "checkpoint.safetensors"
NO_GSPLAT = (
    "There is a CUDA device, but gsplat, which renders on it, is not installed: this run is on the CPU. "
    "Run: pip install 'vlm3d-gs[gpu]'."
)
STREAMS = ("cameras", "backgrounds", "densify", "noise", "critic", "targets")


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
    """Steps done; fewer than asked for if the run was stopped."""
    seconds: float
    """From the call to the last file."""
    held_out: float | None = None
    """Held-out score at the end, mean log-odds; None where nothing was watched."""


def generate(
    config: Config,
    *,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    until: int | None = None,
    observe: Observer | None = None,
) -> GenerateResult:
    """Make a splat from a sentence and write the run folder.

    Cameras are drawn, the scene is rendered, the prior and the critic pull on the renders, Gaussians are added and
    removed, and the result is exported. Ctrl-C stops after the current step and still exports.

    Args:
        config: the run, for example from `presets.preset`.
        overwrite: replace an earlier run in the folder.
        resume: go on from the checkpoint of an interrupted run in the folder.
        quiet: show nothing.
        until: pause after this step and export what is there; `resume` goes on. None is the whole run.
        observe: watches the run, and may pause or end it; see `trainer.Observer`.

    Raises:
        PromptError: the embedded models do not know a word of the prompt.
        ConfigError: the folder is taken, or a setting is not allowed.
        CheckpointError: there is nothing to resume from, or it is damaged.
        DeviceError: the device is not there.
        ExportError: the scene gives no mesh, though one is asked for; all else is written.
    """
    began = time.monotonic()
    prompt = read_prompt(config)
    check_run_folder(config.out, overwrite=overwrite, resume=resume)
    device = choose_device(config.device)
    checkpoint = resumable(config) if resume else None
    state, objective, notes = new_run(config, prompt, device, quiet=quiet)
    prepare_run_folder(config.out, overwrite=overwrite, resume=resume)
    watch = reward_watch(config, objective)
    if checkpoint is not None:
        restore_state(checkpoint, state, objective.guidances, watch)
    with RunLog(config.out, config, quiet=quiet, resume_step=state.step if resume else None) as log:
        for note in notes:
            log.message(note)
        finished = train(
            state,
            config,
            objective.guidances,
            log,
            reconstruction=objective.reconstruction,
            checkpoint=config.out / CHECKPOINT,
            show=partial(_show, config),
            watch=watch,
            until=until,
            observe=observe,
        )
        with counting(state.counts):
            gaussians, watched = last_reading(watch, state, log)
        trained_s = time.monotonic() - began
        files, flaw = write_everything(gaussians, config)
        seconds = time.monotonic() - began
        log.summary(
            {
                **_origin(config, state),
                "finished": finished,
                "gaussians": len(gaussians),
                "seconds": round(seconds, 2),
                "seconds_before_export": round(trained_s, 2),
                "files": [path.name for path in files],
                **{name.replace(" ", "_"): number for name, number in state.counts.items()},
                **watched,
            }
        )
    if flaw:
        raise ExportError(f"The run is done, all but its mesh: {flaw}")
    score = watch.readings[-1].held_out if watch is not None else None
    return GenerateResult(gaussians.to("cpu"), config.out, files, state.step, seconds, score)


def new_run(
    config: Config, prompt: Prompt, device: torch.device, *, quiet: bool
) -> tuple[TrainState, Objective, list[str]]:
    """Load the models and make the first cloud; return what a run changes, what pulls on it, and notes for the user."""
    check_choice(config)
    streams = generators(config.train.seed, STREAMS)
    folders = model_folders(config, quiet=quiet)
    plan, notes = plan_memory(config, folders, device)
    if config.device == "auto" and device.type == "cpu" and torch.cuda.is_available():
        notes.insert(0, NO_GSPLAT)
    objective = build_objective(
        config, prompt, folders, device, streams, text_cache=text_cache(config), plan=plan
    )
    notes += [f"The critic asks {q.name}: {q.text}" for q in objective.questions]
    return new_state(config, device, streams), objective, notes


def new_state(
    config: Config, device: torch.device, streams: dict[str, torch.Generator]
) -> TrainState:
    """Make the first cloud and its optimiser: a run before its first step."""
    first = first_cloud(config.scene, generator(config.train.seed, "first cloud")).to(device)
    return TrainState(SceneOptimizer(first, config.optim), streams)


def write_everything(gaussians: Gaussians, config: Config) -> tuple[tuple[Path, ...], str]:
    """Write what `export.formats` asks for; return the files, and why a mesh that is asked for cannot be made."""
    files = write_products(gaussians, config)
    if "mesh" not in config.export.formats:
        return files, ""
    from vlm3d_gs.mesh import extract_mesh, write_mesh

    path = config.out / PRODUCTS["mesh"].file
    try:
        write_mesh(extract_mesh(gaussians, backend=config.render.backend), path)
    except (ExportError, ConfigError) as error:
        return files, str(error)
    return (*files, path), ""


def reward_watch(config: Config, objective: Objective) -> RewardWatch | None:
    """Return what reads the scene beside the reward; None without a critic or with `critic.watch.enabled` off."""
    own, held_out = objective.own, objective.held_out
    if own is None or held_out is None:
        return None
    return RewardWatch(
        own=own.score,
        judge=held_out.score,
        camera=config.camera,
        config=config.critic.watch,
        steps=config.train.steps,
        backend=config.render.backend,
    )


def last_reading(
    watch: RewardWatch | None, state: TrainState, log: RunLog
) -> tuple[Gaussians, dict[str, Any]]:
    """Return the scene to export, and what summary.json says of the readings; tells the user if scores diverged."""
    gaussians = state.optimizer.gaussians.detach()
    if watch is None:
        return gaussians, {}
    watch(gaussians, state.step)
    chosen, step, said = watch.choose(gaussians)
    if said is not None:
        log.message(said)
    return chosen, {"watch": {**watch.summary(), "exported_step": step}}


def questions_for(config: Config) -> tuple[Question, ...]:
    """Return what the critic of a run would be asked; loads the critic only if it lists checks itself."""
    prompt = parse_prompt(config.prompt)
    if config.critic.questions.checks != "model":
        return build_questions(config.critic, prompt)
    folder = model_folders(replace(config, prior=replace(config.prior, enabled=False)))["critic"]
    model = build_vlm(config.critic, folder, choose_device(config.device))
    return build_questions(config.critic, prompt, model, str(folder), text_cache(config))


def read_prompt(config: Config) -> Prompt:
    """Parse the prompt, and refuse one that the chosen models cannot draw, before anything is loaded.

    Raises:
        PromptError: an embedded model does not know its words.
    """
    prompt = parse_prompt(config.prompt)
    priors = [prior for prior in (config.prior, config.detail) if prior.enabled]
    families: list[tuple[Role, str]] = [("prior", prior.family) for prior in priors]
    if config.critic.enabled and config.critic.family != "server":
        families.append(("critic", config.critic.family))
    if any(family_entry(role, family).embedded for role, family in families):
        if prompt.composition is None:
            raise PromptError(prompt.refusal)
    return prompt


def resumable(config: Config) -> Checkpoint:
    """Return the checkpoint of an interrupted run that this config goes on with.

    Raises:
        CheckpointError: there is none, it is damaged, it belongs to another run, or nothing is left to do.
    """
    checkpoint = load_checkpoint(config.out / CHECKPOINT)
    for name, now in (("prompt", config.prompt), ("seed", config.train.seed)):
        before = checkpoint.meta.get(name)
        if before != now:
            raise CheckpointError(
                f"The run in {config.out} has {name} {before!r}, not {now!r}. Give the same, or choose another --out."
            )
    if checkpoint.step >= config.train.steps:
        raise CheckpointError(
            f"The run in {config.out} has done {checkpoint.step} of {config.train.steps} steps. Give more --steps."
        )
    return checkpoint


def choose_device(name: str) -> torch.device:
    """Return the device of a run: what `name` says, or for "auto" CUDA where there is one that gsplat can render on.

    Raises:
        ConfigError: no such name.
        DeviceError: CUDA is asked for and not there.
    """
    check_device(name)
    if name == "auto":
        return torch.device("cuda" if can_render_on_gpu() else "cpu")
    present, device = torch.cuda.is_available(), torch.device(name)
    if device.type == "cuda" and (not present or (device.index or 0) >= torch.cuda.device_count()):
        raise DeviceError(
            f"device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices. Use cpu."
        )
    return device


def model_folders(config: Config, *, quiet: bool = True) -> dict[str, Path]:
    """Return the folder of each model that a run uses, fetched if need be.

    Raises:
        ModelError: a model is neither in a folder, nor cached, nor to be had from the hub.
    """
    folders = {}
    for name, prior in (("prior", config.prior), ("detail", config.detail)):
        if prior.enabled:
            folders[name] = locate(
                prior.model, prior.family, offline=config.offline, progress=not quiet
            )
    critic = config.critic
    wanted: dict[str, tuple[str, str | None]] = {}
    if critic.enabled and critic.family != "server":
        wanted["critic"] = (critic.family, critic.model)
        if critic.watch.enabled and (critic.watch.family or critic.watch.model):
            wanted["judge"] = (critic.watch.family or critic.family, critic.watch.model)
    for name, (family, model) in wanted.items():
        known = family_entry("critic", family).name
        folders[name] = locate(model, known, offline=config.offline, progress=not quiet)
    return folders


def text_cache(config: Config) -> Path | None:
    """Return where texts of large models are kept, embedded or written; the embedded models need no such place."""
    large = large_priors(config) or has_large_critic(config)
    return Path.home() / ".cache" / "vlm3d-gs" / "text" if large else None


def first_cloud(config: SceneConfig, random: torch.Generator) -> Gaussians:
    """Return the Gaussians that a run starts from."""
    if config.init == "ball":
        draw = ball
    elif config.init == "shell":
        draw = shell
    else:
        raise ConfigError(f"scene.init must be 'ball' or 'shell', got {config.init!r}.")
    return draw(
        config.n_init,
        config.radius,
        random,
        opacity=config.opacity,
        color_noise=0.05,
        sh_degree=config.sh_degree,
    )


def _origin(config: Config, state: TrainState) -> dict[str, Any]:
    """Return what summary.json says of where a scene comes from."""
    return {
        "prompt": config.prompt,
        "preset": config.preset,
        "seed": config.train.seed,
        "steps": state.step,
    }


def _show(config: Config, gaussians: Gaussians, step: int) -> None:
    folder = config.out / "previews"
    folder.mkdir(exist_ok=True)
    write_preview(gaussians, folder / f"step_{step:06d}.png", backend=config.render.backend)

"""The loop: cameras, render, guidance, regularise, step, densify. Knows the `Guidance` protocol and never a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from vlm3d_gs.config import CameraConfig, Config
from vlm3d_gs.core.cameras import CameraRanges, Cameras, sample_view_groups
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.profiling import part
from vlm3d_gs.core.seeding import capture_states, restore_states
from vlm3d_gs.optimize.densify import ScreenGradients, densify, is_round, kept
from vlm3d_gs.optimize.guidance import Guidance, GuidanceOutput, Views
from vlm3d_gs.optimize.mcmc import perturb, relocate
from vlm3d_gs.optimize.optimizer import SceneOptimizer
from vlm3d_gs.optimize.regularizers import regularize
from vlm3d_gs.optimize.reuse import StaleGradients
from vlm3d_gs.render import render
from vlm3d_gs.runs.checkpoint import Checkpoint, save_checkpoint
from vlm3d_gs.runs.interrupt import stop_requests
from vlm3d_gs.runs.log import RunLog

NORM_MEMORY = 0.9
"""Decay of the running gradient norm to which relative guidances are scaled."""


@dataclass
class TrainState:
    """What changes during a run."""

    optimizer: SceneOptimizer
    """Owns the scene."""
    streams: dict[str, torch.Generator]
    """Named sources of randomness, saved with checkpoints."""
    step: int = 0
    """Steps done."""
    reference_norm: float | Tensor = 0.0
    """Running norm of the guidances' gradient on the renders; float64, after a step on the scene's device."""
    cameras: Cameras | None = None
    """Views of the last step; not saved."""
    gradients: ScreenGradients = field(init=False)
    """Densification statistics since the last round."""
    stale: StaleGradients = field(default_factory=StaleGradients)
    """Gradients of lasting guidances."""

    def __post_init__(self) -> None:
        scene = self.optimizer.gaussians
        self.gradients = ScreenGradients.empty(len(scene), scene.device)


class Observer(Protocol):
    """Watches a run from outside, and may hold or end it."""

    def __call__(
        self, state: TrainState, scalars: Mapping[str, float], stop_asked: Callable[[], bool]
    ) -> bool:
        """Look at the run after a step.

        May block for as long as the run is to pause, but not longer than until `stop_asked` says
        yes (Ctrl-C).

        Args:
            state: to look at only.
            scalars: what the step logged.
            stop_asked: tells whether the run is to end anyhow.

        Returns:
            True to end the run here, as Ctrl-C does.
        """
        ...


def train(
    state: TrainState,
    config: Config,
    guidances: Sequence[Guidance],
    log: RunLog,
    *,
    checkpoint: Path | None = None,
    show: Callable[[Gaussians, int], None] | None = None,
    watch: Callable[[Gaussians, int], Mapping[str, float]] | None = None,
    until: int | None = None,
    observe: Observer | None = None,
) -> bool:
    """Run to the end of the config's steps.

    Args:
        state: where to start; changed in place.
        config: the run.
        guidances: what pulls on the renders, asked in order.
        log: takes scalars and progress.
        checkpoint: file to write now and then; None for none.
        show: called now and then with the scene and the number of steps done.
        watch: called at every `critic.watch.every` of the run with the same; what it returns is logged.
        until: pause after this step; None is the end of the run.
        observe: asked after each step; may pause the run, or end it.

    Returns:
        True when all steps were done, False when Ctrl-C, `until` or the observer stopped the run after a whole step.
    """
    steps, stopped = config.train.steps, False
    last = steps if until is None else min(until, steps)
    with stop_requests() as stop_asked:
        while state.step < last and not (stopped or stop_asked()):
            scalars = train_step(state, config, guidances)
            if watch is not None and _is_mark(state.step, steps, config.critic.watch.every):
                scalars |= watch(state.optimizer.gaussians.detach(), state.step)
            log.scalars(state.step, scalars)
            log.progress(state.step, steps, scalars)
            stopped = observe is not None and observe(state, scalars, stop_asked)
            due = (
                stopped
                or stop_asked()
                or state.step == last < steps
                or _is_mark(state.step, steps, config.train.checkpoint_every)
            )
            if checkpoint is not None and due:
                save_state(checkpoint, state, config, guidances)
            if show is not None and _is_mark(state.step, steps, config.train.preview_every):
                show(state.optimizer.gaussians.detach(), state.step)
    if state.step < last:
        log.message(f"stopped after step {state.step} of {steps}; exporting what is there")
    if state.step < steps:
        return False
    if config.densify.enabled:
        scene = state.optimizer.gaussians.detach()
        source = kept(scene, config.densify).nonzero()[:, 0]
        state.optimizer.replace(
            scene.select(source), source, torch.zeros_like(source, dtype=torch.bool)
        )
    return True


def train_step(
    state: TrainState, config: Config, guidances: Sequence[Guidance]
) -> dict[str, float]:
    """Do one step and return its scalars."""
    fraction = state.step / config.train.steps
    due = [guidance for guidance in guidances if guidance.is_due(state.step)]
    cameras = draw_cameras(config.camera, due, fraction, state.streams["cameras"])
    state.cameras = cameras
    scene = state.optimizer.gaussians
    background = draw_backgrounds(config.camera, fraction, state.streams["backgrounds"])
    with part("render forward"):
        rendering = render(scene, cameras, backend=config.render.backend, background=background)
    state.optimizer.zero_grad()
    rgba = torch.cat([rendering.color, rendering.alpha], -1)
    behind = background.to(rgba.device, non_blocking=True)
    views = Views(rgba[..., :3], cameras, config.camera.n_views, rgba[..., 3:], behind)
    outputs = {guidance.name: guidance(views, fraction) for guidance in due}
    pull, lasting = image_gradients(rgba, list(outputs.values()), state)
    leaves = state.optimizer.leaves
    if lasting is not None:
        with part("render backward"):
            felt = torch.autograd.grad(
                (rgba * lasting).sum(),
                list(leaves.values()),
                retain_graph=True,
                allow_unused=True,
            )
        state.stale.keep(tuple(leaves), felt)
    with part("regularizers"):
        penalty, terms = regularize(scene, rendering.alpha, config.regularizer, fraction)
    with part("render backward"):
        ((rgba * pull).sum() + penalty).backward()
    with part("optimizer"):
        state.stale.add_to(leaves)
        if config.optim.fused:
            state.optimizer.step(fraction, state.gradients.pending(rendering))
        else:
            state.gradients.add(rendering)
            state.optimizer.step(fraction)
    state.step += 1
    with part("densify"):
        _densify(state, config, fraction)
    scalars = {
        f"{name}/{key}": value
        for name, output in outputs.items()
        for key, value in output.scalars.items()
    }
    scalars |= {f"regularizer/{name}": value for name, value in terms.items()}
    scalars["gaussians"] = float(len(state.gradients.total))
    return as_numbers(scalars | {"coverage": rendering.alpha.detach().mean()})


def as_numbers(scalars: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Return all scalars as numbers; those on a device are fetched together, so that it is waited for once."""
    waiting = {name: value for name, value in scalars.items() if isinstance(value, Tensor)}
    if not waiting:
        return {name: float(value) for name, value in scalars.items()}
    device = next(iter(waiting.values())).device
    fetched = torch.stack([value.detach().to(device).double() for value in waiting.values()])
    read = dict(zip(waiting, fetched.tolist(), strict=True))
    return {name: read.get(name, value) for name, value in scalars.items()}


def image_gradients(
    rendered: Tensor, outputs: Sequence[GuidanceOutput], state: TrainState
) -> tuple[Tensor, Tensor | None]:
    """Add up the guidances' gradients on the renders; see `GuidanceOutput`.

    Args:
        rendered: [C, H, W, 3 or 4] renders that the losses were computed from, with or without opacity.
        outputs: what the guidances said.
        state: keeps the running norm of the gradients that count as they are.

    Returns:
        Gradient of this step alone, with the shape of `rendered`, and the lasting one, None if no guidance has one.
    """
    total, lasting = torch.zeros_like(rendered), torch.zeros_like(rendered)
    relative = []
    for output in outputs:
        with part("prior backward"):  # a critic has gone back through its model already
            (gradient,) = torch.autograd.grad(output.loss, rendered)
        if output.relative_strength is not None:
            relative.append((gradient, output.relative_strength, output.lasting))
        elif output.lasting:
            lasting += gradient
        else:
            total += gradient
    # All of this stays on the device: a number read here would hold up the backward pass behind it.
    norm = total.norm().double()
    before = torch.as_tensor(state.reference_norm, dtype=torch.float64)
    before = before.to(norm.device, non_blocking=True)
    mixed = NORM_MEMORY * before + (1.0 - NORM_MEMORY) * norm
    present = torch.where(norm > 0.0, torch.where(before > 0.0, mixed, norm), before)
    state.reference_norm = present
    for gradient, strength, lasts in relative:
        own = gradient.norm()
        target = strength * torch.where(present > 0.0, present, own.double())
        scaled = gradient * (own.clamp_min(1e-12).reciprocal() * target.to(own.dtype))
        if lasts:
            lasting += scaled
        else:
            total += scaled
    return total, lasting if any(output.lasting for output in outputs) else None


def draw_cameras(
    config: CameraConfig, due: Sequence[Guidance], fraction: float, generator: torch.Generator
) -> Cameras:
    """Draw the view groups of a step, within what all guidances of this step can judge."""
    offset = config.azimuth_offset_deg
    for guidance in due:
        if guidance.azimuth_offset_deg is not None:
            offset = guidance.azimuth_offset_deg
    side = round(config.resolution_px(fraction))
    ranges = CameraRanges(offset, config.elevation_deg, config.distance, config.fov_deg, side, side)
    return sample_view_groups(config.n_groups, config.n_views, generator, ranges)


def draw_backgrounds(config: CameraConfig, fraction: float, generator: torch.Generator) -> Tensor:
    """Return [C, 3] background colours, one a group; random ones are any colour, or in 3 of 10 a grey."""
    fixed = {"white": 1.0, "grey": 0.5, "black": 0.0}
    kind = config.background
    if kind == "random" and fraction < config.random_from:
        kind = "grey"
    if kind in fixed:
        colors = torch.full((config.n_groups, 3), fixed[kind])
    elif kind == "random":
        draws = torch.rand(config.n_groups, 4, generator=generator)
        colors = torch.where(draws[:, 3:] < 0.3, draws[:, :1], draws[:, :3])
    else:
        raise ConfigError(f"camera.background must be random, white, grey or black, got {kind!r}.")
    return colors.repeat_interleave(config.n_views, 0)


def save_state(
    path: Path, state: TrainState, config: Config, guidances: Sequence[Guidance]
) -> None:
    """Write a checkpoint from which `restore_state` goes on exactly."""
    tensors = state.optimizer.state_tensors()
    tensors |= {f"stream.{name}": value for name, value in capture_states(state.streams).items()}
    tensors |= {"gradients.total": state.gradients.total, "gradients.count": state.gradients.count}
    tensors |= {f"stale.{name}": value for name, value in state.stale.state_tensors().items()}
    tensors |= {
        f"guidance.{guidance.name}.{name}": value
        for guidance in guidances
        for name, value in guidance.state_tensors().items()
    }
    meta = {
        "reference_norm": float(state.reference_norm),
        "prompt": config.prompt,
        "seed": config.train.seed,
        "steps": config.train.steps,
    }
    save_checkpoint(path, step=state.step, tensors=tensors, meta=meta)


def restore_state(checkpoint: Checkpoint, state: TrainState, guidances: Sequence[Guidance]) -> None:
    """Put a checkpoint's content into `state` and the guidances."""
    state.optimizer.load_state_tensors(checkpoint.tensors)
    streams = {
        name.removeprefix("stream."): value
        for name, value in checkpoint.tensors.items()
        if name.startswith("stream.")
    }
    restore_states(state.streams, streams)
    for guidance in guidances:
        prefix = f"guidance.{guidance.name}."
        guidance.load_state_tensors(
            {
                name.removeprefix(prefix): value
                for name, value in checkpoint.tensors.items()
                if name.startswith(prefix)
            }
        )
    device = state.optimizer.gaussians.device
    stale = {
        name.removeprefix("stale."): value
        for name, value in checkpoint.tensors.items()
        if name.startswith("stale.")
    }
    state.stale.load_state_tensors(stale, device)
    state.gradients = ScreenGradients(
        checkpoint.tensors["gradients.total"].to(device),
        checkpoint.tensors["gradients.count"].to(device),
    )
    state.step, state.reference_norm = checkpoint.step, float(checkpoint.meta["reference_norm"])


def _densify(state: TrainState, config: Config, fraction: float) -> None:
    """Do what densification does after a step: the noise of `mcmc`, and a round where one is due."""
    chosen, stream, most = config.densify, state.streams["densify"], config.scene.max_gaussians
    mcmc, fused = chosen.method == "mcmc", config.optim.fused
    if chosen.enabled and mcmc:
        perturb(state.optimizer.leaves, chosen, fraction, stream, fused=fused)
    if not is_round(state.step - 1, config.train.steps, chosen):
        return
    scene = state.optimizer.gaussians
    if mcmc:
        result = relocate(scene, chosen, most, stream, fused=fused)
    else:
        result = densify(scene, state.gradients, chosen, most, stream)
    state.optimizer.replace(result.gaussians, result.source, result.fresh)
    state.stale.follow(result.source, result.fresh)
    state.gradients = ScreenGradients.empty(len(result.source), scene.device)


def _is_mark(step: int, steps: int, every: float) -> bool:
    """Tell whether a multiple of `every` of the run was just passed, before its end."""
    if every <= 0.0 or step >= steps:
        return False
    return int(step / (every * steps) + 1e-9) > int((step - 1) / (every * steps) + 1e-9)

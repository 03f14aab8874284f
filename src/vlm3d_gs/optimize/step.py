"""One step of the scene: render, ask for gradients on the renders, regularise, move, densify."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from vlm3d_gs.config import Config
from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.profiling import section
from vlm3d_gs.optimize.densify import ScreenGradients, densify, is_reset, lower_opacities
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views, without_broken
from vlm3d_gs.optimize.mcmc import perturb, relocate
from vlm3d_gs.optimize.regularizers import regularize
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.render import Rendering

NORM_DECAY = 0.9
"""Decay of the running gradient norm to which relative guidances are scaled."""
LEFT_OUT = "left_out"
"""Last part of the scalars that count the pictures without a finite gradient, or drawn with values that are not."""


class GradientSource(Protocol):
    """Whatever returns gradients on views: a guidance, or the fit to a target."""

    @property
    def name(self) -> str:
        """Prefix of its scalars in the log."""

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        """Judge the views of a step."""


def scene_step(
    state: TrainState,
    config: Config,
    cameras: Cameras,
    background: Tensor,
    sources: Sequence[GradientSource],
    *,
    target: Tensor | None = None,
) -> dict[str, float | Tensor]:
    """Move the scene by one step, and return what is to be logged.

    Args:
        state: changed in place, but for the densification, which is the caller's.
        config: the run.
        cameras: C views.
        background: [C, 3] colours behind them, on the CPU or the scene's device.
        sources: asked for gradients on the renders, in order.
        target: [C, H, W, 3] pictures whose edges tell where depth may bend; None takes the renders' own.
    """
    progress = Progress(state.step, config.train.steps)
    fraction = progress.fraction
    state.cameras = cameras

    scene = state.optimizer.gaussians
    with section("render forward"):
        rendering = draw(state, cameras, config, background)
    state.optimizer.zero_grad()

    # What the sources make of the renders, as a gradient on the pixels.
    rgba = torch.cat([rendering.color, rendering.alpha], -1)
    seen = rgba.detach()
    background = background.to(seen.device, non_blocking=True)
    views = Views(seen[..., :3], cameras, config.camera.n_views, seen[..., 3:], background)
    outputs: dict[str, GuidanceOutput] = {}
    left_out: dict[str, Tensor] = {}
    for source in sources:
        outputs[source.name], left_out[source.name] = without_broken(source(views, progress))
    gradient, reused = combine_gradients(views, list(outputs.values()), state)

    # From the pixels to the Gaussians.
    leaves = state.optimizer.leaves
    if reused is not None:
        with section("render backward"):
            kept = torch.autograd.grad(
                (rgba * reused).sum(), list(leaves.values()), retain_graph=True, allow_unused=True
            )
        state.reused.keep(tuple(leaves), kept)
    with section("regularizers"):
        penalty, terms = regularize(scene, rendering, config.regularizer, fraction, target)
    with section("render backward"):
        ((rgba * gradient).sum() + penalty).backward()

    with section("optimizer"):
        state.reused.add_to(leaves)
        if config.optim.fused:
            state.optimizer.step(fraction, state.gradients.pending(rendering))
        else:
            state.gradients.add(rendering)
            state.optimizer.step(fraction)
    state.step += 1

    scalars = {
        f"{name}/{key}": value
        for name, output in outputs.items()
        for key, value in output.scalars.items()
    }
    scalars |= {f"{name}/{LEFT_OUT}": value for name, value in left_out.items()}
    scalars |= {f"regularizer/{name}": value for name, value in terms.items()}
    return scalars | {"coverage": rendering.alpha.detach().mean()}


def draw(state: TrainState, cameras: Cameras, config: Config, background: Tensor) -> Rendering:
    """Render the scene of a run; on a GPU whether it is finite is asked once a round, with the log (`log_rows`)."""
    return state.render(
        state.optimizer.gaussians,
        cameras,
        backend=config.render.backend,
        background=background,
        check=not state.is_waited_for,
    )


def combine_gradients(
    views: Views, outputs: Sequence[GuidanceOutput], state: TrainState
) -> tuple[Tensor, Tensor | None]:
    """Add up the guidances' gradients on the renders; see `GuidanceOutput`.

    Args:
        views: the renders.
        outputs: of the guidances.
        state: keeps the running norm of the gradients that count as they are.

    Returns:
        [C, H, W, 4] gradient on colour and opacity for this step alone, and the one to be reused, None if no guidance
        asks for that.
    """
    shape = (*views.color.shape[:-1], 4)
    total, reused = views.color.new_zeros(shape), views.color.new_zeros(shape)
    relative = []
    for output in outputs:
        gradient = _rgba(output)
        if output.relative_strength is not None:
            relative.append((gradient, output.relative_strength, output.reused))
        elif output.reused:
            reused += gradient
        else:
            total += gradient

    # All of this stays on the device: a number read here would hold up the backward pass behind it.
    norm = total.norm().double()
    before = torch.as_tensor(state.reference_norm, dtype=torch.float64)
    before = before.to(norm.device, non_blocking=True)
    mixed = NORM_DECAY * before + (1.0 - NORM_DECAY) * norm
    reference = torch.where(norm > 0.0, torch.where(before > 0.0, mixed, norm), before)
    state.reference_norm = reference

    for gradient, strength, again in relative:
        own = gradient.norm()
        target = strength * torch.where(reference > 0.0, reference, own.double())
        scaled = gradient * (own.clamp_min(1e-12).reciprocal() * target.to(own.dtype))
        if again:
            reused += scaled
        else:
            total += scaled

    return total, reused if any(output.reused for output in outputs) else None


def move_faint(state: TrainState, config: Config, fraction: float) -> None:
    """Move faint Gaussians at random, as densification by `mcmc` does after each step."""
    chosen = config.densify
    if chosen.enabled and chosen.method == "mcmc":
        stream, fused = state.streams["densify"], config.optim.fused
        perturb(state.optimizer.leaves, chosen, fraction, stream, fused=fused)


def densify_scene(state: TrainState, config: Config) -> None:
    """Do one round of densification."""
    state.finite = state.finite_so_far()  # it removes what is not
    chosen, stream, most = config.densify, state.streams["densify"], config.scene.max_gaussians

    scene = state.optimizer.gaussians
    if chosen.method == "mcmc":
        result = relocate(scene, chosen, most, stream, fused=config.optim.fused)
    else:
        result = densify(scene, state.gradients, chosen, most, stream)

    state.optimizer.replace(result.gaussians, result.source, result.fresh)
    state.reused.follow(result.source, result.fresh)
    state.gradients = ScreenGradients.empty(len(result.source), scene.device)


def reset_opacities(state: TrainState, config: Config) -> None:
    """Lower the opacities, where `densify.reset_every` says that it is time."""
    if is_reset(state.step - 1, config.train.steps, config.densify):
        result = lower_opacities(state.optimizer.gaussians, config.densify)
        state.optimizer.replace(result.gaussians, result.source, result.fresh, ("opacity_logits",))


def _rgba(output: GuidanceOutput) -> Tensor:
    """Return the [C, H, W, 4] gradient of a guidance on colour and opacity."""
    alpha = output.alpha_gradient
    if alpha is None:
        alpha = torch.zeros_like(output.color_gradient[..., :1])
    return torch.cat([output.color_gradient, alpha], -1)

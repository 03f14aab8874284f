"""A step of reconstruction: a round draws whole pictures of the scene, and its steps fit the scene to them.

A few denoising chains replace many single questions to the prior, no gradient passes through the prior's networks, and
a fitting step needs no network at all. After MicroDreamer (Chen et al. 2024, arXiv 2404.19525, score-based iterative
reconstruction); the choice of a critic among several chains, targets fitted before their own background, and the
smoothing of depth are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlm3d_gs.config import Config
from vlm3d_gs.core.images import resize
from vlm3d_gs.core.profiling import section
from vlm3d_gs.optimize.guidance import Guidance, GuidanceOutput, Progress, Views
from vlm3d_gs.optimize.state import TrainState
from vlm3d_gs.optimize.step import (
    LEFT_OUT,
    GradientSource,
    densify_scene,
    draw,
    move_faint,
    reset_opacities,
    scene_step,
)
from vlm3d_gs.optimize.targets import Chain, PixelFit, Target, TargetSource, border_colors
from vlm3d_gs.optimize.views import draw_backgrounds, draw_even_cameras


@dataclass(frozen=True)
class Reconstruction:
    """What the scene is fitted to."""

    source: TargetSource
    """Draws the pictures."""
    guidances: Sequence[Guidance] = ()
    """Asked about the renders that are fitted to a round's newest pictures, beside them."""


def reconstruct_step(
    state: TrainState, config: Config, reconstruction: Reconstruction
) -> dict[str, float | Tensor]:
    """Fit the scene to one target, after drawing a new one where the last round is over; return the scalars."""
    progress = Progress(state.step, config.train.steps)
    scalars: dict[str, float | Tensor] = {}
    if state.pool.is_round_over:
        scalars |= begin_round(state, config, reconstruction)
    scalars["round"] = float(state.pool.rounds)

    due = [each for each in reconstruction.guidances if each.is_due(progress)]
    scalars |= fit_step(state, config, due)

    with section("densify"):
        move_faint(state, config, progress.fraction)
        over, chosen = state.pool.is_round_over, config.densify
        if chosen.enabled and over and chosen.start <= progress.fraction <= chosen.stop:
            densify_scene(state, config)
        reset_opacities(state, config)

    return {**scalars, "gaussians": float(len(state.gradients.total))}


def groups_of_fit(config: Config, target: Target, fraction: float, turn: int) -> list[int]:
    """Return which view groups of a target a fit renders: `reconstruct.fit_groups` of them, by turns."""
    n_groups = len(target.cameras) // config.camera.n_views
    size = min(n_groups, round(config.reconstruct.fit_groups(fraction)))
    if size == n_groups:
        return list(range(n_groups))
    return [(turn * size + place) % n_groups for place in range(size)]


def fit_step(
    state: TrainState, config: Config, guidances: Sequence[Guidance] = ()
) -> dict[str, float | Tensor]:
    """Fit the scene to one target of the pool, and return the scalars.

    Args:
        state: changed in place.
        config: the run.
        guidances: asked where the fit renders the first group of the newest target, whose views were chosen for them.
    """
    target, turn = state.pool.take(state.streams["targets"])
    groups = groups_of_fit(config, target, Progress(state.step, config.train.steps).fraction, turn)
    judged = target is state.pool.targets[-1] and groups[0] == 0

    target = target.groups(groups, config.camera.n_views)
    sources: list[GradientSource] = [PixelFit(target, config.reconstruct)]
    if judged:
        sources += [OnFirstGroup(each) for each in guidances]

    return scene_step(
        state, config, target.cameras, target.background, sources, target=target.color
    )


class OnFirstGroup:
    """A guidance that is shown the first view group alone; the others get no gradient from it."""

    def __init__(self, guidance: Guidance) -> None:
        self.guidance, self.name = guidance, guidance.name

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        """Judge the first group of the views."""
        output = self.guidance(views.group(0), progress)
        others = len(views.cameras) - views.n_views
        alpha = output.alpha_gradient
        return replace(
            output,
            color_gradient=_padded(output.color_gradient, others),
            alpha_gradient=None if alpha is None else _padded(alpha, others),
        )


def _padded(gradient: Tensor, others: int) -> Tensor:
    return torch.cat([gradient, gradient.new_zeros((others, *gradient.shape[1:]))])


@dataclass(frozen=True)
class Round:
    """A round that begins: what its pictures are drawn from."""

    views: Views
    """Renders from all around."""
    chain: Chain
    """How the pictures are drawn."""
    progress: Progress
    """Of the run."""
    fits: int
    """Steps that follow."""


def begin_round(
    state: TrainState, config: Config, reconstruction: Reconstruction
) -> dict[str, float | Tensor]:
    """Render views from all around, have them drawn better, and put the pictures into the pool."""
    began = plan_round(state, config, reconstruction)
    drawn = reconstruction.source.draw(began.views, began.chain, began.progress)
    return keep_pictures(state, config, reconstruction, began, *drawn)


@torch.no_grad()
def plan_round(state: TrainState, config: Config, reconstruction: Reconstruction) -> Round:
    """Render the views whose pictures a new round needs."""
    source = reconstruction.source
    progress = Progress(state.step, config.train.steps)
    chain = plan_chain(config, progress, first=not state.pool.targets)

    # Views of which the source, and every guidance that will see them, can judge the first group.
    fits = round(config.reconstruct.fit_steps(progress.fraction))
    ranges = [source.azimuth_range_deg(chain, progress)]
    for step in range(progress.step, progress.step + fits):
        later = Progress(step, progress.steps)
        due = [each for each in reconstruction.guidances if each.is_due(later)]
        ranges += [guidance.azimuth_range_deg(later) for guidance in due]
    groups = round(config.reconstruct.n_groups(progress.fraction))
    camera = config.camera
    cameras = draw_even_cameras(camera, groups, ranges, progress, state.streams["cameras"])
    background = draw_backgrounds(
        camera, progress.fraction, state.streams["backgrounds"], n_groups=groups
    )

    with section("render forward"):
        rendering = draw(state, cameras, config, background)
    background = background.to(rendering.color.device, non_blocking=True)
    views = Views(rendering.color, cameras, camera.n_views, rendering.alpha, background)
    return Round(views, chain, progress, fits)


@torch.no_grad()
def keep_pictures(
    state: TrainState,
    config: Config,
    reconstruction: Reconstruction,
    began: Round,
    pictures: Tensor,
    scalars: Mapping[str, float | Tensor],
) -> dict[str, float | Tensor]:
    """Put the pictures of a round into the pool; return the scalars for the log."""
    views, background = began.views, began.views.background
    assert background is not None

    # What a network could not draw stays as it is.
    sound = pictures.isfinite().flatten(1).all(1)
    shown = resize(views.color, *pictures.shape[1:3])
    pictures = torch.where(sound[:, None, None, None], pictures, shown)
    if config.reconstruct.border_background:
        background = border_colors(pictures)
    side = views.color.shape[1]
    target = Target(views.cameras, resize(pictures, side, side), background)
    state.pool.begin_round(target, began.fits, config.reconstruct.pool)

    name = reconstruction.source.name
    return {f"{name}/{key}": value for key, value in {**scalars, LEFT_OUT: (~sound).sum()}.items()}


def plan_chain(config: Config, progress: Progress, *, first: bool) -> Chain:
    """Return how the pictures of the round that begins now are drawn."""
    settings, fraction = config.reconstruct, progress.fraction
    steps = settings.first_chain_steps if first else round(settings.chain_steps(fraction))
    return Chain(settings.noise_level(fraction), steps, round(settings.candidates(fraction)))

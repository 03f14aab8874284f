"""The critic in front of a random background: the same scene, another colour, and the matching gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gradients import assert_grad_close
from scenes import scene_for, splats
from vlm3d_gs.config import AugmentConfig, CriticConfig
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.critic.augment import replace_background
from vlm3d_gs.critic.guidance import Critic
from vlm3d_gs.critic.questions.templates import Question, content_question
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.optimize.guidance import Progress, Views
from vlm3d_gs.render import render

PROMPT = "a red cube behind a blue sphere"
QUESTION = Question("semantic", content_question("a white cone under a purple torus"))
MID_GREY = torch.full((4, 3), 0.5)
"""The colour that the embedded critic's tower subtracts."""
CAMERAS: Cameras = orbit([0.0, 90.0, 180.0, 270.0], 15.0, 3.0, 40.0, 64, 64)


@pytest.fixture(scope="module")
def model() -> YesNoModel:
    return YesNoModel(embedded_weights("critic"), torch.device("cpu"))


def scene() -> Gaussians:
    return splats(scene_for(PROMPT), n=400)


def views_of(gaussians: Gaussians, background: Tensor) -> Views:
    rendering = render(gaussians, CAMERAS, background=background)
    return Views(rendering.color, CAMERAS, 4, rendering.alpha, background)


def critic_of(model: YesNoModel, *, background: bool) -> Critic:
    config = CriticConfig(
        clip=0.0,
        every=1,
        weight=constant(1.0),
        balance="raw",
        augment=AugmentConfig(background=background),
    )
    return Critic(model, [QUESTION], config, torch.Generator().manual_seed(3))


def test_the_scene_before_another_background_is_what_rendering_it_so_gives() -> None:
    new = torch.tensor([0.9, 0.1, 0.3]).expand(4, 3)
    grey, red = (views_of(scene(), background) for background in (MID_GREY, new))
    assert grey.alpha is not None
    moved = replace_background(grey.color, grey.alpha, MID_GREY, new)
    torch.testing.assert_close(moved, red.color, atol=1e-5, rtol=0.0)
    assert float((grey.color - red.color).abs().max()) > 0.3


def test_gaussians_are_pulled_as_if_the_scene_were_rendered_so(model: YesNoModel) -> None:
    new = torch.rand(1, 3, generator=torch.Generator().manual_seed(3)).expand(4, 3)
    pulls = []
    for background, change in ((MID_GREY, True), (new, False)):
        gaussians = scene().requires_grad_()
        leaves = gaussians.parameters()
        views = views_of(gaussians, background)
        output = critic_of(model, background=change)(views, Progress(0, 1))
        loss = (views.color * output.color_gradient).sum()
        if output.alpha_gradient is not None:
            loss = loss + (views.alpha * output.alpha_gradient).sum()
        pulls.append(torch.autograd.grad(loss, list(leaves.values())))
    for name, ours, theirs in zip(leaves, *pulls, strict=True):
        assert_grad_close(name, ours, theirs, scale=float(theirs.norm()))


def test_the_pull_is_on_the_scene_and_not_on_an_empty_background(model: YesNoModel) -> None:
    shares = {}
    for change in (False, True):
        views = views_of(scene(), MID_GREY)
        assert views.alpha is not None
        covered = views.alpha[..., 0] > 0.05
        assert 0.05 < float(covered.float().mean()) < 0.5
        gradient = critic_of(model, background=change)(views, Progress(0, 1)).color_gradient
        shares[change] = float(gradient[covered].norm() / gradient.norm())
    assert shares[False] < 0.02, "or the background need not be changed"
    assert shares[True] > 0.2

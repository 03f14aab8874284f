"""The critic: one packed pass must give the answers of the published model to each question alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradients import assert_grad_close
from published_answers import reference_log_odds
from vlm3d_gs.config import AugmentConfig, CriticConfig, QuestionConfig
from vlm3d_gs.config.schedules import Schedule, constant
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.prompts import parse_prompt
from vlm3d_gs.critic.guidance import Critic, clip_pixel_gradients, reward_loss
from vlm3d_gs.critic.questions.checklist import prompt_questions
from vlm3d_gs.critic.questions.templates import (
    GEOMETRY_QUESTION,
    VIEW_NAMES,
    Question,
    content_question,
)
from vlm3d_gs.critic.qwen.yes_no import YesNoModel
from vlm3d_gs.mini.critic.model import new_critic, save_processor
from vlm3d_gs.optimize.guidance import Progress, Views

PROMPT = "a red cube on top of a blue sphere"
QUESTIONS = [content_question(PROMPT), GEOMETRY_QUESTION, content_question("a green cone")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained critic with weights large enough that answers differ, in the published layout."""
    path = tmp_path_factory.mktemp("critic")
    model, tokenizer = new_critic(3)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "embed" not in name:
            parameter.data *= 3.0
    model.save_pretrained(path)
    save_processor(path, tokenizer)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> YesNoModel:
    return YesNoModel(folder, torch.device("cpu"))


@pytest.mark.parametrize("n_views", [1, 4])
def test_packed_questions_are_answered_as_if_asked_whole(
    folder: Path, model: YesNoModel, n_views: int, generator: torch.Generator
) -> None:
    images = torch.rand(n_views, 64, 64, 3, generator=generator).requires_grad_()
    together = model.log_odds(images, VIEW_NAMES[:n_views], QUESTIONS)
    alone = torch.stack([reference_log_odds(folder, images, question) for question in QUESTIONS])
    assert together.std() > 1e-2, "answers must differ, or this test could not fail"
    torch.testing.assert_close(together, alone, atol=2e-4, rtol=1e-3)
    (ours,) = torch.autograd.grad(together[0], images, retain_graph=True)
    (theirs,) = torch.autograd.grad(alone[0], images)
    assert ours.abs().max() > 0
    assert_grad_close("images", ours, theirs)


def test_the_names_of_the_views_matter(model: YesNoModel, generator: torch.Generator) -> None:
    images = torch.rand(2, 64, 64, 3, generator=generator)
    named = model.log_odds(images, VIEW_NAMES[:2], QUESTIONS[:1])
    swapped = model.log_odds(images, VIEW_NAMES[1::-1], QUESTIONS[:1])
    assert abs(float(named - swapped)) > 1e-4


@pytest.mark.parametrize("shape", ["logit", "logsigmoid", "probability"])
def test_rewards_grow_with_the_log_odds_and_are_bounded_as_said(shape: str) -> None:
    odds = torch.linspace(-30.0, 30.0, 61, dtype=torch.float64, requires_grad=True)
    loss = reward_loss(odds, shape)
    (slope,) = torch.autograd.grad(loss.sum(), odds)
    assert (slope <= 0).all()
    assert slope.abs().max() <= 1.0
    if shape == "logsigmoid":
        torch.testing.assert_close(loss, -(odds.sigmoid().log()), atol=1e-9, rtol=1e-9)
    if shape == "probability":
        torch.testing.assert_close(loss, (-odds).sigmoid() - odds.sigmoid())


def test_an_unknown_reward_is_refused() -> None:
    with pytest.raises(ConfigError, match="logsigmoid"):
        reward_loss(torch.zeros(1), "tanh")


def test_guidance_reports_each_question_and_a_strength_that_fades_with_yes(
    model: YesNoModel, generator: torch.Generator
) -> None:
    config = CriticConfig(every=3, reuse=False, weight=constant(0.5))
    critic = Critic(
        model, prompt_questions(parse_prompt(PROMPT), QuestionConfig()), config, generator
    )
    assert [step for step in range(7) if critic.is_due(Progress(step, 7))] == [0, 3, 6]
    output = critic(rendered(generator), Progress(0, 1))
    names = ("semantic", "relation", "object_1", "object_2", "geometric")
    assert set(output.scalars) == {*names, "loss", "reward"}
    odds = torch.tensor([output.scalars[name] for name in names])
    weights = torch.tensor([0.125, 0.125, 0.125, 0.125, 0.5])
    expected = 0.5 * 3 * float((weights * (-odds).sigmoid()).sum())
    assert output.relative_strength == pytest.approx(expected, rel=1e-4)
    assert not output.reused


def rendered(generator: torch.Generator, groups: int = 1) -> Views:
    """Random views at named cameras, on the graph."""
    azimuths = [5.0, 95.0, 185.0, 275.0] * groups
    cameras = orbit(azimuths, 15.0, 3.0, 40.0, 64, 64)
    color = torch.rand(4 * groups, 64, 64, 3, generator=generator).requires_grad_()
    return Views(color, cameras, 4)


def test_the_loss_has_the_gradient_of_the_weighted_reward(
    model: YesNoModel, generator: torch.Generator
) -> None:
    config = CriticConfig(clip=0.0, weight=constant(2.0), every=1, balance="raw", reward="logit")
    questions = [Question("a", QUESTIONS[0], 3.0), Question("b", QUESTIONS[1], 1.0)]
    views = rendered(generator, groups=2)
    output = Critic(model, questions, config, generator)(views, Progress(0, 1))
    assert output.relative_strength is None
    names = list(VIEW_NAMES)
    odds = torch.stack(
        [model.log_odds(group, names, QUESTIONS[:2]) for group in views.color.split(4)]
    )
    expected = -2.0 * (0.75 * odds[:, 0] + 0.25 * odds[:, 1]).mean()
    (theirs,) = torch.autograd.grad(expected, views.color)
    loss = 2.0 * float(output.scalars["loss"])
    assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    assert_grad_close("color", output.color_gradient, theirs)


def test_augmented_resized_and_clipped_pictures_still_pull(
    model: YesNoModel, generator: torch.Generator
) -> None:
    config = CriticConfig(
        clip=2.0, size_px=constant(48), augment=AugmentConfig(crop=0.1, color=0.1, resolution=0.8)
    )
    views = rendered(generator)
    output = Critic(model, [Question("a", QUESTIONS[0])], config, generator)(views, Progress(1, 2))
    lengths = output.color_gradient.norm(dim=-1)
    assert 0 < lengths.max() <= 2.01 * lengths.square().mean().sqrt() * 2


def test_reuse_lasts_and_does_not_count_the_interval_twice(
    model: YesNoModel, generator: torch.Generator
) -> None:
    views, questions = rendered(generator), [Question("a", QUESTIONS[0])]
    plain, again = (
        Critic(model, questions, CriticConfig(every=4, reuse=reuse), generator)(
            views, Progress(0, 1)
        )
        for reuse in (False, True)
    )
    assert again.reused
    assert plain.relative_strength == pytest.approx(4 * (again.relative_strength or 0.0))


def test_nothing_is_asked_where_the_reward_has_no_weight(
    model: YesNoModel, generator: torch.Generator
) -> None:
    weight = Schedule("linear", ((0.0, 1.0), (0.5, 0.5), (0.51, 0.0), (1.0, 0.0)))
    config = CriticConfig(every=2, weight=weight)
    critic = Critic(model, [Question("a", QUESTIONS[0])], config, generator)
    assert [step for step in range(12) if critic.is_due(Progress(step, 12))] == [0, 2, 4, 6]


def test_only_pixels_that_stick_out_are_shortened() -> None:
    gradient = torch.zeros(1, 4, 4, 3)
    gradient[0, 0] = 1.0
    gradient[0, 1, 0] = 30.0
    clipped = clip_pixel_gradients(gradient, 1.5)
    usual = ((gradient.norm(dim=-1) ** 2).sum() / 5).sqrt()
    torch.testing.assert_close(clipped[0, 0], gradient[0, 0])
    assert float(clipped[0, 1, 0].norm()) == pytest.approx(1.5 * float(usual), rel=1e-5)
    assert clipped[0, 2:].abs().sum() == 0
    assert torch.equal(clip_pixel_gradients(gradient, 0.0), gradient)

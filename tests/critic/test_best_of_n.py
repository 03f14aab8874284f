"""Noises weighted by a critic without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from small_denoisers import untrained_mini
from vlm3d_gs.config import CriticConfig, PriorConfig
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.residency import Plan
from vlm3d_gs.critic.best_of_n import (
    MIN_SCORE_GAP,
    SINGLE_VIEW_LOOK_AHEAD,
    BestOfN,
    best_of_n_residual,
    pairwise_residual,
)
from vlm3d_gs.optimize.guidance import Progress, Views
from vlm3d_gs.prior.denoiser import TextEmbedding, decode_latents
from vlm3d_gs.prior.guidance import Candidate, DiffusionPrior
from vlm3d_gs.prior.losses import reconstruction_target
from vlm3d_gs.prior.noise import add_noise
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

START = Progress(0, 300)


class Brightness:
    """Likes bright pictures; keeps what it has scored."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, tuple[str, ...]]] = []

    def scores(self, images: torch.Tensor, names: Sequence[str]) -> list[float]:
        means = [float(scene.mean()) for scene in images]
        self.seen += [(mean, tuple(names)) for mean in means]
        return [100.0 * mean for mean in means]


@pytest.fixture(scope="module")
def denoiser() -> TorchDenoiser:
    return untrained_mini()


def prior_of(denoiser: TorchDenoiser, **settings: object) -> DiffusionPrior:
    texts = TextEmbedding(torch.randn(5, 16, 192, generator=torch.Generator().manual_seed(8)))
    config = PriorConfig(t_max=constant(0.6), t_min=constant(0.5), **settings)  # type: ignore[arg-type]
    return DiffusionPrior("prior", denoiser, texts, config, torch.Generator().manual_seed(5))


def views() -> Views:
    generator = torch.Generator().manual_seed(3)
    color = torch.rand(8, 64, 64, 3, generator=generator).requires_grad_()
    return Views(color, orbit([10.0, 100.0, 190.0, 280.0] * 2, 15.0, 3.0, 40.0, 64, 64), 4)


def candidates(count: int) -> list[Candidate]:
    generator = torch.Generator().manual_seed(1)
    return [
        Candidate(*(torch.randn(4, 2, 3, 3, generator=generator) for _ in range(3)))
        for _ in range(count)
    ]


def test_better_noises_weigh_more_in_each_group_by_itself() -> None:
    drawn = candidates(3)
    scores = torch.tensor([[9.0, -5.0], [1.0, -5.0], [1.0, 500.0]])
    residual = best_of_n_residual(drawn, scores, 2)
    weights = torch.softmax(2.0 * (scores - scores.mean(0)) / scores.std(0), 0).repeat_interleave(
        2, 1
    )
    expected = sum(w[:, None, None, None] * p.residual for w, p in zip(weights, drawn, strict=True))
    torch.testing.assert_close(residual, expected)
    assert weights[0, 0] > weights[1, 0]
    same = best_of_n_residual(drawn, torch.zeros(3, 2), 2)
    torch.testing.assert_close(same, torch.stack([p.residual for p in drawn]).mean(0))


def test_of_a_pair_the_better_pulls_and_the_worse_pushes_where_they_differ() -> None:
    first, second = candidates(2)
    scores = torch.tensor([[1.0, 0.0], [0.0, 0.5 * MIN_SCORE_GAP]])
    residual = pairwise_residual([first, second], scores, 2)
    torch.testing.assert_close(residual[:2], (first.residual - second.unguided_residual)[:2])
    torch.testing.assert_close(residual[2:], second.residual[2:])


@pytest.mark.parametrize("loss", ["recon", "sds"])
def test_one_noise_is_the_prior_itself(denoiser: TorchDenoiser, loss: str) -> None:
    rendered = views()
    plain = prior_of(denoiser, loss=loss)(rendered, START)
    prior = prior_of(denoiser, loss=loss)
    latents, timesteps = prior.begin(rendered.color, rendered, 0.0)
    (candidate,) = prior.draw_candidates(latents, timesteps, rendered, 0.0)
    (ours,) = torch.autograd.grad(latents, rendered.color, candidate.residual / len(latents))
    torch.testing.assert_close(ours, plain.color_gradient, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("mode", ["best-of-n", "pairwise"])
def test_due_steps_ask_the_critic_about_named_groups_and_others_do_not(
    denoiser: TorchDenoiser, mode: str
) -> None:
    scorer = Brightness()
    config = CriticConfig(mode=mode, n_noises=3, every=2)  # type: ignore[arg-type]
    ranked = BestOfN(prior_of(denoiser), scorer, config)
    assert ranked.is_due(START)
    assert ranked.azimuth_range_deg(START) is not None
    output = ranked(views(), START)
    assert len(scorer.seen) == 2 * (2 if mode == "pairwise" else 3)
    assert scorer.seen[0][1] == ("Front view", "Right side view", "Back view", "Left side view")
    assert {"loss", "score", "score_spread"} <= set(output.scalars)
    assert ranked.is_due(Progress(1, 300))
    assert ranked.azimuth_range_deg(Progress(1, 300)) is None
    assert "score" not in ranked(views(), Progress(1, 300)).scalars


def test_views_that_are_drawn_alone_are_chosen_alone(denoiser: TorchDenoiser) -> None:
    """Without cameras a noise has no influence on the other views: each view follows its own best noise."""
    scorer, rendered = Brightness(), views()
    config = CriticConfig(mode="best-of-n", n_noises=2, every=1)
    output = BestOfN(prior_of(denoiser, use_cameras=False), scorer, config)(rendered, START)
    sides = ("Front view", "Right side view", "Back view", "Left side view")
    scored = [names for _, names in scorer.seen]
    assert scored == [(name,) for name in 2 * sides for _ in range(2)]  # two noises of each view

    prior = prior_of(denoiser, use_cameras=False)  # with the same noises
    latents, timesteps = prior.begin(rendered.color, rendered, 0.0)
    drawn = prior.draw_candidates(
        latents, timesteps, rendered, 0.0, steps=SINGLE_VIEW_LOOK_AHEAD, count=2
    )
    scores = torch.tensor([value for value, _ in scorer.seen]).reshape(8, 2).T * 100.0
    residual = best_of_n_residual(drawn, scores, 1)
    (expected,) = torch.autograd.grad(latents, rendered.color, residual / len(latents))
    torch.testing.assert_close(output.color_gradient, expected, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("loss", ["recon", "sds"])
def test_a_noise_can_be_followed_further_down(denoiser: TorchDenoiser, loss: str) -> None:
    rendered = views()
    prior = prior_of(denoiser, loss=loss)
    latents, timesteps = prior.begin(rendered.color, rendered, 0.0)
    once, thrice = (
        prior_of(denoiser, loss=loss).draw_candidates(
            latents, timesteps, rendered, 0.0, steps=steps
        )[0]
        for steps in (1, 3)
    )

    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    noise_schedule, predictor = (
        prior.denoiser.noise_schedule,
        prior.predictor(rendered.cameras, 0.0),
    )
    with torch.no_grad():
        noisy = add_noise(noise_schedule, latents.detach(), noise, timesteps)
        for level, after in ((timesteps, timesteps * 2 // 3), (timesteps * 2 // 3, timesteps // 3)):
            prediction = predictor(noisy, level)
            noisy = add_noise(noise_schedule, prediction.clean_pred, prediction.noise_pred, after)
        expected = predictor(noisy, timesteps // 3)
    alike = reconstruction_target(expected, prior.config.rescale, 4)
    if loss == "recon":
        prior_draws = latents.detach() - thrice.residual
        torch.testing.assert_close(prior_draws, alike, atol=1e-4, rtol=1e-3)
        assert not torch.allclose(once.residual, thrice.residual, atol=1e-2)
    else:
        torch.testing.assert_close(once.residual, thrice.residual)
    torch.testing.assert_close(thrice.clean, alike, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("use_cameras", [True, False])
@pytest.mark.parametrize("loss", ["recon", "sds"])
def test_noises_tried_in_one_batch_lead_where_each_would_alone(
    denoiser: TorchDenoiser, loss: str, use_cameras: bool
) -> None:
    rendered = views()

    def drawn(plan: Plan, count: int) -> list[Candidate]:
        settings = {"loss": loss, "use_cameras": use_cameras, "view_prompts": "interpolate"}
        prior = prior_of(replace(denoiser, plan=plan), **settings)
        latents, timesteps = prior.begin(rendered.color, rendered, 0.0)
        batches = range(3 // count)
        return [
            p
            for _ in batches
            for p in prior.draw_candidates(latents, timesteps, rendered, 0.0, count=count)
        ]

    together, alone, in_turn = drawn("full", 3), drawn("full", 1), drawn("sequential", 3)
    assert not torch.allclose(together[0].clean, together[1].clean, atol=1e-2)
    for ours, theirs, frugal in zip(together, alone, in_turn, strict=True):
        for name in ("residual", "unguided_residual", "clean"):
            expected = getattr(theirs, name)
            torch.testing.assert_close(getattr(ours, name), expected, atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(getattr(frugal, name), expected, atol=1e-4, rtol=1e-3)


def test_the_critics_liking_moves_the_scene(denoiser: TorchDenoiser) -> None:
    """Latents that follow a critic of brightness get brighter than those that follow its opposite."""

    class Darkness(Brightness):
        def scores(self, images: torch.Tensor, names: Sequence[str]) -> list[float]:
            return [-score for score in super().scores(images, names)]

    liked = []
    for scorer in (Brightness(), Darkness()):
        prior = prior_of(denoiser)
        latents, timesteps = prior.begin(views().color, views(), 0.0)
        drawn = prior.draw_candidates(latents, timesteps, views(), 0.0, count=6)
        scores = torch.tensor([scorer.scores(torch.stack(decoded(prior, p)), ()) for p in drawn])
        residual = best_of_n_residual(drawn, scores, 4)
        target = Candidate(residual, residual, latents.detach() - residual)
        liked.append(float(torch.cat(decoded(prior, target)).mean()))
    assert liked[0] > liked[1]


def decoded(prior: DiffusionPrior, candidate: Candidate) -> tuple[torch.Tensor, ...]:
    """Pictures of the clean latents, in groups of four views."""
    with torch.no_grad():
        return decode_latents(prior.denoiser, candidate.clean).split(4)


def test_after_its_time_it_is_the_prior_itself(denoiser: TorchDenoiser) -> None:
    scorer = Brightness()
    config = CriticConfig(mode="best-of-n", every=1)
    ranked = BestOfN(prior_of(denoiser), scorer, config, until_step=3)
    late = ranked(views(), Progress(3, 6))
    plain = prior_of(denoiser)(views(), Progress(3, 6))
    assert not scorer.seen
    assert torch.equal(late.color_gradient, plain.color_gradient)


def test_losses_of_several_evaluations_are_refused(denoiser: TorchDenoiser) -> None:
    with pytest.raises(ConfigError, match="recon or sds"):
        BestOfN(prior_of(denoiser, loss="ism"), Brightness(), CriticConfig(mode="pairwise"))


@pytest.mark.parametrize("mode", ["best-of-n", "pairwise"])
def test_without_an_answer_the_noises_count_alike_and_no_score_is_logged(
    denoiser: TorchDenoiser, mode: str
) -> None:
    class Silent:
        def scores(self, images: torch.Tensor, names: Sequence[str]) -> None:
            return None

    class Even:
        def scores(self, images: torch.Tensor, names: Sequence[str]) -> list[float]:
            return [1.0] * len(images)

    config = CriticConfig(mode=mode, n_noises=2)  # type: ignore[arg-type]
    silent = BestOfN(prior_of(denoiser), Silent(), config)(views(), START)
    even = BestOfN(prior_of(denoiser), Even(), config)(views(), START)
    assert torch.equal(silent.color_gradient, even.color_gradient)
    assert "score" not in silent.scalars
    assert "score" in even.scalars

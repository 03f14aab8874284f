"""Targets that a critic chooses, and chains that follow its reward."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from small_denoisers import untrained_mini
from vlm3d_gs.config import PriorConfig
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.critic import targets as critic_targets
from vlm3d_gs.critic.questions.templates import VIEW_NAMES
from vlm3d_gs.critic.targets import CriticTargets
from vlm3d_gs.optimize.guidance import GuidanceOutput, Progress, Views
from vlm3d_gs.optimize.targets import Chain
from vlm3d_gs.prior.denoiser import TextEmbedding
from vlm3d_gs.prior.guidance import DiffusionPrior
from vlm3d_gs.prior.targets import PriorTargets
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

START = Progress(0, 10)


class Brightness:
    """Likes bright pictures, as a scorer and as a guidance; keeps what it was shown."""

    name = "critic"

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Tensor, tuple[str, ...]]] = []
        self.steps: list[torch.Tensor] = []

    def scores(self, images: torch.Tensor, names: Sequence[str]) -> list[float]:
        self.seen.append((images, tuple(names)))
        return [float(scene.mean()) for scene in images]

    def is_due(self, progress: Progress) -> bool:
        return True

    def azimuth_range_deg(self, progress: Progress) -> tuple[float, float] | None:
        return (-20.0, 20.0)

    def __call__(self, views: Views, progress: Progress) -> GuidanceOutput:
        self.steps.append(views.color)
        return GuidanceOutput(-torch.ones_like(views.color), {}, relative_strength=1.0)

    def state_tensors(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        pass


@pytest.fixture(scope="module")
def denoiser() -> TorchDenoiser:
    return untrained_mini()


def targets_of(denoiser: TorchDenoiser, **settings: object) -> PriorTargets:
    texts = TextEmbedding(torch.randn(2, 16, 192, generator=torch.Generator().manual_seed(8)))
    config = PriorConfig(guidance_scale=constant(2.0), **settings)  # type: ignore[arg-type]
    prior = DiffusionPrior("prior", denoiser, texts, config, torch.Generator().manual_seed(5))
    return PriorTargets(prior)


def views() -> Views:
    color = torch.rand(8, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    return Views(color, orbit([10.0, 100.0, 190.0, 280.0] * 2, 15.0, 3.0, 40.0, 64, 64), 4)


def test_the_first_group_keeps_its_best_chain_and_the_others_are_drawn_once(
    denoiser: TorchDenoiser,
) -> None:
    scorer = Brightness()
    source = CriticTargets(targets_of(denoiser), scorer)
    images, scalars = source.draw(views(), Chain(noise_level=0.8, steps=2, candidates=3), START)
    assert images.shape == (8, 64, 64, 3)
    ((candidates, names),) = scorer.seen
    assert names == VIEW_NAMES
    assert candidates.shape == (3, 4, 64, 64, 3)
    best = max(candidates, key=lambda scene: float(scene.mean()))
    assert torch.equal(images[:4], best)
    assert scalars["score_spread"] > 0.0

    # The second group is the one that the prior draws alone from its renders, with the noises that follow.
    plain = targets_of(denoiser)
    plain.candidates(views().group(0), Chain(0.8, 2, 1), START, count=3)
    alone, _ = plain.draw(views().group(1), Chain(0.8, 2, 1), START)
    assert torch.equal(images[4:], alone)


def test_views_that_are_drawn_alone_are_chosen_alone(denoiser: TorchDenoiser) -> None:
    scorer = Brightness()
    source = CriticTargets(targets_of(denoiser, use_cameras=False), scorer)
    source.draw(views(), Chain(0.8, 1, 2), START)
    assert [names for _, names in scorer.seen] == [(name,) for name in VIEW_NAMES]


def test_without_a_choice_nobody_is_asked_and_any_view_will_do(denoiser: TorchDenoiser) -> None:
    scorer = Brightness()
    source = CriticTargets(targets_of(denoiser), scorer)
    single, several = Chain(0.8, 2, 1), Chain(0.8, 2, 3)
    assert source.azimuth_range_deg(single, START) is None
    assert source.azimuth_range_deg(several, START) is not None
    pictures, _ = source.draw(views(), single, START)
    assert not scorer.seen
    plain, _ = targets_of(denoiser).draw(views(), single, START)
    assert torch.equal(pictures, plain)

    # Without a scorer there is one chain, whatever the schedule says.
    alone = CriticTargets(targets_of(denoiser))
    assert alone.azimuth_range_deg(several, START) is None
    assert torch.equal(alone.draw(views(), several, START)[0], plain)


def test_chains_that_follow_the_reward_end_where_it_is_higher(denoiser: TorchDenoiser) -> None:
    critic, chain = Brightness(), Chain(0.8, 3, 1)
    bent = CriticTargets(targets_of(denoiser), None, critic, constant(0.2))
    assert bent.azimuth_range_deg(chain, START) is not None
    pictures, _ = bent.draw(views(), chain, START)
    plain, _ = targets_of(denoiser).draw(views(), chain, START)
    assert float(pictures[:4].mean()) > 1.5 * float(plain[:4].mean())
    assert [tuple(each.shape) for each in critic.steps] == [(4, 64, 64, 3)] * 3


def test_pure_noise_owes_nothing_to_the_renders(denoiser: TorchDenoiser) -> None:
    dark = Views(torch.zeros_like(views().color), views().cameras, 4)
    for level, equal in ((1.0, True), (0.6, False)):
        chain = Chain(level, 2, 1)
        ours, _ = targets_of(denoiser).draw(views(), chain, START)
        theirs, _ = targets_of(denoiser).draw(dark, chain, START)
        assert torch.equal(ours, theirs) == equal


def test_candidates_in_one_batch_are_those_drawn_one_by_one(denoiser: TorchDenoiser) -> None:
    chain = Chain(0.7, 2, 1)
    together = targets_of(denoiser).candidates(views(), chain, START, count=2)
    source = targets_of(denoiser)
    alone = [source.candidates(views(), chain, START, count=1)[0] for _ in range(2)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-4, rtol=1e-3)


def test_without_an_answer_the_first_chain_is_kept_and_no_score_is_logged(
    denoiser: TorchDenoiser,
) -> None:
    class Silent:
        def scores(self, images: torch.Tensor, names: Sequence[str]) -> None:
            return None

    chain = Chain(0.8, 1, 2)
    for cameras in (True, False):
        source = CriticTargets(targets_of(denoiser, use_cameras=cameras), Silent())
        pictures, scalars = source.draw(views(), chain, START)
        first = targets_of(denoiser, use_cameras=cameras)
        (expected, _) = first.candidates(views().group(0), chain, START, count=2)
        assert torch.equal(pictures[:4], expected)
        assert "score" not in scalars


def test_where_larger_batches_are_free_all_chains_of_a_round_share_one(
    denoiser: TorchDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    evaluate = TorchDenoiser.evaluate

    def counted(self: TorchDenoiser, noisy: torch.Tensor, *others: object) -> torch.Tensor:
        batches.append(len(noisy))
        return evaluate(self, noisy, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(TorchDenoiser, "evaluate", counted)
    drawn = []
    for noise_level in (1.0, 0.5):
        for free in (False, True):
            monkeypatch.setattr(critic_targets, "larger_batches_are_free", lambda _, f=free: f)
            source = CriticTargets(targets_of(denoiser), Brightness())
            drawn.append(source.draw(views(), Chain(noise_level, 1, 3), START))
    # Two branches of three candidates and one other group, of four views each.
    assert batches == [24, 8, 32] * 2
    for (apart, scores), (together, same_scores) in (drawn[:2], drawn[2:]):
        torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
        assert scores == pytest.approx(same_scores, abs=1e-5)

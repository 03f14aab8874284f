"""A prior as a guidance: every loss, the branches it runs, and what a checkpoint keeps of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from small_denoisers import untrained_mini
from vlm3d_gs.assembly.priors import build_prior
from vlm3d_gs.config import PriorConfig
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError, ShapeError
from vlm3d_gs.core.residency import Plan
from vlm3d_gs.models import embedded_weights
from vlm3d_gs.optimize.guidance import Progress, Views
from vlm3d_gs.prior.conditioning import prompt_texts
from vlm3d_gs.prior.denoiser import TextEmbedding, resized, run_branches, run_network
from vlm3d_gs.prior.guidance import DiffusionPrior
from vlm3d_gs.prior.lora import ScoreAdapter
from vlm3d_gs.prior.losses import LOSSES
from vlm3d_gs.prior.multiview import join_views
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

CAMERAS = orbit([10.0, 100.0, 190.0, 280.0], 15.0, 3.0, 40.0, 64, 64)


@pytest.fixture(scope="module")
def denoiser() -> TorchDenoiser:
    return untrained_mini()


@pytest.fixture
def texts() -> TextEmbedding:
    """Negative prompt and four versions of a prompt."""
    return TextEmbedding(torch.randn(5, 16, 192, generator=torch.Generator().manual_seed(8)))


@pytest.fixture
def color(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(4, 64, 64, 3, generator=generator).requires_grad_()


def settings(**values: object) -> PriorConfig:
    if values.get("loss") in ("ism", "sdi"):
        values = {"inversion_steps": 2} | values
    plain = PriorConfig(t_max=constant(0.5), t_min=constant(0.2))
    return replace(plain, **values)  # type: ignore[arg-type]


def prior_of(denoiser: TorchDenoiser, texts: TextEmbedding, config: PriorConfig) -> DiffusionPrior:
    adapter = (
        ScoreAdapter(denoiser, rank=2, lr=1e-2, seed=3) if LOSSES[config.loss].trains_lora else None
    )
    count = len(prompt_texts("a cube", config))
    rows = texts.rows([number % len(texts) for number in range(count)])
    return DiffusionPrior(
        "prior", denoiser, rows, config, torch.Generator().manual_seed(5), adapter
    )


def gradient_of(prior: DiffusionPrior, color: torch.Tensor) -> torch.Tensor:
    return prior(Views(color, CAMERAS, 4), Progress(0, 1)).color_gradient


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_moves_every_view_and_repeats_itself(
    denoiser: TorchDenoiser, texts: TextEmbedding, color: torch.Tensor, loss: str
) -> None:
    gradients = []
    for _ in range(2):
        prior = prior_of(denoiser, texts, settings(loss=loss))
        gradients.append(gradient_of(prior, color))
        if prior.adapter is not None:
            prior.adapter.remove()
    assert torch.isfinite(gradients[0]).all()
    assert (gradients[0].flatten(1).norm(dim=1) > 0).all()
    assert torch.equal(gradients[0], gradients[1])


def test_the_order_of_channels_in_memory_changes_rounding_alone(color: torch.Tensor) -> None:
    gradients = []
    for channels_last in (False, True):
        prior = build_prior(
            "prior",
            "a red cube",
            replace(PriorConfig(), channels_last=channels_last),
            embedded_weights("prior"),
            torch.device("cpu"),
            torch.Generator().manual_seed(5),
        )
        weight = prior.denoiser.network.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        gradients.append(gradient_of(prior, color))
    cosine = torch.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), 0)
    assert 0.999 < float(cosine)
    assert float((gradients[0] - gradients[1]).norm()) < 0.05 * float(gradients[0].norm())


def test_a_compiled_network_is_compiled_once_and_has_the_same_gradient(
    texts: TextEmbedding, color: torch.Tensor
) -> None:
    denoiser, frames = untrained_mini(), CompileCounter()
    plain = gradient_of(prior_of(denoiser, texts, settings()), color)
    denoiser.network.compile(backend=frames)
    prior = prior_of(denoiser, texts, settings())
    torch.testing.assert_close(gradient_of(prior, color), plain)
    at_first = frames.frame_count
    for _ in range(2):
        gradient_of(prior, color)
    assert frames.frame_count == at_first > 0


@pytest.mark.parametrize("plan", ["offload", "sequential"])
def test_a_frugal_memory_plan_has_the_same_gradient(
    denoiser: TorchDenoiser, texts: TextEmbedding, color: torch.Tensor, plan: Plan
) -> None:
    plain = gradient_of(prior_of(denoiser, texts, settings()), color)
    frugal = gradient_of(prior_of(replace(denoiser, plan=plan), texts, settings()), color)
    assert (
        frugal - plain
    ).norm() < 1e-4 * plain.norm()  # one branch or two in a batch: sums in another order


def test_the_weight_schedule_scales_the_pull(
    denoiser: TorchDenoiser, texts: TextEmbedding, color: torch.Tensor
) -> None:
    plain = gradient_of(prior_of(denoiser, texts, settings()), color)
    halved = gradient_of(prior_of(denoiser, texts, settings(weight=constant(0.5))), color)
    torch.testing.assert_close(halved, 0.5 * plain)


@pytest.mark.parametrize("loss", LOSSES)
def test_at_scale_1_the_prompt_runs_alone_and_has_the_same_gradient(
    denoiser: TorchDenoiser,
    texts: TextEmbedding,
    color: torch.Tensor,
    loss: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    branches: list[int] = []

    def counted(*arguments: object) -> torch.Tensor:
        branches.append(len(arguments[3]))  # type: ignore[arg-type]
        return run_branches(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("vlm3d_gs.prior.conditioning.run_branches", counted)
    gradients = []
    for scale in (1.0, 1.0 + 1e-6):
        prior = prior_of(denoiser, texts, settings(loss=loss, guidance_scale=constant(scale)))
        branches.clear()
        gradients.append(gradient_of(prior, color))
        if prior.adapter is not None:
            prior.adapter.remove()
        spared = scale == 1.0 and loss in ("recon", "sds", "vsd")
        assert max(branches) == (1 if spared else 2)
    if (
        loss != "vsd"
    ):  # an untrained LoRA differs from the model by rounding alone, and so would the gradients
        assert (gradients[0] - gradients[1]).norm() < 2e-3 * gradients[1].norm()


def test_view_prompts_change_only_the_cameras_they_name(
    denoiser: TorchDenoiser, texts: TextEmbedding
) -> None:
    join_views(denoiser.network, 1)
    alone = settings(use_cameras=False, view_prompts="hard")
    prior = prior_of(denoiser, texts, alone)
    other = texts.tokens.clone()
    other[3] += 1.0  # the back
    changed = prior_of(denoiser, TextEmbedding(other), alone)
    noisy = torch.randn(4, 12, 16, 16, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((4,), 400)
    moved = (
        prior.predictor(CAMERAS, 0.0)(noisy, timesteps).clean_pred
        - changed.predictor(CAMERAS, 0.0)(noisy, timesteps).clean_pred
    )
    sizes = moved.abs().amax((1, 2, 3))
    assert sizes[2] > 1e-3
    assert (sizes[[0, 1, 3]] < 1e-6).all()


def test_perp_neg_asks_the_other_views_too(denoiser: TorchDenoiser, texts: TextEmbedding) -> None:
    join_views(denoiser.network, 1)
    config = settings(use_cameras=False, view_prompts="interpolate", guidance_scale=constant(5.0))
    noisy = torch.randn(4, 12, 16, 16, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((4,), 400)
    plain = prior_of(denoiser, texts, config).predictor(CAMERAS, 0.0)(noisy, timesteps)
    pushed = prior_of(denoiser, texts, replace(config, perp_neg=True)).predictor(CAMERAS, 0.0)(
        noisy, timesteps
    )
    torch.testing.assert_close(plain.clean_pred_text, pushed.clean_pred_text)
    assert (plain.clean_pred - pushed.clean_pred).abs().max() > 1e-3


def test_without_cameras_each_view_is_asked_alone_with_zeros(
    denoiser: TorchDenoiser, texts: TextEmbedding, color: torch.Tensor
) -> None:
    prior = prior_of(denoiser, texts, settings(use_cameras=False, guidance_scale=constant(1.0)))
    changed = color.detach().clone()
    changed[1] = 0.0
    first, second = gradient_of(prior, color), None
    prior = prior_of(denoiser, texts, settings(use_cameras=False, guidance_scale=constant(1.0)))
    second = gradient_of(prior, changed.requires_grad_())
    assert torch.equal(first[[0, 2, 3]], second[[0, 2, 3]])
    noisy = torch.randn(4, 12, 16, 16, generator=torch.Generator().manual_seed(0))
    timesteps = torch.full((4,), 300)
    prediction = prior.predictor(CAMERAS, 0.0)(noisy, timesteps).clean_pred
    raw = run_network(denoiser, noisy, timesteps, texts.rows([1] * 4), torch.zeros(4, 16))
    signal, sigma = denoiser.noise_schedule.levels(timesteps)
    torch.testing.assert_close(prediction, signal * noisy - sigma * raw, atol=1e-4, rtol=1e-4)


def test_sdi_finds_its_noise_instead_of_drawing_it(
    denoiser: TorchDenoiser, texts: TextEmbedding, color: torch.Tensor
) -> None:
    config = settings(loss="sdi", t_max=constant(0.5), t_min=constant(0.5))
    gradients = []
    for seed in (1, 2):
        prior = prior_of(denoiser, texts, config)
        prior.generator.manual_seed(seed)
        gradients.append(gradient_of(prior, color))
    assert torch.equal(gradients[0], gradients[1])


def test_timesteps_walk_down_when_asked_to(denoiser: TorchDenoiser, texts: TextEmbedding) -> None:
    config = settings(timesteps="descend", t_max=constant(0.98), t_min=constant(0.02))
    prior = prior_of(denoiser, texts, config)
    color = torch.rand(4, 64, 64, 3).requires_grad_()
    at = [prior(Views(color, CAMERAS, 4), Progress(step, 2)).scalars["t"] for step in range(3)]
    assert at == pytest.approx([980.0, 500.0, 20.0], abs=1.0)


def test_a_lora_survives_its_checkpoint(
    denoiser: TorchDenoiser, texts: TextEmbedding, color: torch.Tensor
) -> None:
    prior = prior_of(denoiser, texts, settings(loss="vsd"))
    for _ in range(2):
        gradient_of(prior, color)
    kept, stream = prior.state_tensors(), prior.generator.get_state()
    expected = gradient_of(prior, color)
    assert prior.adapter is not None
    prior.adapter.remove()
    again = prior_of(denoiser, texts, settings(loss="vsd"))
    again.load_state_tensors(kept)
    again.generator.set_state(stream)
    assert torch.equal(gradient_of(again, color), expected)
    assert again.adapter is not None
    again.adapter.remove()


def test_misfits_are_refused(
    denoiser: TorchDenoiser, texts: TextEmbedding, color: torch.Tensor
) -> None:
    prior = prior_of(denoiser, texts, settings())
    with pytest.raises(ShapeError, match="groups of 3"):
        prior(Views(color, CAMERAS, 3), Progress(0, 1))
    with pytest.raises(ShapeError, match="multiples of 4"):
        prior(Views(color[:, :63, :63], CAMERAS, 4), Progress(0, 1))
    with pytest.raises(ConfigError, match="view_prompts"):
        settings(perp_neg=True)
    with pytest.raises(ConfigError, match="view_prompts"):
        settings(debias_prompt=True)


def test_resizing_keeps_flat_pictures_and_their_mean(generator: torch.Generator) -> None:
    flat = torch.full((2, 64, 64, 3), 0.3)
    torch.testing.assert_close(resized(flat, 32), flat[:, :32, :32])
    noisy = torch.rand(1, 64, 64, 3, generator=generator)
    assert float(resized(noisy, 32).mean()) == pytest.approx(float(noisy.mean()), abs=2e-3)
    assert resized(noisy, 64) is noisy
    assert resized(noisy, None) is noisy

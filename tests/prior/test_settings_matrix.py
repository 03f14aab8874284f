"""Every setting of a prior beside every loss: it changes the gradient, or it is refused by name.

A setting that is accepted and not read would let somebody believe in a comparison that was never made.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderTiny

from small_denoisers import WIDTH, make
from vlm3d_gs.assembly.objective import check_mode
from vlm3d_gs.config import CriticConfig, PriorConfig, apply_settings
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.schedules import constant
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.critic.best_of_n import BestOfN
from vlm3d_gs.optimize.guidance import Guidance, Progress, Views
from vlm3d_gs.prior.conditioning import prompt_texts
from vlm3d_gs.prior.denoiser import TextEmbedding
from vlm3d_gs.prior.guidance import DiffusionPrior
from vlm3d_gs.prior.lora import ScoreAdapter
from vlm3d_gs.prior.losses import LOSSES
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

CAMERAS = orbit([15.0, 105.0, 195.0, 285.0], 15.0, 3.0, 40.0, 8, 8)
SETTINGS: dict[str, dict[str, object]] = {
    "perp_neg": {"perp_neg": True},
    "rescale": {"rescale": 0.5},
    "guidance_scale": {"guidance_scale": constant(3.0)},
    "score_clip": {"score_clip": constant(1e-3)},
    "weighting": {"weighting": "fantasia3d"},
    "reduction": {"reduction": "sum"},
    "negative_prompt": {"negative_prompt": "ugly"},
    "inversion_interval": {"inversion_interval": constant(0.2)},
    "inversion_prompt": {"inversion_prompt": "negative"},
    "inversion_steps": {"inversion_steps": 3},
    "lora_rank": {"lora_rank": 2},
    "lora_lr": {"lora_lr": 0.1},
    "offset_noise": {"offset_noise": 0.5},
    "shared_timestep": {"shared_timestep": True},
    "view_prompts": {"view_prompts": "off"},
    "size_px": {"size_px": 16},
}
REFUSED = {
    *(
        (loss, name)
        for loss in LOSSES
        if loss != "ism"
        for name in ("inversion_interval", "inversion_prompt")
    ),
    *((loss, "inversion_steps") for loss in LOSSES if loss not in ("ism", "sdi")),
    *((loss, name) for loss in LOSSES if loss != "vsd" for name in ("lora_rank", "lora_lr")),
}
BARELY_MOVED = {("ism", "offset_noise"), ("vsd", "lora_rank")}
"""ISM's noise reaches the lowest of the noise levels alone; a LoRA has hardly learnt anything in its second step."""


@pytest.fixture(scope="module")
def denoiser() -> TorchDenoiser:
    return make("sd")


@pytest.fixture(scope="module")
def color() -> torch.Tensor:
    return torch.rand(4, 8, 8, 3, generator=torch.Generator().manual_seed(1))


def config_of(loss: str, **values: object) -> PriorConfig:
    common: dict[str, object] = {
        "loss": loss,
        "family": "sd",
        "view_prompts": "hard",
        "guidance_scale": constant(2.0),
        "t_max": constant(0.7),
        "t_min": constant(0.4),
    }
    return PriorConfig(**(common | values))  # type: ignore[arg-type]


def embedded(config: PriorConfig) -> TextEmbedding:
    """A different embedding for each text."""
    rows = []
    for text in prompt_texts("a cube", config):
        seed = sum(text.encode()) + 1
        rows.append(torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(seed)))
    return TextEmbedding(torch.stack(rows))


def gradient(
    denoiser: TorchDenoiser, color: torch.Tensor, config: PriorConfig, steps: int = 1
) -> torch.Tensor:
    adapter = None
    if config.loss == "vsd":
        adapter = ScoreAdapter(denoiser, rank=config.lora_rank, lr=config.lora_lr, seed=3)
    generator = torch.Generator().manual_seed(5)
    prior = DiffusionPrior("prior", denoiser, embedded(config), config, generator, adapter)
    try:
        for _ in range(steps):  # a LoRA acts from its second step on
            found = prior(Views(color, CAMERAS, 4), Progress(0, 1)).color_gradient
        return found
    finally:
        if adapter is not None:
            adapter.remove()


@pytest.mark.parametrize("loss", LOSSES)
def test_each_setting_changes_the_gradient_or_is_refused(
    denoiser: TorchDenoiser, color: torch.Tensor, loss: str
) -> None:
    steps = 2 if loss == "vsd" else 1
    plain = gradient(denoiser, color, config_of(loss), steps)
    for name, change in SETTINGS.items():
        changes = dict(change)
        if (loss, name) in REFUSED:
            with pytest.raises(
                ConfigError, match=f"prior.{name} is .* prior.loss {loss} does not read"
            ):
                config_of(loss, **changes)
            continue

        before = plain
        if name == "inversion_prompt":
            before = gradient(denoiser, color, config_of(loss, negative_prompt="ugly"), steps)
            changes |= {"negative_prompt": "ugly"}
        changed = gradient(denoiser, color, config_of(loss, **changes), steps)
        assert torch.isfinite(changed).all(), name
        relative = float((changed - before).norm() / before.norm())
        if (loss, name) == ("sdi", "offset_noise"):
            assert relative == 0.0
        else:
            assert relative > (1e-6 if (loss, name) in BARELY_MOVED else 1e-3), (name, relative)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_choice_among_noises_changes_the_gradient_or_is_refused(
    denoiser: TorchDenoiser, color: torch.Tensor, loss: str
) -> None:
    settings, views = config_of(loss), Views(color, CAMERAS, 4)
    if not LOSSES[loss].can_rank:  # type: ignore[index]
        for mode in ("both", "best-of-n", "pairwise"):
            with pytest.raises(ConfigError, match=f"critic.mode '{mode}' .* got prior.loss={loss}"):
                check_mode(CriticConfig(mode=mode), settings, "distill")
        return

    def found(**values: object) -> torch.Tensor:
        generator = torch.Generator().manual_seed(5)
        prior = DiffusionPrior("prior", denoiser, embedded(settings), settings, generator)
        guidance: Guidance = BestOfN(prior, Brightness(), CriticConfig(**values))  # type: ignore[arg-type]
        return guidance(views, Progress(0, 10)).color_gradient

    plain = found(mode="best-of-n", n_noises=2, look_ahead=1)
    assert not torch.equal(found(mode="best-of-n", n_noises=3, look_ahead=1), plain)
    assert not torch.equal(found(mode="best-of-n", n_noises=2, look_ahead=3), plain)
    assert not torch.equal(found(mode="pairwise", look_ahead=1), plain)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "vsd"])
def test_a_lora_beside_a_loss_that_trains_none_is_refused(
    denoiser: TorchDenoiser, loss: str
) -> None:
    adapter = ScoreAdapter(denoiser, rank=2, seed=3)
    config = config_of(loss)
    try:
        with pytest.raises(ConfigError, match="trains no LoRA"):
            DiffusionPrior("prior", denoiser, embedded(config), config, torch.Generator(), adapter)
    finally:
        adapter.remove()


@pytest.mark.parametrize("loss", LOSSES)
def test_another_autoencoder_changes_the_gradient(
    denoiser: TorchDenoiser, color: torch.Tensor, loss: str
) -> None:
    torch.manual_seed(2)
    other = AutoencoderTiny(
        encoder_block_out_channels=(4,),
        decoder_block_out_channels=(4,),
        num_encoder_blocks=(1,),
        num_decoder_blocks=(1,),
    )
    other.register_to_config(block_out_channels=(4,))
    other.requires_grad_(False).eval()
    config = config_of(loss)
    assert not torch.equal(
        gradient(replace(denoiser, vae=other), color, config), gradient(denoiser, color, config)
    )


def test_settings_of_several_parts_are_read_together() -> None:
    """An order of options in which the first alone would be refused."""
    config = apply_settings(
        preset("mini", "a red cube"), {}, ["prior.inversion_steps=3", "prior.loss=ism"]
    )
    assert config.prior.inversion_steps == 3


def test_no_preset_has_a_critic_that_compares_noises_of_a_loss_without() -> None:
    for name in ("sd", "sdxl"):
        config = preset(name, "a red cube")
        check_mode(replace(config.critic, enabled=True), config.prior, config.train.loop)


class Brightness:
    """A scorer that likes bright pictures."""

    def scores(self, images: torch.Tensor, names: object) -> list[float]:
        return [float(scene.mean()) * 100.0 for scene in images]

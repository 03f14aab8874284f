"""Small real networks of every family with random weights, and a batch of four views for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel

from vlm3d_gs.core.cameras import mvdream_camera_matrices, orbit
from vlm3d_gs.mini.prior.train import new_prior
from vlm3d_gs.mini.prior.train_vae import prepared_codec
from vlm3d_gs.prior.denoiser import TextEmbedding, run_network
from vlm3d_gs.prior.lora import ScoreAdapter
from vlm3d_gs.prior.noise import NoiseSchedule, diffusion_schedule, flow_schedule
from vlm3d_gs.prior.torch_denoiser import TorchDenoiser

WIDTH = 8  # of a text token
POOLED = 6


def untrained_mini() -> TorchDenoiser:
    """The embedded prior's architecture, untrained, with weights large enough to see."""
    prior, codec = new_prior(1), prepared_codec(1)
    torch.nn.init.normal_(prior.unet.conv_out.weight, std=0.05)
    for network in (prior.unet, codec):
        network.requires_grad_(False).eval()
    noise_schedule = diffusion_schedule(prior.scheduler.alphas_cumprod, "v_prediction")
    return TorchDenoiser(prior.unet, codec, noise_schedule, None)


def unet(**changes: object) -> UNet2DConditionModel:
    settings: dict[str, object] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
    }
    return UNet2DConditionModel(**(settings | changes))


def multiview_unet() -> UNet2DConditionModel:
    return unet(class_embed_type="projection", projection_class_embeddings_input_dim=16)


def sdxl_unet() -> UNet2DConditionModel:
    return unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=2,
        projection_class_embeddings_input_dim=POOLED + 6 * 2,
    )


def sd3_transformer() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=POOLED,
        out_channels=4,
        pos_embed_max_size=8,
    )


NETWORKS: dict[str, Callable[[], UNet2DConditionModel | SD3Transformer2DModel]] = {
    "sd": unet,
    "multiview": multiview_unet,
    "sdxl": sdxl_unet,
    "sd3": sd3_transformer,
}


def noise_schedule_of(kind: str) -> NoiseSchedule:
    if kind == "flow_prediction":
        return flow_schedule(100, 3.0)
    return diffusion_schedule(torch.linspace(0.999, 0.01, 100), kind)


def make(family: str, kind: str = "epsilon") -> TorchDenoiser:
    """The same weights at every call."""
    torch.manual_seed(3)
    network = NETWORKS[family]().requires_grad_(False).eval()
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=4)
    return TorchDenoiser(network, vae, noise_schedule_of(kind), None)


class Batch:
    """Latents of four views of one object, with everything a network wants beside them."""

    def __init__(self, channels: int = 4, width: int = WIDTH, side: int = 8) -> None:
        generator = torch.Generator().manual_seed(7)
        self.clean, self.noise, self.noisy = (
            torch.randn(4, channels, side, side, generator=generator) for _ in range(3)
        )
        self.timesteps = torch.tensor([20, 50, 70, 99])
        self.text = TextEmbedding(
            torch.randn(4, 5, width, generator=generator),
            torch.randn(4, POOLED, generator=generator),
        )
        views = orbit([0.0, 90.0, 180.0, 270.0], 15.0, 3.0, 40.0, 64, 64)
        self.camera_matrices = mvdream_camera_matrices(views).flatten(1).float()

    def text_for(self, denoiser: TorchDenoiser) -> TextEmbedding:
        pooled = (
            denoiser.network.config.get("addition_embed_type") == "text_time"
            or "pooled_projection_dim" in denoiser.network.config
        )
        return self.text if pooled else TextEmbedding(self.text.tokens)

    def base(self, denoiser: TorchDenoiser) -> torch.Tensor:
        camera_matrices = self.camera_matrices if denoiser.is_multiview else None
        with torch.no_grad():
            return run_network(
                denoiser, self.noisy, self.timesteps, self.text_for(denoiser), camera_matrices
            ).clone()

    def adapted(
        self, adapter: ScoreAdapter, camera_matrices: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if camera_matrices is None:
            camera_matrices = self.camera_matrices
        text = self.text_for(adapter.denoiser)
        return adapter.predict_noise(self.noisy, self.timesteps, text, camera_matrices)

    def train(self, adapter: ScoreAdapter, steps: int, seed: int = 5) -> list[float]:
        generator = torch.Generator().manual_seed(seed)
        text = self.text_for(adapter.denoiser)
        return [
            adapter.train_step(self.clean, text, self.camera_matrices, generator)
            for _ in range(steps)
        ]

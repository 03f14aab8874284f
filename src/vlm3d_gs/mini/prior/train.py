"""Training of the embedded multi-view diffusion prior: as MVDream, at toy size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from vlm3d_gs.mini.language import PROMPT_TOKENS, prior_tokenizer
from vlm3d_gs.mini.prior.codec import LATENT_CHANNELS
from vlm3d_gs.mini.prior.data import sample_batch, step_rng
from vlm3d_gs.mini.prior.train_vae import channels_first
from vlm3d_gs.mini.training import Scalars, TrainingPlan, fit, mixed_precision
from vlm3d_gs.mini.world.scenes import IMAGE_PX, N_VIEWS
from vlm3d_gs.prior.multiview import join_views
from vlm3d_gs.prior.noise import add_noise, diffusion_schedule, training_target

PLAN = TrainingPlan(steps=6_400, lr=6e-4, warmup_steps=300)
TEXT_WIDTH = 192
NOISE_SHIFT = 4.0
"""Factor on the ratio of noise to signal at every timestep (Hoogeboom et al. 2023, simple diffusion, section 2.1)."""
CAMERA_SHARPNESS = 20.0
"""How sharply the hidden units of the camera embedding respond to their direction of view."""
DROP_TEXT = 0.1
"""Fraction of scenes trained without their prompt, for classifier-free guidance."""
CAMERALESS_EVERY = 6
"""Every k-th step trains single views without cameras, like MVDream's two-dimensional batches."""


@dataclass(frozen=True)
class Prior:
    """The trained components of the diffusion pipeline."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: PreTrainedTokenizerFast
    scheduler: DDIMScheduler


def new_prior(seed: int) -> Prior:
    """Return the untrained prior; 9.5 M parameters."""
    torch.manual_seed(seed)
    tokenizer = prior_tokenizer()

    unet = UNet2DConditionModel(
        sample_size=IMAGE_PX // 4,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 192),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=3,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=16,
        use_linear_projection=True,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=PROMPT_TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )

    nn.init.zeros_(unet.conv_out.weight)
    spread_camera_features(unet)
    return Prior(unet, text_encoder, tokenizer, new_scheduler())


def spread_camera_features(unet: UNet2DConditionModel) -> None:
    """Initialise the camera embedding with hidden units that each respond near one direction of view.

    A cube looks the same every 90 degrees, so its outline is a fourth harmonic of the azimuth. With torch's default
    weights the hidden units are nearly linear in the camera matrix: they have no harmonic above the second, and 6,400
    steps of training did not add one (docs/log/embedded-prior.md). Units that respond only around one direction have
    many.
    """
    first = unet.class_embedding.linear_1

    # Random unit vectors; heights are the sines of elevations from 0 to 30 degrees.
    azimuths = 2.0 * torch.pi * torch.rand(first.out_features)
    heights = torch.empty(first.out_features).uniform_(0.0, 0.5)
    radii = (1.0 - heights.square()).sqrt()
    directions = torch.stack([radii * azimuths.cos(), radii * azimuths.sin(), heights], dim=-1)

    with torch.no_grad():
        first.weight.zero_()
        # The position in a flattened 4x4 camera matrix.
        first.weight[:, [3, 7, 11]] = CAMERA_SHARPNESS * directions
        first.bias.uniform_(-0.95 * CAMERA_SHARPNESS, -0.65 * CAMERA_SHARPNESS)


def new_scheduler() -> DDIMScheduler:
    """Return the noise schedule: Stable Diffusion's betas, noisier by `NOISE_SHIFT`, and v-prediction.

    The mean of four 16x16 latents shows colours and layout even at noise that hides every detail. With the published
    betas they would be decided in the last few timesteps, which training hardly visits.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    signal = (1.0 - betas).cumprod(0)
    shifted = signal / (signal + NOISE_SHIFT**2 * (1.0 - signal))
    ratios = shifted / torch.cat([torch.ones(1, dtype=torch.float64), shifted[:-1]])
    return DDIMScheduler(
        trained_betas=[round(beta, 9) for beta in (1.0 - ratios).tolist()],
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
    )


def centre_weights(side: int) -> Tensor:
    """Return [side, side] loss weights of mean 1: more where the objects are, less on the flat background."""
    positions = (torch.arange(side) + 0.5) / side * 2.0 - 1.0
    bump = torch.exp(-positions.square() / (2.0 * 0.5**2))
    weights = 0.25 + bump[:, None] * bump[None, :]
    return weights / weights.mean()


@dataclass(frozen=True)
class PriorBatch:
    """S scenes from four views each, and the noise of a step."""

    images: Tensor
    """[4 * S, 3, H, W], -1 to 1."""
    tokens: Tensor
    """[S, L] int64; some prompts are empty."""
    camera_matrices: Tensor
    """[4 * S, 16]; zeros where single views are trained."""
    timesteps: Tensor
    """[4 * S] int64, shared by the views that are denoised together."""
    n_views: int
    """Views denoised together: 4 or 1."""
    noise_seed: int

    def generator(self, device: str) -> torch.Generator:
        """Return the source of the noise; each kind of device draws its own numbers from a seed."""
        return torch.Generator(device).manual_seed(self.noise_seed)


@cache
def _tokenizer() -> PreTrainedTokenizerFast:
    return prior_tokenizer()


@dataclass(frozen=True)
class PriorDraw:
    """Draws the batch of a step from a seed."""

    seed: int
    n_scenes: int

    def __call__(self, step: int) -> PriorBatch:
        """Draw scenes, prompts, cameras and timesteps of a step."""
        rng = step_rng(self.seed, step)
        batch = sample_batch(rng, self.n_scenes)

        n_views = 1 if step % CAMERALESS_EVERY == 0 else N_VIEWS
        prompts = ["" if rng.random() < DROP_TEXT else prompt for prompt in batch.prompts]
        tokens = _tokenizer()(
            prompts, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids

        fractions = torch.from_numpy(rng.random(self.n_scenes * N_VIEWS // n_views))
        return PriorBatch(
            images=channels_first(batch.color),
            tokens=tokens,
            camera_matrices=batch.camera_matrices * (n_views == N_VIEWS),
            timesteps=(fractions * 1000).long().clamp_max(999).repeat_interleave(n_views),
            n_views=n_views,
            noise_seed=int(rng.integers(2**31)),
        )


def train_prior(
    folder: Path,
    device: str,
    seed: int,
    log: Callable[[str], None],
    codec: AutoencoderTiny,
    plan: TrainingPlan = PLAN,
    warm_start: Path | None = None,
) -> Prior:
    """Train the denoiser and its text encoder together; return them with averaged weights.

    Args:
        folder: checkpoints.
        device: where to train.
        seed: of weights and data.
        log: receives lines of progress.
        codec: encoder of the latents.
        plan: length and rates.
        warm_start: pipeline folder with the initial weights, if there is no checkpoint yet.
    """
    prior = new_prior(seed)
    if warm_start is not None:
        _load_weights(prior, warm_start)
    unet, text_encoder = prior.unet.to(device), prior.text_encoder.to(device)
    codec = codec.to(device).eval()
    noise_schedule = diffusion_schedule(
        prior.scheduler.alphas_cumprod, prior.scheduler.config.prediction_type
    ).to(torch.device(device))
    weights = centre_weights(IMAGE_PX // 4).to(device)

    def loss(batch: PriorBatch, step: int) -> tuple[Tensor, Scalars]:
        timesteps = batch.timesteps.to(device)
        with torch.no_grad():
            latents = codec.encode(batch.images.to(device)).latents * codec.config.scaling_factor

        noise = torch.randn(latents.shape, generator=batch.generator(device), device=device)
        noisy = add_noise(noise_schedule, latents, noise, timesteps)
        target = training_target(noise_schedule, latents, noise, timesteps)

        join_views(unet, batch.n_views)
        with mixed_precision(device):
            embeddings = text_encoder(batch.tokens.to(device)).last_hidden_state
            model_output = unet(
                noisy,
                timesteps,
                embeddings.repeat_interleave(N_VIEWS, 0),
                class_labels=batch.camera_matrices.to(device),
            ).sample

        errors = ((model_output.float() - target).square() * weights).mean((1, 2, 3))
        high = (timesteps > 700).float()
        loss_high_noise = (errors.detach() * high).sum() / high.sum().clamp_min(1.0)
        return errors.mean(), {"loss_high_noise": loss_high_noise}

    draw = PriorDraw(seed, plan.scenes_per_step)
    fit({"unet": unet, "text_encoder": text_encoder}, draw, loss, plan, folder, log)
    return prior


def _load_weights(prior: Prior, folder: Path) -> None:
    """Load the weights of a pipeline folder into the prior, in place."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    prior.unet.load_state_dict(unet.state_dict())
    prior.text_encoder.load_state_dict(text_encoder.state_dict())

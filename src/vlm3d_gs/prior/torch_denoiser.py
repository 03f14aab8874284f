"""The networks of diffusers as a `Denoiser`.

The inputs of a UNet or an SD3 transformer beside the latents, the precision, and where a network resides are settled
here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.recording import Function, Recorder
from vlm3d_gs.core.residency import Plan, resident
from vlm3d_gs.prior.denoiser import TextEmbedding
from vlm3d_gs.prior.multiview import join_views
from vlm3d_gs.prior.noise import NoiseSchedule

CAMERA_VALUES = 16
"""Of a flattened camera matrix."""


@dataclass(frozen=True)
class TorchDenoiser:
    """The components of a pipeline of diffusers, frozen, in evaluation mode."""

    network: UNet2DConditionModel | SD3Transformer2DModel
    """A UNet with a 16-dimensional projected class embedding is conditioned on cameras."""
    vae: AutoencoderTiny | AutoencoderKL
    noise_schedule: NoiseSchedule
    autocast: torch.dtype | None
    """Precision of the network's matrix products where its weights are float32; None is float32."""
    plan: Plan = "full"
    """Other than `full`: the network is on the VAE's device only while it runs; `sequential`: one image and one branch
    at a time."""
    recorder: Recorder | None = None
    """Replays the networks, with plan `full` and frozen weights only; None runs them operation by operation."""
    latent_noise: torch.Generator | None = None
    """Source of the noise with which latents are drawn from the encoder's distribution, on the CPU; None takes the
    distribution's mean."""

    @property
    def device(self) -> torch.device:
        """Where everything is computed; the VAE always resides there."""
        return torch.device(self.vae.device)

    @property
    def runtime(self) -> str:
        """Torch."""
        return "torch"

    @property
    def is_multiview(self) -> bool:
        """Whether the network is conditioned on cameras, four views of an object at a time."""
        return self.network.config.get("class_embed_type") == "projection"

    @property
    def latent_factor(self) -> int:
        """Pixels along each side of one latent cell."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def join_views(self, n_views: int) -> None:
        """Make the network attend over groups of `n_views` adjacent images; a single-image network always does 1."""
        if self.is_multiview:
            join_views(self.network, n_views)
            if self.recorder is not None:
                self.recorder.variant = n_views

    def at_work(self) -> AbstractContextManager[object]:
        """Return a context in which the network is on its device."""
        return nullcontext() if self.plan == "full" else resident(self.network, self.device)

    def encode(self, color: Tensor) -> Tensor:
        """Return the latents [B, C, h, w] float32 of images [B, H, W, 3] in 0..1; differentiable."""
        noise = self._latent_noise(color)
        if self.plan == "sequential":
            # The graph of one image at a time: each is encoded again on the way back.
            noises = [None] * len(color) if noise is None else noise.split(1)
            return torch.cat(
                [
                    checkpoint(self._encode, image, one, use_reentrant=False)
                    for image, one in zip(color.split(1), noises, strict=True)
                ]
            )
        return self._call("encoder", self._encode, color, noise)

    def _latent_noise(self, color: Tensor) -> Tensor | None:
        """Return standard normal noise for the latents of [B, H, W, 3], in the VAE's precision."""
        if self.latent_noise is None:
            return None
        cells = [side // self.latent_factor for side in color.shape[1:3]]
        shape = (len(color), self.vae.config.latent_channels, *cells)
        drawn = torch.randn(shape, generator=self.latent_noise)
        return drawn.to(self.device, self.vae.dtype, non_blocking=True)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, H, W, 3] in 0..1 of latents [B, C, h, w]; differentiable."""
        return self._call("decoder", self._decode, latents)

    def evaluate(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextEmbedding,
        camera_matrices: Tensor | None = None,
    ) -> Tensor:
        """Run the network once; shapes as in `run_network`. Differentiable in `noisy` and in trained weights.

        Timesteps and sizes stay float32 until the network has embedded them: bfloat16 has no number between 992 and
        996. A multi-view network without camera matrices skips their embedding, as MVDream does.
        """
        return self._call(
            "network",
            self._evaluate,
            noisy,
            self.noise_schedule.network_timesteps[timesteps],
            text.tokens,
            text.pooled,
            camera_matrices,
            None if text.pooled is None else self._sdxl_sizes(noisy, text.pooled),
        )

    def _call(self, name: str, function: Function, *inputs: Tensor | None) -> Tensor:
        """Call a function, by its recording if there is a recorder."""
        if self.recorder is None:
            return function(*inputs)
        return self.recorder.call(name, function, *inputs)

    def _encode(self, color: Tensor, noise: Tensor | None = None) -> Tensor:
        vae = self.vae
        output = vae.encode((color.movedim(-1, 1) * 2.0 - 1.0).to(vae.dtype))
        if isinstance(vae, AutoencoderTiny):
            latents = output.latents
        else:
            found = output.latent_dist
            latents = found.mean if noise is None else found.mean + found.std * noise
        shift = vae.config.get("shift_factor") or 0.0
        return (latents.float() - shift) * vae.config.scaling_factor

    def _decode(self, latents: Tensor) -> Tensor:
        vae = self.vae
        shift = vae.config.get("shift_factor") or 0.0
        unscaled = latents / vae.config.scaling_factor + shift
        decoded = vae.decode(unscaled.to(vae.dtype)).sample
        return (decoded.float() / 2.0 + 0.5).clamp(0.0, 1.0).movedim(1, -1)

    def _evaluate(
        self,
        noisy: Tensor,
        network_timesteps: Tensor,
        tokens: Tensor,
        pooled: Tensor | None,
        camera_matrices: Tensor | None,
        sizes: Tensor | None,
    ) -> Tensor:
        network = self.network
        inputs, tokens = noisy.to(network.dtype), tokens.to(network.dtype)
        pooled = None if pooled is None else pooled.to(network.dtype)
        if camera_matrices is not None:
            camera_matrices = camera_matrices.to(network.dtype)

        with self.precision(), self._without_cameras(camera_matrices):
            if isinstance(network, SD3Transformer2DModel):
                output = network(
                    hidden_states=inputs,
                    encoder_hidden_states=tokens,
                    pooled_projections=pooled,
                    timestep=network_timesteps.float(),
                )
            else:
                # Only Stable Diffusion XL's has text embeddings of a second kind.
                conditions = None if pooled is None else {"text_embeds": pooled, "time_ids": sizes}
                if self.is_multiview and camera_matrices is None:
                    camera_matrices = inputs.new_zeros(len(inputs), CAMERA_VALUES)  # not used
                output = network(
                    inputs,
                    network_timesteps,
                    tokens,
                    class_labels=camera_matrices,
                    added_cond_kwargs=conditions,
                )
        return output.sample.float()

    @contextmanager
    def _without_cameras(self, camera_matrices: Tensor | None) -> Iterator[None]:
        """Leave out the embedding of the cameras inside the block, if the network has one and there are none.

        Zero matrices are not the same: the embedding of zeros is its biases'.
        """
        if camera_matrices is not None or not self.is_multiview:
            yield
            return

        handle = self.network.class_embedding.register_forward_hook(
            lambda module, inputs, output: torch.zeros_like(output)
        )
        try:
            yield
        finally:
            handle.remove()

    def precision(self) -> torch.autocast | nullcontext[None]:
        """Return the context manager under which the network runs."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast)

    def _sdxl_sizes(self, noisy: Tensor, pooled: Tensor) -> Tensor:
        """Return SDXL's [B, 6] conditions: original size, crop and target size, all uncropped.

        Source: Podell et al. 2023 (SDXL, arXiv 2307.01952), section 2.2.
        """
        height_px, width_px = (cells * self.latent_factor for cells in noisy.shape[-2:])
        sizes = pooled.new_tensor(
            [height_px, width_px, 0, 0, height_px, width_px], dtype=torch.float32
        )
        return sizes.expand(len(noisy), -1)


def sampling_latents(denoiser: TorchDenoiser, noise: torch.Generator) -> TorchDenoiser:
    """Return the denoiser with latents drawn from the encoder's distribution.

    Raises:
        ConfigError: its encoder has none.
    """
    if isinstance(denoiser.vae, AutoencoderTiny):
        raise ConfigError(
            "prior.sample_latents needs an encoder with a distribution (AutoencoderKL), but this prior has a tiny "
            "autoencoder. Set prior.sample_latents=false."
        )
    return replace(denoiser, latent_noise=noise)

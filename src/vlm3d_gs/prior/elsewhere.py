"""A denoiser on another device than the scene: its inputs travel there, its results back."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from vlm3d_gs.core.residency import Plan
from vlm3d_gs.prior.denoiser import Denoiser, TextEmbedding
from vlm3d_gs.prior.noise import NoiseSchedule


class DenoiserElsewhere:
    """A `Denoiser` that seems to be on the scene's device, whose networks are on another."""

    def __init__(self, denoiser: Denoiser, device: torch.device) -> None:
        """Let what is on `device` be computed by `denoiser`, wherever that is."""
        self._denoiser, self.device = denoiser, device
        schedule = denoiser.noise_schedule
        self.noise_schedule: NoiseSchedule = replace(
            schedule,
            signal=schedule.signal.to(device),
            sigma=schedule.sigma.to(device),
            network_timesteps=schedule.network_timesteps.to(device),
        )

    @property
    def plan(self) -> Plan:
        """As that of the denoiser."""
        return self._denoiser.plan

    @property
    def runtime(self) -> str:
        """As that of the denoiser."""
        return self._denoiser.runtime

    @property
    def is_multiview(self) -> bool:
        """As that of the denoiser."""
        return self._denoiser.is_multiview

    @property
    def latent_factor(self) -> int:
        """As that of the denoiser."""
        return self._denoiser.latent_factor

    def join_views(self, n_views: int) -> None:
        """As that of the denoiser."""
        self._denoiser.join_views(n_views)

    def at_work(self) -> AbstractContextManager[object]:
        """As that of the denoiser."""
        return self._denoiser.at_work()

    def encode(self, color: Tensor) -> Tensor:
        """As that of the denoiser; differentiable."""
        return self._denoiser.encode(self._there(color)).to(self.device)

    def decode(self, latents: Tensor) -> Tensor:
        """As that of the denoiser; differentiable."""
        return self._denoiser.decode(self._there(latents)).to(self.device)

    def evaluate(
        self,
        noisy: Tensor,
        timesteps: Tensor,
        text: TextEmbedding,
        camera_matrices: Tensor | None = None,
    ) -> Tensor:
        """As that of the denoiser; differentiable in `noisy`."""
        matrices = None if camera_matrices is None else self._there(camera_matrices)
        found = self._denoiser.evaluate(
            self._there(noisy), self._there(timesteps), text.to(self._denoiser.device), matrices
        )
        return found.to(self.device)

    def _there(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._denoiser.device)

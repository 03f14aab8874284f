"""A denoiser on another device: devices never mix, and what comes back is what it computed."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from vlm3d_gs.core.residency import Plan
from vlm3d_gs.prior.denoiser import TextEmbedding, encode_images, predict, pull_back
from vlm3d_gs.prior.elsewhere import DenoiserElsewhere
from vlm3d_gs.prior.noise import NoiseSchedule


class Plain:
    """A denoiser of three products; a tensor of another device than its weights is an error."""

    plan: Plan = "full"
    runtime, is_multiview, latent_factor = "torch", True, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.weight = torch.full((3,), 2.0, device=device)
        level = torch.linspace(0.1, 0.9, 10, device=device)
        self.noise_schedule = NoiseSchedule(1.0 - level, level, level, "epsilon")
        self.n_views = 0

    def join_views(self, n_views: int) -> None:
        self.n_views = n_views

    def at_work(self) -> nullcontext[None]:
        return nullcontext()

    def encode(self, color: Tensor) -> Tensor:
        return (color * self.weight).movedim(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.movedim(1, -1) * self.weight

    def evaluate(
        self, noisy: Tensor, timesteps: Tensor, text: TextEmbedding, camera_matrices: Tensor | None
    ) -> Tensor:
        assert camera_matrices is not None
        given = (noisy, timesteps, text.tokens, camera_matrices)
        assert {tensor.device for tensor in given} == {self.weight.device}
        return (noisy.movedim(1, -1) * self.weight).movedim(-1, 1)


def ask(denoiser: Plain | DenoiserElsewhere, device: torch.device) -> tuple[Tensor, Tensor]:
    """Encode and predict with everything on a device, as a prior does."""
    color = torch.linspace(0.0, 1.0, 2 * 4 * 4 * 3, device=device).reshape(2, 4, 4, 3)
    texts = TextEmbedding(torch.ones(2, 3, 4, device=device))
    latents = encode_images(denoiser, color)
    timesteps = torch.tensor([3, 7], device=device)
    cameras = torch.ones(2, 16, device=device)
    found = predict(denoiser, latents, timesteps, (texts, texts), 2.0, cameras)
    return latents, found.clean_pred


def test_two_cards_are_never_mixed() -> None:
    scene, other = torch.device("cuda:0"), torch.device("cuda:1")
    with FakeTensorMode(), torch.no_grad():
        denoiser = DenoiserElsewhere(Plain(other), scene)
        denoiser.join_views(4)
        found = [
            denoiser.encode(torch.zeros(2, 4, 4, 3, device=scene)),
            denoiser.decode(torch.zeros(2, 3, 4, 4, device=scene)),
            denoiser.evaluate(
                torch.zeros(2, 3, 4, 4, device=scene),
                torch.zeros(2, dtype=torch.long, device=scene),
                TextEmbedding(torch.ones(2, 3, 4, device=scene)),
                torch.ones(2, 16, device=scene),
            ),
        ]
        assert {tensor.device for tensor in found} == {scene}
        assert denoiser.noise_schedule.signal.device == scene


def test_values_and_gradients_are_those_of_the_denoiser() -> None:
    scene = torch.device("cpu")
    plain = Plain(torch.device("cpu", 0))
    denoiser = DenoiserElsewhere(plain, scene)
    for mine, ours in zip(ask(plain, scene), ask(denoiser, scene), strict=True):
        assert ours.equal(mine)
    gradient = pull_back(denoiser, torch.ones(1, 3, 2, 2), torch.ones_like)
    assert gradient.equal(torch.full((1, 3, 2, 2), 2.0))
    assert denoiser.device == scene != plain.device
    denoiser.join_views(4)
    assert plain.n_views == 4

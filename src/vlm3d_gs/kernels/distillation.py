"""The two halves of a reconstruction step, before and after the network (`cuda/distillation.cu`).

Letters: B latents [C, h, w], T timesteps.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs.kernels.library import address, launch, takes

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")
"""What a network may predict, in the order of `Predicts` in `cuda/distillation.cuh`."""
SMALLEST_SIGNAL = 1e-4
SCRATCH_BLOCKS = 256
"""Blocks that find room for their sums; more of them share a group's work."""


@dataclass(frozen=True, eq=False)
class Levels:
    """A noise process at the timesteps of B latents."""

    signal: Tensor
    """[T] factor of the clean latent."""
    sigma: Tensor
    """[T] factor of the noise."""
    index: Tensor
    """[B] int64, into both."""

    def __iter__(self) -> Any:
        return iter((self.signal, self.sigma, self.index))


@dataclass(frozen=True)
class Guided:
    """How two answers of a network become a target."""

    predicts: str
    """One of `PREDICTIONS`."""
    scale: float
    """Of classifier-free guidance: 1 is the conditional answer alone."""
    share: float
    """Of the rescaling to the spread of the conditional answer: 0 is none."""
    n_views: int
    """Latents over which that spread is taken."""


def add_noise(clean: Tensor, noise: Tensor, levels: Levels) -> Tensor:
    """Return z_t = signal z_0 + sigma eps, [B, C, h, w]. Not differentiable."""
    with torch.no_grad():
        return noised(clean.contiguous(), noise.contiguous(), *levels)


def reconstruction_loss(
    latents: Tensor, noisy: Tensor, without: Tensor, given: Tensor, levels: Levels, guided: Guided
) -> Tensor:
    """Return 0.5 |z - z0_hat|^2 / B, with z0_hat the guided, rescaled prediction of the clean latents.

    Args:
        latents: [B, C, h, w] clean latents of the renders, on the graph.
        noisy: [B, C, h, w] what the network was shown.
        without: [B, C, h, w] its answer to the negative prompt.
        given: [B, C, h, w] its answer to the prompt.
        levels: of the noise.
        guided: how the answers become the target.

    Differentiable in `latents` only.

    Source: as `guidance.distillation.rescale_clean` and `reconstruction_loss`, `guidance.noise.clean_and_noise`.
    """
    said = (part.detach().contiguous() for part in (noisy, without, given))
    loss, _ = reconstruction(
        latents.contiguous(),
        *said,
        *levels,
        predicts=PREDICTIONS.index(guided.predicts),
        guidance=[guided.scale, guided.share],
        n_views=guided.n_views,
    )
    return loss


@torch.library.custom_op("vlm3d_gs::add_noise", mutates_args=())
def noised(clean: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor, index: Tensor) -> Tensor:
    """Do what `add_noise` says."""
    if not (takes(clean, noise, signal, sigma) and index.is_cuda):
        return noised_twin(clean, noise, Levels(signal, sigma, index))
    noisy = torch.empty_like(clean)
    levels = CLevels.of(Levels(signal, sigma, index))
    size = clean[0].numel()
    launch(
        "add_noise",
        clean.device,
        *map(ctypes.c_void_p, (address(clean), address(noise))),
        levels,
        *map(ctypes.c_int64, (size, clean.numel())),
        ctypes.c_void_p(address(noisy)),
    )
    return noisy


@noised.register_fake
def _fake_noised(clean: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(clean)


def noised_twin(clean: Tensor, noise: Tensor, levels: Levels) -> Tensor:
    """Do what the kernel does, in plain torch on any device."""
    signal, sigma = (
        table[levels.index][:, None, None, None] for table in (levels.signal, levels.sigma)
    )
    return signal * clean + sigma * noise


@torch.library.custom_op("vlm3d_gs::reconstruction", mutates_args=())
def reconstruction(
    latents: Tensor,
    noisy: Tensor,
    without: Tensor,
    given: Tensor,
    signal: Tensor,
    sigma: Tensor,
    index: Tensor,
    *,
    predicts: int,
    guidance: Sequence[float],
    n_views: int,
) -> tuple[Tensor, Tensor]:
    """Return the loss of `reconstruction_loss` and its gradient by the latents."""
    guided = Guided(PREDICTIONS[predicts], guidance[0], guidance[1], n_views)
    levels = Levels(signal, sigma, index)
    if not (takes(latents, noisy, without, given, signal, sigma) and index.is_cuda):
        target = target_twin(noisy, without, given, levels, guided)
        residual = latents - target
        return 0.5 * residual.square().sum() / len(latents), residual / len(latents)
    gradient, loss = torch.empty_like(latents), latents.new_empty(())
    scratch = torch.empty(5 * SCRATCH_BLOCKS, dtype=torch.float64, device=latents.device)
    task = CReconstruction.of((latents, noisy, without, given), levels, guided, gradient, loss)
    launch(
        "reconstruction", latents.device, task, ctypes.c_void_p(address(scratch)), SCRATCH_BLOCKS
    )
    return loss, gradient


@reconstruction.register_fake
def _fake_reconstruction(latents: Tensor, *_: Tensor, **__: object) -> tuple[Tensor, Tensor]:
    return latents.new_empty(()), torch.empty_like(latents)


def _keep_gradient(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: Any, output: Any
) -> None:
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, d_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (gradient,) = ctx.saved_tensors
    return d_loss * gradient, *[None] * 6


reconstruction.register_autograd(_backward, setup_context=_keep_gradient)


def target_twin(
    noisy: Tensor, without: Tensor, given: Tensor, levels: Levels, guided: Guided
) -> Tensor:
    """Return the target of the reconstruction, in plain torch on any device."""
    signal, sigma = (
        table[levels.index][:, None, None, None] for table in (levels.signal, levels.sigma)
    )

    def clean(output: Tensor) -> Tensor:
        if guided.predicts == "epsilon":
            return (noisy - sigma * output) / signal.clamp_min(SMALLEST_SIGNAL)
        if guided.predicts == "v_prediction":
            return signal * noisy - sigma * output
        return output if guided.predicts == "sample" else noisy - sigma * output

    groups = clean(without + guided.scale * (given - without)).unflatten(0, (-1, guided.n_views))
    wanted = clean(given).unflatten(0, (-1, guided.n_views)).std(dim=(1, 2, 3, 4), keepdim=True)
    found = groups.std(dim=(1, 2, 3, 4), keepdim=True).clamp_min(1e-8)
    return (groups * (guided.share * wanted / found + (1.0 - guided.share))).flatten(0, 1)


class CLevels(ctypes.Structure):
    """`Levels` of `cuda/distillation.cuh`."""

    _fields_ = (
        ("signal", ctypes.c_void_p),
        ("sigma", ctypes.c_void_p),
        ("index", ctypes.c_void_p),
    )

    @classmethod
    def of(cls, levels: Levels) -> CLevels:
        """Point to these tensors."""
        return cls(*map(address, levels))


class CReconstruction(ctypes.Structure):
    """`Reconstruction` of `cuda/distillation.cuh`."""

    _fields_ = (
        ("latents", ctypes.c_void_p),
        ("noisy", ctypes.c_void_p),
        ("without", ctypes.c_void_p),
        ("given", ctypes.c_void_p),
        ("levels", CLevels),
        ("predicts", ctypes.c_int32),
        ("scale", ctypes.c_float),
        ("share", ctypes.c_float),
        ("batch", ctypes.c_int32),
        ("views", ctypes.c_int32),
        ("size", ctypes.c_int64),
        ("gradient", ctypes.c_void_p),
        ("loss", ctypes.c_void_p),
    )

    @classmethod
    def of(
        cls,
        read: tuple[Tensor, Tensor, Tensor, Tensor],
        levels: Levels,
        guided: Guided,
        gradient: Tensor,
        loss: Tensor,
    ) -> CReconstruction:
        """Point to these tensors: latents, noisy, without and given are read, gradient and loss written."""
        return cls(
            *map(address, read),
            CLevels.of(levels),
            PREDICTIONS.index(guided.predicts),
            guided.scale,
            guided.share,
            len(gradient),
            guided.n_views,
            gradient[0].numel(),
            address(gradient),
            address(loss),
        )

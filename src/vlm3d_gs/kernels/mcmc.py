"""What densification by sampling does to Gaussians: noise on faint ones, relocation (`cuda/mcmc.cu`).

After Kheradmand et al. 2024 (3D Gaussian Splatting as Markov Chain Monte Carlo, arXiv 2404.09591).
Letters: N Gaussians.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from vlm3d_gs.core.rotations import quat_to_rotmat
from vlm3d_gs.kernels.library import address, launch, takes

MOST_COPIES = 51
"""More Gaussians than these are not put in one place; gsplat counts no further either."""
SHARPNESS = 100.0
"""How steeply the noise ends at the opacity of the dead; k of the paper."""


@torch.library.custom_op("vlm3d_gs::perturb_means", mutates_args=("means",))
def perturb_means(
    means: Tensor,
    log_scales: Tensor,
    quats: Tensor,
    opacity_logits: Tensor,
    noise: Tensor,
    *,
    amount: float,
    dead: float,
) -> None:
    """Add amount * sigmoid(100 (dead - opacity)) * covariance @ noise to the means, in place. Not differentiable.

    Args:
        means: [N, 3] world units.
        log_scales: [N, 3] logarithms of the standard deviations.
        quats: [N, 4] wxyz, any norm.
        opacity_logits: [N].
        noise: [N, 3] standard normal.
        amount: strength, 1 / world units.
        dead: opacity around which the noise ends, in 0..1.

    Source: Kheradmand et al. 2024, the noise of its Langevin step, gate and sharpness as in its code.
    """
    if not takes(means, log_scales, quats, opacity_logits, noise):
        perturb_twin(means, log_scales, quats, opacity_logits, noise, amount=amount, dead=dead)
        return
    tensors = (means, log_scales, quats, opacity_logits, noise)
    launch("perturb", means.device, CPerturbation.of(*tensors, amount=amount, dead=dead))


@perturb_means.register_fake
def _fake_perturb(*_: Tensor, **__: object) -> None:
    """Only changes its arguments."""


def perturb_twin(
    means: Tensor,
    log_scales: Tensor,
    quats: Tensor,
    opacity_logits: Tensor,
    noise: Tensor,
    *,
    amount: float,
    dead: float,
) -> None:
    """Do what the kernel of `perturb_means` does, in plain torch on any device."""
    with torch.no_grad():
        gate = torch.sigmoid(SHARPNESS * (dead - opacity_logits.sigmoid()))
        axes = quat_to_rotmat(quats)
        along = (axes.mT @ noise[..., None]) * (2.0 * log_scales).exp()[..., None]
        means += amount * gate[:, None] * (axes @ along)[..., 0]


@torch.library.custom_op("vlm3d_gs::relocated", mutates_args=())
def relocated(opacity_logits: Tensor, log_scales: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and log scales of Gaussians that stand `copies` times where one stood, and hide the same.

    Args:
        opacity_logits: [N].
        log_scales: [N, 3].
        copies: [N] int32, how many stand there afterwards, 1 to `MOST_COPIES`; 1 changes nothing.

    Returns:
        [N] and [N, 3], as every one of the copies has them. Not differentiable.

    Source: Kheradmand et al. 2024, equation 9.
    """
    fits = copies.dtype == torch.int32 and copies.is_contiguous()
    if not (takes(opacity_logits, log_scales) and fits and copies.device == opacity_logits.device):
        return relocated_twin(opacity_logits, log_scales, copies)
    logits, scales = torch.empty_like(opacity_logits), torch.empty_like(log_scales)
    task = CRelocation.of(opacity_logits, log_scales, copies, logits, scales)
    launch("relocate", logits.device, task)
    return logits, scales


@relocated.register_fake
def _fake_relocated(opacity_logits: Tensor, log_scales: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(opacity_logits), torch.empty_like(log_scales)


def relocated_twin(
    opacity_logits: Tensor, log_scales: Tensor, copies: Tensor
) -> tuple[Tensor, Tensor]:
    """Do what the kernel of `relocated` does, in plain torch on any device."""
    logits, n = opacity_logits.detach().double(), copies.double()
    clear = torch.nn.functional.logsigmoid(-logits) / n
    opacity = -torch.expm1(clear)
    j = torch.arange(1, MOST_COPIES + 1, dtype=torch.float64, device=logits.device)
    left = (n[:, None] - j).clamp_min(0.0)
    choose = (
        torch.lgamma(n + 1.0)[:, None] - torch.lgamma(j + 1.0) - torch.lgamma(left + 1.0)
    ).exp()
    terms = choose * opacity[:, None] ** j / j.sqrt() * torch.where(j % 2 == 1, 1.0, -1.0)
    hidden = torch.where(j <= n[:, None], terms, 0.0).sum(-1)
    factor = logits.sigmoid() / hidden
    scales = log_scales.detach() + factor.log()[:, None]
    return (opacity.log() - clear).to(opacity_logits.dtype), scales.to(log_scales.dtype)


class CPerturbation(ctypes.Structure):
    """`Perturbation` of `cuda/mcmc.cuh`."""

    _fields_ = (
        ("means", ctypes.c_void_p),
        ("log_scales", ctypes.c_void_p),
        ("quats", ctypes.c_void_p),
        ("opacity_logits", ctypes.c_void_p),
        ("noise", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("amount", ctypes.c_float),
        ("dead", ctypes.c_float),
        ("sharpness", ctypes.c_float),
    )

    @classmethod
    def of(cls, *tensors: Tensor, amount: float, dead: float) -> CPerturbation:
        """Point to means, log scales, quats, opacity logits and noise."""
        return cls(*map(address, tensors), len(tensors[0]), amount, dead, SHARPNESS)


class CRelocation(ctypes.Structure):
    """`Relocation` of `cuda/mcmc.cuh`."""

    _fields_ = (
        ("opacity_logits", ctypes.c_void_p),
        ("log_scales", ctypes.c_void_p),
        ("copies", ctypes.c_void_p),
        ("new_opacity_logits", ctypes.c_void_p),
        ("new_log_scales", ctypes.c_void_p),
        ("count", ctypes.c_int64),
    )

    @classmethod
    def of(cls, *tensors: Tensor) -> CRelocation:
        """Point to logits, log scales and copies, and to where the new logits and log scales go."""
        return cls(*map(address, tensors), len(tensors[0]))

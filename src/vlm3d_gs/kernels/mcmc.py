"""The per-Gaussian work of densification by sampling: noise on faint Gaussians, relocation (`cuda/mcmc.cu`).

After Kheradmand et al. 2024 (3D Gaussian Splatting as Markov Chain Monte Carlo, arXiv 2404.09591).
Letters: N Gaussians.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from vlm3d_gs.core.rotations import quat_to_rotmat
from vlm3d_gs.kernels.library import accepts, address, launch

MAX_COPIES = 51
"""No more Gaussians than these are put in one place; gsplat has the same limit."""
SHARPNESS = 100.0
"""How steeply the noise falls off around the opacity `min_opacity`; k in the paper."""


@torch.library.custom_op("vlm3d_gs::perturb_means", mutates_args=("means",))
def perturb_means(
    means: Tensor,
    log_scales: Tensor,
    quats: Tensor,
    opacity_logits: Tensor,
    noise: Tensor,
    *,
    noise_scale: float,
    min_opacity: float,
) -> None:
    """Add noise_scale * sigmoid(100 (min_opacity - opacity)) * covariance @ noise to the means, in place.

    Args:
        means: [N, 3] world units.
        log_scales: [N, 3] logarithms of the standard deviations.
        quats: [N, 4] wxyz, any norm.
        opacity_logits: [N].
        noise: [N, 3] standard normal.
        noise_scale: strength, 1 / world units.
        min_opacity: opacity at which the noise has half its strength, in 0..1.

    Not differentiable.

    Source: Kheradmand et al. 2024, the noise of its Langevin step; gate and sharpness as in its code.
    """
    if not accepts(means, log_scales, quats, opacity_logits, noise):
        perturb_means_reference(
            means,
            log_scales,
            quats,
            opacity_logits,
            noise,
            noise_scale=noise_scale,
            min_opacity=min_opacity,
        )
        return

    tensors = (means, log_scales, quats, opacity_logits, noise)
    task = CPerturbation.of(*tensors, noise_scale=noise_scale, min_opacity=min_opacity)
    launch("perturb", means.device, task)


@perturb_means.register_fake
def _fake_perturb_means(*_: Tensor, **__: object) -> None:
    """Nothing to return: the operator only changes its argument."""


def perturb_means_reference(
    means: Tensor,
    log_scales: Tensor,
    quats: Tensor,
    opacity_logits: Tensor,
    noise: Tensor,
    *,
    noise_scale: float,
    min_opacity: float,
) -> None:
    """Do the work of `perturb_means` in plain torch, on any device."""
    with torch.no_grad():
        gate = torch.sigmoid(SHARPNESS * (min_opacity - opacity_logits.sigmoid()))
        axes = quat_to_rotmat(quats)
        along = (axes.mT @ noise[..., None]) * (2.0 * log_scales).exp()[..., None]
        means += noise_scale * gate[:, None] * (axes @ along)[..., 0]


@torch.library.custom_op("vlm3d_gs::relocate", mutates_args=())
def relocate(opacity_logits: Tensor, log_scales: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits and log scales with which `copies` Gaussians in one place look like the one before.

    Args:
        opacity_logits: [N].
        log_scales: [N, 3].
        copies: [N] int32, how many share the place afterwards, 1 to `MAX_COPIES`; 1 changes nothing.

    Returns:
        [N] and [N, 3], the same for every copy. Not differentiable.

    Source: Kheradmand et al. 2024, equation 9.
    """
    fits = copies.dtype == torch.int32 and copies.is_contiguous()
    if not (
        accepts(opacity_logits, log_scales) and fits and copies.device == opacity_logits.device
    ):
        return relocate_reference(opacity_logits, log_scales, copies)

    logits, scales = torch.empty_like(opacity_logits), torch.empty_like(log_scales)
    task = CRelocation.of(opacity_logits, log_scales, copies, logits, scales)
    launch("relocate", logits.device, task)
    return logits, scales


@relocate.register_fake
def _fake_relocate(opacity_logits: Tensor, log_scales: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(opacity_logits), torch.empty_like(log_scales)


def relocate_reference(
    opacity_logits: Tensor, log_scales: Tensor, copies: Tensor
) -> tuple[Tensor, Tensor]:
    """Do the work of `relocate` in plain torch, on any device."""
    logits, n = opacity_logits.detach().double(), copies.double()

    # 1 - o = (1 - o')^n, by logarithms, so that opacities near 1 keep their digits
    log_transmittance = torch.nn.functional.logsigmoid(-logits) / n
    opacity = -torch.expm1(log_transmittance)

    # sum_j C(n, j) (-1)^(j + 1) o'^j / sqrt(j): the paper's double sum, by the hockey-stick identity
    j = torch.arange(1, MAX_COPIES + 1, dtype=torch.float64, device=logits.device)
    left = (n[:, None] - j).clamp_min(0.0)
    choose = (
        torch.lgamma(n + 1.0)[:, None] - torch.lgamma(j + 1.0) - torch.lgamma(left + 1.0)
    ).exp()
    terms = choose * opacity[:, None] ** j / j.sqrt() * torch.where(j % 2 == 1, 1.0, -1.0)
    hidden = torch.where(j <= n[:, None], terms, 0.0).sum(-1)

    factor = logits.sigmoid() / hidden
    scales = log_scales.detach() + factor.log()[:, None]
    return (opacity.log() - log_transmittance).to(opacity_logits.dtype), scales.to(log_scales.dtype)


class CPerturbation(ctypes.Structure):
    """`Perturbation` of `cuda/mcmc.cuh`."""

    _fields_ = (
        ("means", ctypes.c_void_p),
        ("log_scales", ctypes.c_void_p),
        ("quats", ctypes.c_void_p),
        ("opacity_logits", ctypes.c_void_p),
        ("noise", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("noise_scale", ctypes.c_float),
        ("min_opacity", ctypes.c_float),
        ("sharpness", ctypes.c_float),
    )

    @classmethod
    def of(cls, *tensors: Tensor, noise_scale: float, min_opacity: float) -> CPerturbation:
        """Point to means, log scales, quaternions, opacity logits and noise."""
        return cls(*map(address, tensors), len(tensors[0]), noise_scale, min_opacity, SHARPNESS)


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

"""Terms that keep a scene solid and clean: pure functions to a scalar, smaller is better."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm3d_gs.config import RegularizerConfig
from vlm3d_gs.core.gaussians import Gaussians


def binary_entropy(values: Tensor) -> Tensor:
    """Return the mean entropy of values in 0..1, in bits: 0 where all are 0 or 1, 1 where all are a half."""
    inside = values.clamp(1e-5, 1.0 - 1e-5)
    return -(inside * inside.log2() + (1.0 - inside) * (1.0 - inside).log2()).mean()


def opacity_entropy(gaussians: Gaussians) -> Tensor:
    """Push every opacity to 0 or 1."""
    return binary_entropy(gaussians.opacities)


def alpha_entropy(alpha: Tensor) -> Tensor:
    """Push every pixel's coverage to 0 or 1: no haze, solid objects. alpha [C, H, W, 1]."""
    return binary_entropy(alpha)


def coverage(alpha: Tensor) -> Tensor:
    """Mean coverage: opacity that the guidance does not hold on to fades. alpha [C, H, W, 1]."""
    return alpha.mean()


def opacity(gaussians: Gaussians) -> Tensor:
    """Mean opacity: Gaussians that the guidance does not hold on to fade, seen or not (Kheradmand et al. 2024)."""
    return gaussians.opacities.mean()


def scale(gaussians: Gaussians) -> Tensor:
    """Mean square of the standard deviations, world units squared, times 100 (a scale of 0.1 counts 1)."""
    return 100.0 * gaussians.scales.square().mean()


def flatness(gaussians: Gaussians, limit: float = 4.0) -> Tensor:
    """Needles: mean excess of the largest over the middle standard deviation beyond the factor `limit`, in nepers."""
    largest, middle, _ = gaussians.log_scales.sort(-1, descending=True).values.unbind(-1)
    return (largest - middle - torch.tensor(limit).log()).clamp_min(0.0).mean()


def floater(gaussians: Gaussians) -> Tensor:
    """Opacity far from the scene's weight: mean of opacity times squared distance from the centre of mass."""
    opacities = gaussians.opacities
    center = (opacities[:, None] * gaussians.means).sum(0) / opacities.sum().clamp_min(1e-6)
    return (opacities * (gaussians.means - center.detach()).square().sum(-1)).mean()


def regularize(
    gaussians: Gaussians, alpha: Tensor, config: RegularizerConfig, fraction: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of all terms whose weight is not 0, and their values, scalars without graph.

    Args:
        gaussians: the scene, on the graph.
        alpha: [C, H, W, 1] coverage of this step's renders, on the graph.
        config: weights as schedules.
        fraction: of the run that is done.
    """
    terms = {
        "opacity_entropy": lambda: opacity_entropy(gaussians),
        "alpha_entropy": lambda: alpha_entropy(alpha),
        "coverage": lambda: coverage(alpha),
        "opacity": lambda: opacity(gaussians),
        "scale": lambda: scale(gaussians),
        "flatness": lambda: flatness(gaussians),
        "floater": lambda: floater(gaussians),
    }
    total, values = alpha.new_zeros(()), dict[str, Tensor]()
    for name, term in terms.items():
        weight = getattr(config, name)(fraction)
        if weight:
            value = term()
            total = total + weight * value
            values[name] = value.detach()
    return total, values

"""Terms that keep a scene solid and clean: pure functions that return a scalar; smaller is better."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from vlm3d_gs.config import RegularizerConfig
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render.result import Rendering

THIRD_DIFFERENCE = (1.0, -3.0, 3.0, -1.0)
"""Zero on planes, small on cylinders and spheres, large at dents; second differences would flatten tori."""
COVERED = 0.9
"""Opacity from which a pixel shows a surface."""
EDGE_DEPTH = 0.08
"""World units; a third difference above it is an edge, not a dent."""
COLOR_EDGE = 10.0
"""How fast a change of colour allows a bend."""


def binary_entropy(values: Tensor) -> Tensor:
    """Return the mean entropy of values in 0..1, in bits: 0 if all are 0 or 1, 1 if all are 0.5."""
    p = values.clamp(1e-5, 1.0 - 1e-5)  # no infinite gradient at 0 and 1
    return -(p * p.log2() + (1.0 - p) * (1.0 - p).log2()).mean()


def opacity_entropy(gaussians: Gaussians) -> Tensor:
    """Push every opacity to 0 or 1."""
    return binary_entropy(gaussians.opacities)


def alpha_entropy(alpha: Tensor) -> Tensor:
    """Push the coverage of every pixel to 0 or 1: no haze, solid objects. alpha [C, H, W, 1]."""
    return binary_entropy(alpha)


def coverage(alpha: Tensor) -> Tensor:
    """Mean coverage: opacity that no guidance supports fades. alpha [C, H, W, 1]."""
    return alpha.mean()


def opacity(gaussians: Gaussians) -> Tensor:
    """Mean opacity: Gaussians that no guidance supports fade, visible or not (Kheradmand et al. 2024)."""
    return gaussians.opacities.mean()


def scale(gaussians: Gaussians) -> Tensor:
    """Mean square of the standard deviations, world units squared, times 100 (a scale of 0.1 counts 1)."""
    return 100.0 * gaussians.scales.square().mean()


def flatness(gaussians: Gaussians, limit: float = 4.0) -> Tensor:
    """Needles: mean excess of the largest over the middle standard deviation beyond the factor `limit`, in nepers."""
    largest, middle, _ = gaussians.log_scales.sort(-1, descending=True).values.unbind(-1)
    return (largest - middle - torch.tensor(limit).log()).clamp_min(0.0).mean()


def floater(gaussians: Gaussians) -> Tensor:
    """Opacity far from the rest: mean of opacity times squared distance from the centre of mass."""
    opacities = gaussians.opacities
    center = (opacities[:, None] * gaussians.means).sum(0) / opacities.sum().clamp_min(1e-6)
    return (opacities * (gaussians.means - center.detach()).square().sum(-1)).mean()


def roughness(depth: Tensor, alpha: Tensor, picture: Tensor) -> Tensor:
    """Dents: absolute third differences of the depth along rows and columns, summed over pixels, a mean over views.

    Planes, cylinders and spheres cost next to nothing, dents do. A difference counts only where all four pixels are
    covered, where it is small enough to be no edge between surfaces, and the less the more the picture's colour changes
    there: exp(-10 * the sum of its absolute changes).

    Args:
        depth: [C, H, W, 1] expected depth, differentiable.
        alpha: [C, H, W, 1] coverage; without gradient.
        picture: [C, H, W, 3] colours; without gradient.
    """
    covered = (alpha.detach() > COVERED).to(depth.dtype)
    total = depth.new_zeros(())
    for axis in (1, 2):
        size = depth.shape[axis] - len(THIRD_DIFFERENCE) + 1

        def shifted(image: Tensor, axis: int = axis, size: int = size) -> list[Tensor]:
            return [image.narrow(axis, k, size) for k in range(len(THIRD_DIFFERENCE))]

        weighted = [c * d for c, d in zip(THIRD_DIFFERENCE, shifted(depth), strict=True)]
        bend = torch.stack(weighted).sum(0).abs()
        inside = torch.stack(shifted(covered)).prod(0) * (bend.detach() < EDGE_DEPTH)
        colors = shifted(picture.detach())
        changes = [(a - b).abs().sum(-1, keepdim=True) for a, b in pairwise(colors)]
        change = torch.stack(changes).sum(0)
        total = total + (bend * inside * torch.exp(-COLOR_EDGE * change)).sum()

    return total / len(depth)


def regularize(
    gaussians: Gaussians,
    rendering: Rendering,
    config: RegularizerConfig,
    fraction: float,
    target: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of all terms whose weight is not 0, and their values, scalars without graph.

    Args:
        gaussians: the scene, on the graph.
        rendering: this step's renders, on the graph.
        config: weights, as schedules.
        fraction: of the run that is done.
        target: [C, H, W, 3] pictures whose colour edges allow edges of depth; None takes the renders.
    """
    alpha = rendering.alpha
    picture = rendering.color if target is None else target
    terms = {
        "opacity_entropy": lambda: opacity_entropy(gaussians),
        "alpha_entropy": lambda: alpha_entropy(alpha),
        "coverage": lambda: coverage(alpha),
        "opacity": lambda: opacity(gaussians),
        "scale": lambda: scale(gaussians),
        "flatness": lambda: flatness(gaussians),
        "floater": lambda: floater(gaussians),
        "roughness": lambda: roughness(rendering.depth, alpha, picture),
    }

    total, values = alpha.new_zeros(()), dict[str, Tensor]()
    for name, term in terms.items():
        weight = getattr(config, name)(fraction)
        if weight:
            value = term()
            total = total + weight * value
            values[name] = value.detach()

    return total, values

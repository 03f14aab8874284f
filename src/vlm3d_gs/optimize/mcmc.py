"""Densification as sampling: dead and new Gaussians are placed on opaque ones, faint ones are moved at random.

After Kheradmand et al. 2024 (3D Gaussian Splatting as Markov Chain Monte Carlo, arXiv 2404.09591). The renders hardly
change: Gaussians in one place get the opacity and scale with which together they cover what the one did. Only where
that opacity would count as dead it is raised above the limit, as in the code of the paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from vlm3d_gs import kernels
from vlm3d_gs.config import DensifyConfig
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.kernels.mcmc import MAX_COPIES, perturb_means_reference, relocate_reference
from vlm3d_gs.optimize.densify import Densified, keep_mask

MIN_WEIGHT = 1e-12
"""Lower limit of the opacities in sampling, so that a scene without any opacity has a distribution too."""
ALIVE_MARGIN = 1.01
"""New Gaussians have at least this times `prune_opacity`, so that rounding does not make them dead at once."""


def relocate(
    gaussians: Gaussians,
    config: DensifyConfig,
    max_gaussians: int,
    generator: torch.Generator,
    *,
    fused: bool = False,
) -> Densified:
    """Move dead Gaussians (see `keep_mask`) onto others, drawn by opacity, and add `grow_share` new ones likewise.

    Args:
        gaussians: N Gaussians.
        config: fractions and limits.
        max_gaussians: nothing is added beyond this count.
        generator: source of the draws, on the CPU.
        fused: use our kernel where it can run.

    Returns:
        The scene after the round; those whose opacity and scale changed count as fresh. No Gaussian becomes more than
        `MAX_COPIES`; dead ones beyond that are removed. Not differentiable.
    """
    scene = gaussians.detach()
    is_alive = keep_mask(scene, config)
    n, alive = len(scene), is_alive.nonzero()[:, 0]

    # Onto which Gaussians the dead and the new ones go.
    n_new = max(0, min(int(config.grow_share * n), max_gaussians - n))
    drawn = draw_indices(scene.opacities[alive].cpu(), int((~is_alive).sum()) + n_new, generator)
    targets = alive[drawn.to(scene.device)]
    copies = 1 + torch.bincount(targets, minlength=n)

    # Opacity and scale of each Gaussian that shares its place.
    rows = (copies > 1).nonzero()[:, 0]
    relocated = kernels.relocate if fused else relocate_reference
    logits, log_scales = relocated(
        scene.opacity_logits[rows], scene.log_scales[rows], copies[rows].int()
    )
    min_opacity = min(max(ALIVE_MARGIN * config.prune_opacity, 1e-6), 1.0 - 1e-6)
    logits = logits.clamp_min(math.log(min_opacity / (1.0 - min_opacity)))

    values = scene.parameters()
    values["opacity_logits"] = values["opacity_logits"].index_copy(0, rows, logits)
    values["log_scales"] = values["log_scales"].index_copy(0, rows, log_scales)
    source = torch.cat([alive, targets])
    return Densified(scene.changed(values).select(source), source, copies[source] > 1)


def draw_indices(opacities: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw indices in proportion to opacity, each at most `MAX_COPIES` - 1 times; further draws of it are dropped.

    Args:
        opacities: [M] on the CPU.
        count: draws.
        generator: source of randomness, on the CPU.

    Returns:
        [count or fewer] int64, in ascending order.
    """
    if not count:
        return torch.zeros(0, dtype=torch.int64)

    # By inverting the cumulative distribution; in float64, where thousands of small opacities still add up.
    edges = opacities.double().nan_to_num(0.0).clamp_min(MIN_WEIGHT).cumsum(0)
    draws = torch.rand(count, generator=generator, dtype=torch.float64)
    indices = torch.searchsorted(edges, draws * edges[-1], right=True).clamp_max(len(edges) - 1)
    indices = indices.sort().values

    earlier = torch.arange(count) - torch.searchsorted(indices, indices)  # draws of the same index
    return indices[earlier < MAX_COPIES - 1]


def perturb(
    leaves: Mapping[str, Tensor],
    config: DensifyConfig,
    fraction: float,
    generator: torch.Generator,
    *,
    fused: bool = False,
) -> None:
    """Move the means of faint Gaussians at random, in place: `config.noise` times covariance times normal numbers.

    A step is `noise` * sigma of their own widths, half of that at the opacity `prune_opacity` and less above. Not
    differentiable.

    Args:
        leaves: the raw parameters by name.
        config: strength, and the opacity that counts as faint.
        fraction: of the run.
        generator: source of the noise, on the CPU, so that it is the same for every device.
        fused: use our kernel where it can run.
    """
    noise_scale = config.noise(fraction)
    if noise_scale == 0.0:
        return

    means, log_scales, quats, logits = (
        leaves[name].detach() for name in ("means", "log_scales", "quats", "opacity_logits")
    )
    noise = torch.randn(means.shape, generator=generator).to(means.device, non_blocking=True)
    perturb_means = kernels.perturb_means if fused else perturb_means_reference
    perturb_means(
        means,
        log_scales,
        quats,
        logits,
        noise,
        noise_scale=noise_scale,
        min_opacity=config.prune_opacity,
    )

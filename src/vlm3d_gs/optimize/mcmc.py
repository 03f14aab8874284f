"""Densification as sampling: dead Gaussians and new ones go where opaque ones stand, faint ones are moved at random.

After Kheradmand et al. 2024 (3D Gaussian Splatting as Markov Chain Monte Carlo, arXiv 2404.09591). The picture stays
nearly as it was: Gaussians in one place get the opacity and scale with which they hide what the one did. Only where
that opacity would be below what counts as dead, it is a little more, as in the paper's code.
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
from vlm3d_gs.optimize.densify import Densified, kept

FAINTEST = 1e-12
"""Chances are taken from this opacity up, so that a scene of nothing but air still has a place."""
ALIVE = 1.01
"""What is made has at least this times `prune_opacity`, so that rounding does not make it dead at once."""


def relocate(
    gaussians: Gaussians,
    config: DensifyConfig,
    max_gaussians: int,
    generator: torch.Generator,
    *,
    fused: bool = False,
) -> Densified:
    """Move Gaussians that `kept` would remove onto others, drawn by opacity, and add `grow_share` of them there too.

    Args:
        gaussians: N Gaussians.
        config: shares and limits.
        max_gaussians: nothing is added beyond this count.
        generator: source of the places, on the CPU.
        fused: by the own kernel, where it can run.

    Returns:
        The scene after the round; those whose opacity and scale changed count as fresh. Dead Gaussians that find no
        place, since none takes more than `MAX_COPIES`, are removed. Not differentiable.
    """
    scene = gaussians.detach()
    alive = kept(scene, config)
    n, home = len(scene), scene.device
    wanted = int((~alive).sum()) + max(0, min(int(config.grow_share * n), max_gaussians - n))
    standing = alive.nonzero()[:, 0]
    drawn = draw(scene.opacities[standing].cpu(), wanted, generator)
    places = standing[drawn.to(home)]
    copies = 1 + torch.bincount(places, minlength=n)
    rows = (copies > 1).nonzero()[:, 0]
    change = kernels.relocate if fused else relocate_reference
    logits, log_scales = change(
        scene.opacity_logits[rows], scene.log_scales[rows], copies[rows].int()
    )
    least = min(max(ALIVE * config.prune_opacity, 1e-6), 1.0 - 1e-6)
    values = scene.parameters()
    values["opacity_logits"] = values["opacity_logits"].index_copy(
        0, rows, logits.clamp_min(math.log(least / (1.0 - least)))
    )
    values["log_scales"] = values["log_scales"].index_copy(0, rows, log_scales)
    source = torch.cat([standing, places])
    return Densified(Gaussians(**values).select(source), source, copies[source] > 1)


def draw(opacities: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw places in proportion to opacity, each at most `MAX_COPIES` - 1 times; what is over that is left out.

    Args:
        opacities: [M] on the CPU.
        count: draws.
        generator: their source, on the CPU.

    Returns:
        [count or fewer] int64, in ascending order.
    """
    if not count:
        return torch.zeros(0, dtype=torch.int64)
    edges = opacities.double().nan_to_num(0.0).clamp_min(FAINTEST).cumsum(0)
    draws = torch.rand(count, generator=generator, dtype=torch.float64)
    found = torch.searchsorted(edges, draws * edges[-1], right=True).clamp_max(len(edges) - 1)
    found = found.sort().values
    before = torch.arange(count) - torch.searchsorted(found, found)  # draws of the same place
    return found[before < MAX_COPIES - 1]


def perturb(
    leaves: Mapping[str, Tensor],
    config: DensifyConfig,
    fraction: float,
    generator: torch.Generator,
    *,
    fused: bool = False,
) -> None:
    """Move the means of faint Gaussians at random, in place: `config.noise` times covariance times normal numbers.

    That is noise * sigma of their own widths a step, half of it at the opacity `prune_opacity` and less above. Not
    differentiable.

    Args:
        leaves: the raw parameters by name.
        config: strength, and which opacity is faint.
        fraction: of the run.
        generator: source of the noise, on the CPU, so that it is the same for every device.
        fused: by the own kernel, where it can run.
    """
    amount = config.noise(fraction)
    if amount == 0.0:
        return
    means, log_scales, quats, logits = (
        leaves[name].detach() for name in ("means", "log_scales", "quats", "opacity_logits")
    )
    drawn = torch.randn(means.shape, generator=generator).to(means.device, non_blocking=True)
    move = kernels.perturb_means if fused else perturb_means_reference
    move(
        means,
        log_scales,
        quats,
        logits,
        drawn,
        noise_scale=amount,
        min_opacity=config.prune_opacity,
    )

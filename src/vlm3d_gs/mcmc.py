"""Densification as sampling: dead Gaussians and new ones go where opaque ones stand, faint ones are shaken.

After Kheradmand et al. 2024 (3D Gaussian Splatting as Markov Chain Monte Carlo, arXiv 2404.09591). The picture stays
nearly as it was: Gaussians in one place get the opacity and scale with which they hide what the one did.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vlm3d_gs import kernels
from vlm3d_gs.config import DensifyConfig
from vlm3d_gs.densify import Densified, kept
from vlm3d_gs.kernels.mcmc import MOST_COPIES, perturb_twin, relocated_twin
from vlm3d_gs.scene import Gaussians

FAINTEST = 1e-12
"""Chances are taken from this opacity up, so that a scene of nothing but air still has a place."""


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
        The scene after the round, `max_gaussians` or more only if there were so many; those whose opacity and scale
        changed count as fresh. Not differentiable.
    """
    scene = gaussians.detach()
    alive = kept(scene, config)
    n = len(scene)
    added = max(0, min(int(config.grow_share * n), max_gaussians - n))
    wanted = int((~alive).sum()) + added
    if not wanted:
        return Densified(scene, torch.arange(n, device=alive.device), torch.zeros_like(alive))
    chances = torch.where(alive, scene.opacities.clamp_min(FAINTEST), 0.0).cpu()
    places = torch.multinomial(chances, wanted, replacement=True, generator=generator)
    copies = 1 + torch.bincount(places, minlength=n).clamp_max(MOST_COPIES - 1)
    copies = copies.to(device=alive.device, dtype=torch.int32)
    change = kernels.relocated if fused else relocated_twin
    logits, log_scales = change(scene.opacity_logits, scene.log_scales, copies)
    lowest = torch.logit(torch.tensor(config.prune_opacity, device=logits.device), eps=1e-6)
    shared = copies > 1
    values = scene.parameters()
    values["opacity_logits"] = torch.where(
        shared, torch.maximum(logits, lowest), values["opacity_logits"]
    )
    values["log_scales"] = torch.where(shared[:, None], log_scales, values["log_scales"])
    source = torch.cat([alive.nonzero()[:, 0], places.to(alive.device)])
    return Densified(Gaussians(**values).select(source), source, shared[source])


def shake(
    leaves: Mapping[str, Tensor],
    config: DensifyConfig,
    fraction: float,
    generator: torch.Generator,
    *,
    fused: bool = False,
) -> None:
    """Move the means of faint Gaussians at random within their own extent, in place. Not differentiable.

    Args:
        leaves: the raw parameters by name.
        config: strength, and which opacity is faint.
        fraction: of the run.
        generator: source of the noise, on the CPU, so that it is the same for every device.
        fused: by the own kernel, where it can run.
    """
    means, log_scales, quats, logits = (
        leaves[name].detach() for name in ("means", "log_scales", "quats", "opacity_logits")
    )
    drawn = torch.randn(means.shape, generator=generator).to(means.device, non_blocking=True)
    move = kernels.perturb_means if fused else perturb_twin
    move(
        means,
        log_scales,
        quats,
        logits,
        drawn,
        amount=config.noise(fraction),
        dead=config.prune_opacity,
    )

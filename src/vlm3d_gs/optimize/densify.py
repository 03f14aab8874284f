"""Densification by gradients: clone and split Gaussians with a large screen gradient, prune those that do not help.

After Kerbl et al. 2023 (3D Gaussian Splatting, section 5.2), with one change: a fixed gradient threshold would depend
on prior, guidance scale and resolution, so a fixed fraction of the Gaussians grows, those with the largest mean
gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vlm3d_gs import kernels
from vlm3d_gs.config import DensifyConfig
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render.result import Rendering

SPLIT_SHRINK = 1.6
"""Factor by which the two halves of a split Gaussian are smaller (Kerbl et al., section 5.2)."""


@dataclass
class ScreenGradients:
    """Mean screen-space gradient of each Gaussian since the last round."""

    total: Tensor
    """[N] sum of the gradient norms over views and steps."""
    count: Tensor
    """[N] number of views in which the Gaussian was visible."""

    @classmethod
    def empty(cls, n: int, device: torch.device) -> ScreenGradients:
        """Return zeros for n Gaussians."""
        return cls(torch.zeros(n, device=device), torch.zeros(n, device=device))

    def add(self, rendering: Rendering) -> None:
        """Add the gradients of one step's renders, after the backward pass."""
        gradient = rendering.means2d.grad
        if gradient is None:
            return
        visible = rendering.radii > 0
        self.total += (_per_picture(gradient, rendering).norm(dim=-1) * visible).sum(0)
        self.count += visible.sum(0)

    def pending(self, rendering: Rendering) -> kernels.ScreenStats | None:
        """Return the inputs of `add`, for a kernel that does the same beside its own work."""
        gradient = rendering.means2d.grad
        if gradient is None:
            return None
        scaled = _per_picture(gradient, rendering)
        return kernels.ScreenStats(scaled, rendering.radii, self.total, self.count)

    @property
    def mean(self) -> Tensor:
        """[N] mean norm, 0 for a Gaussian that was never visible."""
        return self.total / self.count.clamp_min(1.0)


def _per_picture(gradient: Tensor, rendering: Rendering) -> Tensor:
    """Return the gradient [C, N, 2] per half a picture instead of per pixel, of a loss that is summed over the views.

    So pictures that are not square, of another size or in another number count alike.

    Source: gsplat (Ye et al. 2024, arXiv 2409.06765), DefaultStrategy: times half of width and height and the cameras.
    """
    views, height, width = rendering.color.shape[:3]
    across, down = gradient.unbind(-1)  # a tensor of two numbers would have to be copied to a GPU
    return torch.stack([across * (0.5 * width * views), down * (0.5 * height * views)], -1)


@dataclass(frozen=True)
class Densified:
    """A scene after a round, and the origin of its Gaussians."""

    gaussians: Gaussians
    """M Gaussians."""
    source: Tensor
    """[M] int64 index of the earlier Gaussian."""
    fresh: Tensor
    """[M] bool, True for those that were added or changed: their moments start at zero."""


def is_round(step: int, steps: int, config: DensifyConfig) -> bool:
    """Return whether a round follows step `step` of `steps`: every `every` of the run from `start` to `stop`."""
    if not config.enabled:
        return False

    before, after = step / steps, (step + 1) / steps

    def rounds_until(fraction: float) -> int:
        # 1e-9 absorbs the rounding of fractions that fall on a round.
        return int((min(fraction, config.stop) - config.start) / config.every + 1.0 + 1e-9)

    done = rounds_until(before) if before >= config.start else 0
    return after >= config.start and rounds_until(after) > done


def densify(
    gaussians: Gaussians,
    gradients: ScreenGradients,
    config: DensifyConfig,
    max_gaussians: int,
    generator: torch.Generator,
) -> Densified:
    """Prune, and clone the small and split the large ones of the Gaussians with the largest screen gradients.

    Args:
        gaussians: N Gaussians.
        gradients: their statistics since the last round.
        config: fractions and limits.
        max_gaussians: nothing is added beyond this count.
        generator: source of the split positions, on the CPU.

    Not differentiable. At least one Gaussian remains.
    """
    scene = gaussians.detach()
    pruned_first = config.prune == "before"
    keep = keep_mask(scene, config) if pruned_first else torch.ones_like(scene.opacities) > 0.0
    n_kept = int(keep.sum())

    # The largest gradients among those that stay, as many as fit.
    order = torch.where(keep, gradients.mean, -1.0).argsort(descending=True, stable=True)
    n_grown = max(0, min(int(config.grow_share * n_kept), max_gaussians - n_kept))
    grown = torch.zeros_like(keep)
    grown[order[:n_grown]] = True
    grown &= keep

    large = scene.scales.amax(-1) > config.split_scale
    cloned, split = (grown & ~large).nonzero()[:, 0], (grown & large).nonzero()[:, 0]
    unchanged = (keep & ~(grown & large)).nonzero()[:, 0]
    source = torch.cat([unchanged, cloned, split, split])
    result = scene.select(source)

    # The halves of a split one are drawn from its own distribution.
    if len(split):
        halves = slice(len(unchanged) + len(cloned), None)
        offsets = torch.randn(2 * len(split), 3, generator=generator).to(result.means)
        shift = (result.rotations[halves] @ (result.scales[halves] * offsets)[..., None])[..., 0]
        result.means[halves] += shift
        result.log_scales[halves] -= torch.log(torch.tensor(SPLIT_SHRINK)).item()

    fresh = torch.arange(len(source), device=source.device) >= len(unchanged)
    if pruned_first:
        return Densified(result, source, fresh)
    keep = keep_mask(result, config)
    return Densified(result.select(keep), source[keep], fresh[keep])


def lower_opacities(gaussians: Gaussians, config: DensifyConfig) -> Densified:
    """Lower all opacities to twice `prune_opacity` at most; their moments start anew.

    Source: Kerbl et al. 2023 (3D Gaussian Splatting), section 5.2, against floaters; the limit as in gsplat.
    """
    scene = gaussians.detach()
    limit = min(max(2.0 * config.prune_opacity, 1e-6), 1.0 - 1e-6)
    logits = scene.opacity_logits.clamp_max(math.log(limit / (1.0 - limit)))
    source = torch.arange(len(scene), device=scene.device)
    lowered = scene.changed({"opacity_logits": logits})
    return Densified(lowered, source, torch.ones_like(source, dtype=torch.bool))


def is_reset(step: int, steps: int, config: DensifyConfig) -> bool:
    """Return whether opacities are lowered after step `step` of `steps`: at every `reset_every` until `stop`."""
    if not config.enabled or config.method != "gradient" or config.reset_every == 0.0:
        return False
    before, after = step / steps, (step + 1) / steps
    passed = int(after / config.reset_every + 1e-9) > int(before / config.reset_every + 1e-9)
    return passed and after <= config.stop


def keep_mask(scene: Gaussians, config: DensifyConfig) -> Tensor:
    """Return [N] bool, False for what is pruned: too faint, too large or too far out; one always stays."""
    keep = (
        (scene.opacities >= config.prune_opacity)
        & (scene.scales.amax(-1) <= config.prune_scale)
        & (scene.means.norm(dim=-1) <= config.prune_radius)
    )
    if len(scene) and not bool(keep.any()):
        keep[scene.opacities.argmax()] = True
    return keep

"""When Gaussians are added and removed: clone and split where the screen gradient is large, prune what does not help.

After Kerbl et al. 2023 (3D Gaussian Splatting, section 5.2), with one change: not a fixed gradient
threshold, which would depend on prior, guidance scale and resolution, but a share of the Gaussians,
those with the largest mean gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlm3d_gs import kernels
from vlm3d_gs.config import DensifyConfig
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render.result import Rendering

SPLIT_SHRINK = 1.6
"""The two halves of a split Gaussian are this much smaller (Kerbl et al., section 5.2)."""


@dataclass
class ScreenGradients:
    """Running mean of each Gaussian's screen-space gradient since the last round."""

    total: Tensor
    """[N] sum of the gradient's length over views and steps."""
    count: Tensor
    """[N] number of views in which the Gaussian was seen."""

    @classmethod
    def empty(cls, n: int, device: torch.device) -> ScreenGradients:
        """Start at nothing for n Gaussians."""
        return cls(torch.zeros(n, device=device), torch.zeros(n, device=device))

    def add(self, rendering: Rendering) -> None:
        """Take in one step's renders, after the backward pass."""
        gradient = rendering.means2d.grad
        if gradient is None:
            return
        seen = rendering.radii > 0
        self.total += (gradient.norm(dim=-1) * seen).sum(0)
        self.count += seen.sum(0)

    def pending(self, rendering: Rendering) -> kernels.ScreenStats | None:
        """Return the work of `add`, for a kernel that does it on the way."""
        gradient = rendering.means2d.grad
        if gradient is None:
            return None
        return kernels.ScreenStats(gradient, rendering.radii, self.total, self.count)

    @property
    def mean(self) -> Tensor:
        """[N] mean length, 0 for a Gaussian that was never seen."""
        return self.total / self.count.clamp_min(1.0)


@dataclass(frozen=True)
class Densified:
    """A scene after a round, and where its Gaussians come from."""

    gaussians: Gaussians
    """M Gaussians."""
    source: Tensor
    """[M] int64 index of the earlier Gaussian."""
    fresh: Tensor
    """[M] bool, True for those that were added or changed: they begin without moments."""


def is_round(step: int, steps: int, config: DensifyConfig) -> bool:
    """Tell whether a round follows step `step` of `steps`: each `every` of the run from `start` to `stop`."""
    if not config.enabled:
        return False
    before, after = step / steps, (step + 1) / steps

    def rounds(fraction: float) -> int:
        return int((min(fraction, config.stop) - config.start) / config.every + 1.0 + 1e-9)

    return after >= config.start and rounds(after) > (
        rounds(before) if before >= config.start else 0
    )


def densify(
    gaussians: Gaussians,
    gradients: ScreenGradients,
    config: DensifyConfig,
    max_gaussians: int,
    generator: torch.Generator,
) -> Densified:
    """Prune, then clone small and split large Gaussians with the largest screen gradients.

    Args:
        gaussians: N Gaussians.
        gradients: their statistics since the last round.
        config: shares and limits.
        max_gaussians: nothing is added beyond this count.
        generator: source of the split positions, on the CPU.

    Not differentiable. At least one Gaussian is kept.
    """
    scene = gaussians.detach()
    keep = kept(scene, config)
    order = torch.where(keep, gradients.mean, -1.0).argsort(descending=True, stable=True)
    room = max(0, min(int(config.grow_share * int(keep.sum())), max_gaussians - int(keep.sum())))
    grown = torch.zeros_like(keep)
    grown[order[:room]] = True
    grown &= keep
    large = scene.scales.amax(-1) > config.split_scale
    cloned, split = (grown & ~large).nonzero()[:, 0], (grown & large).nonzero()[:, 0]
    stay = (keep & ~(grown & large)).nonzero()[:, 0]
    source = torch.cat([stay, cloned, split, split])
    result = scene.select(source)
    halves = slice(len(stay) + len(cloned), None)
    if len(split):
        offsets = torch.randn(2 * len(split), 3, generator=generator).to(result.means)
        spread = (result.rotations[halves] @ (result.scales[halves] * offsets)[..., None])[..., 0]
        result.means[halves] += spread
        result.log_scales[halves] -= torch.log(torch.tensor(SPLIT_SHRINK)).item()
    fresh = torch.arange(len(source), device=source.device) >= len(stay)
    return Densified(result, source, fresh)


def kept(scene: Gaussians, config: DensifyConfig) -> Tensor:
    """Return [N] bool: opaque enough, not too large, not too far out; the most opaque one always."""
    keep = (
        (scene.opacities >= config.prune_opacity)
        & (scene.scales.amax(-1) <= config.prune_scale)
        & (scene.means.norm(dim=-1) <= config.prune_radius)
    )
    if len(scene) and not bool(keep.any()):
        keep[scene.opacities.argmax()] = True
    return keep

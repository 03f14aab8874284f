"""Slow witnesses and drawn scenes for the renderer's tests."""

from __future__ import annotations

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render import reference
from vlm3d_gs.render.conventions import ALPHA_CAP, ALPHA_FLOOR, TRANSMITTANCE_STOP

KINDS = ("plain", "behind", "off_screen", "huge", "needle", "opaque", "zero_quat", "faint")
"""Families of Gaussians that drawn scenes are mixed from."""


def draw_scene(
    n: int, seed: int, sh_degree: int = 0, kinds: tuple[str, ...] = ("plain",)
) -> Gaussians:
    """Draw n float32 Gaussians, each of one of the kinds."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    means, log_scales = 0.6 * normal(n, 3), 0.7 * normal(n, 3) - 2.5
    quats, logits = normal(n, 4), 2.0 * normal(n)
    sh = 0.4 * normal(n, (sh_degree + 1) ** 2, 3)
    which = torch.randint(len(kinds), (n,), generator=generator)
    for i, kind in enumerate(kinds):
        chosen = which == i
        if kind == "behind":
            means[chosen] *= 10.0
        elif kind == "off_screen":
            means[chosen] += torch.tensor([0.0, 3.0, 1.0])
        elif kind == "huge":
            log_scales[chosen] += 4.0
        elif kind == "needle":
            log_scales[chosen] += torch.tensor([2.0, -6.0, -6.0])
        elif kind == "opaque":
            logits[chosen] = 12.0
        elif kind == "zero_quat":
            quats[chosen] = 0.0
        elif kind == "faint":
            logits[chosen] = -5.5
    return Gaussians(means, log_scales, quats, logits, sh)


def ring(views: int, width: int = 50, height: int = 37) -> Cameras:
    """Return a few cameras around the origin, none of them on an axis."""
    azimuths = [10.0 + 97.0 * view for view in range(views)]
    elevations = [20.0 - 17.0 * view for view in range(views)]
    return orbit(azimuths, elevations, 2.5, 45.0, width, height)


def decided_pixels(gaussians: Gaussians, cameras: Cameras, margin: float = 1e-3) -> Tensor:
    """Return [C, H, W]: pixels where no decision hangs on the last digits.

    The picture jumps where alpha meets its floor or the transmittance its stop, and its gradient
    where alpha meets its cap. A pixel is left out when, for some Gaussian, one of them is within a
    relative margin of its threshold; there float32 and float64 may rightly decide differently. Also
    left out: two Gaussians that cover the pixel, at depths that float32 cannot tell apart but
    float64 can.
    """
    scene, views = gaussians.detach().to(dtype=torch.float64), cameras.to(dtype=torch.float64)
    means2d, conics, depths, radii, compensations = reference.project(scene, views)
    pixels = reference.pixel_centres(views)
    decided = []
    for view in range(len(views)):
        offset = pixels[:, None] - means2d[view]
        sigma = 0.5 * torch.einsum("pni,nij,pnj->pn", offset, conics[view], offset)
        raw = scene.opacities * compensations[view] * torch.exp(-sigma) * (radii[view] > 0)
        order = depths[view].argsort(stable=True)
        raw, depth = raw[:, order], depths[view][order]
        alpha = torch.where(raw >= ALPHA_FLOOR, raw.clamp(max=ALPHA_CAP), 0.0)
        after = torch.cumprod(1.0 - alpha, dim=1)
        close = ((raw / ALPHA_FLOOR - 1.0).abs() < margin) | (
            (raw / ALPHA_CAP - 1.0).abs() < margin
        )
        close |= (after / TRANSMITTANCE_STOP - 1.0).abs() < margin
        gap = depth.diff()
        tied = (gap > 0) & (gap < 1e-6 * depth[1:])
        close[:, 1:] |= tied & (alpha[:, 1:] > 0) & (alpha[:, :-1] > 0)
        decided.append(~close.any(1))
    return torch.stack(decided).reshape(len(views), cameras.height, cameras.width)

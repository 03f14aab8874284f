"""gsplat's own torch functions composed into a renderer, the closest thing to gsplat without a GPU.

gsplat has functions in plain torch that project and evaluate harmonics, as references for its kernels. Its blending
reference needs a GPU, and its tile lists are built in a Python loop, so those two are written here as a torch user
would write them: each tile blends the Gaussians that touch it, front to back, all its pixels at once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians

TILE = 16
EPS2D = 0.3
MIN_ALPHA, MAX_ALPHA = 1.0 / 255.0, 0.999


@cache
def functions() -> Any | None:
    """Return gsplat's module of torch functions; None if gsplat is not installed."""
    try:
        from gsplat.cuda import _torch_impl
    except ImportError:
        return None
    return _torch_impl


def render_by_gsplat(gaussians: Gaussians, cameras: Cameras, background: Tensor) -> Tensor:
    """Return [C, H, W, 3] colours, differentiable; harmonics of degree 0 only.

    Args:
        gaussians: the scene, on the CPU.
        cameras: C cameras of one size, a multiple of `TILE`.
        background: [3].
    """
    gsplat = functions()
    covars, _ = gsplat._quat_scale_to_covar_preci(
        gaussians.quats, gaussians.scales, compute_preci=False
    )
    radii, means2d, depths, conics, _ = gsplat._fully_fused_projection(
        gaussians.means,
        covars,
        cameras.viewmats.float(),
        cameras.Ks.float(),
        cameras.width,
        cameras.height,
        eps2d=EPS2D,
    )

    # at degree 0 the direction does not matter
    directions = gaussians.means.detach()
    colors = (gsplat._spherical_harmonics(0, directions, gaussians.sh) + 0.5).clamp_min(0.0)

    pictures = []
    for view in range(len(cameras)):
        order = depths[view].detach().argsort()
        pictures.append(
            _blend(
                means2d[view][order],
                conics[view][order],
                radii[view][order],
                gaussians.opacities[order],
                colors[order],
                background,
                (cameras.height, cameras.width),
            )
        )
    return torch.stack(pictures)


def _blend(
    means: Tensor,
    conics: Tensor,
    radii: Tensor,
    opacities: Tensor,
    colors: Tensor,
    background: Tensor,
    size: tuple[int, int],
) -> Tensor:
    """Return one picture [H, W, 3] of Gaussians in order of depth."""
    rows, columns = size[0] // TILE, size[1] // TILE

    # which Gaussians touch which column and which row of tiles
    low, high = means.detach() - radii, means.detach() + radii
    x0, y0 = (TILE * torch.arange(count) for count in (columns, rows))
    visible = (radii > 0).all(-1)
    across = (low[:, 0] < x0[:, None] + TILE) & (high[:, 0] > x0[:, None])
    down = (low[:, 1] < y0[:, None] + TILE) & (high[:, 1] > y0[:, None])

    step = torch.arange(TILE) + 0.5
    inside = torch.stack(torch.meshgrid(step, step, indexing="xy"), -1).reshape(-1, 2)

    tiles = []
    for row in range(rows):
        for column in range(columns):
            index = (across[column] & down[row] & visible).nonzero()[:, 0]
            pixels = inside + torch.tensor([x0[column], y0[row]])
            x, y = (pixels[:, None] - means[index]).unbind(-1)
            a, b, c = conics[index].unbind(-1)
            power = 0.5 * (a * x * x + c * y * y) + b * x * y
            alpha = (opacities[index] * torch.exp(-power)).clamp_max(MAX_ALPHA)
            alpha = torch.where(alpha >= MIN_ALPHA, alpha, 0.0)

            after = torch.cumprod(1.0 - alpha, -1)
            before = torch.cat([torch.ones(len(pixels), 1), after], -1)
            color = (alpha * before[:, :-1]) @ colors[index] + before[:, -1:] * background
            tiles.append(color.reshape(TILE, TILE, 3))

    grid = torch.stack(tiles).reshape(rows, columns, TILE, TILE, 3)
    return grid.permute(0, 2, 1, 3, 4).reshape(*size, 3)

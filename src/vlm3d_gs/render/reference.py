"""The definition of the picture: dense, in float64, differentiated by autograd. Slow on purpose.

Every Gaussian is evaluated at every pixel: no tiles, and no cut-offs except those of the
definition. The other backends are tested against this file. Letters: C views, N Gaussians, P = H *
W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlm3d_gs.core.bands import coefficient_count
from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.harmonics import eval_sh
from vlm3d_gs.render.conventions import (
    ALPHA_CAP,
    ALPHA_FLOOR,
    DEPTH_EPS,
    DILATION_PX2,
    FRUSTUM_MARGIN,
    NEAR,
    TRANSMITTANCE_STOP,
)
from vlm3d_gs.render.result import Rendering


def render_reference(
    gaussians: Gaussians, cameras: Cameras, background: Tensor, sh_degree: int
) -> Rendering:
    """Render all views by the definition.

    Args:
        gaussians: N Gaussians, any floating dtype, any device.
        cameras: C cameras.
        background: [C, 3] colours.
        sh_degree: highest degree used, at most that of the Gaussians.

    Returns:
        The rendering, computed in float64 and returned in the dtype of the Gaussians.

    Differentiable in every parameter. Memory grows with N * H * W for each view.

    Source: Kerbl et al. 2023 (3D Gaussian Splatting), sections 4 to 6; Zwicker et al. 2001 (EWA
    splatting), eq. 26 to 31; for antialiased scenes Yu et al. 2024 (Mip-Splatting), section 4.2.
    """
    scene, views = gaussians.to(dtype=torch.float64), cameras.to(gaussians.device, torch.float64)
    means2d, conics, depths, radii, compensations = project(scene, views)
    if means2d.requires_grad:
        means2d.retain_grad()

    colors = view_colors(scene, views, sh_degree)
    pixels = pixel_centres(views)
    pictures = [
        composite(
            alphas(means2d[view], conics[view], scene.opacities * compensations[view], pixels)
            * (radii[view] > 0),
            depths[view],
            colors[view],
        )
        for view in range(len(views))
    ]
    color, alpha, depth = (torch.stack(channel) for channel in zip(*pictures, strict=True))
    color = color + (1.0 - alpha) * background.to(color)[:, None, :]

    size = (len(views), views.height, views.width, -1)
    color, alpha, depth = (
        channel.reshape(size).to(gaussians.dtype) for channel in (color, alpha, depth)
    )
    return Rendering(color, alpha, depth, radii.to(gaussians.dtype), means2d)


def project(scene: Gaussians, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return what the pictures are made of.

    Returns:
        Centres [C, N, 2] px, inverse 2D covariances [C, N, 2, 2], depths [C, N], radii [C, N] px, and the factors
        [C, N] of the opacities, 1 for scenes that are not antialiased.
    """
    rotation, translation = cameras.viewmats[:, :3, :3], cameras.viewmats[:, :3, 3]
    points = torch.einsum("cij,nj->cni", rotation, scene.means) + translation[:, None]

    # Points before the near plane are replaced by one that projects safely: NaN would leak into gradients.
    in_front = points[..., 2] >= NEAR
    x, y, z = torch.where(in_front[..., None], points, points.new_tensor([0.0, 0.0, 1.0])).unbind(
        -1
    )
    fx, fy = cameras.Ks[:, 0, 0, None], cameras.Ks[:, 1, 1, None]
    cx, cy = cameras.Ks[:, 0, 2, None], cameras.Ks[:, 1, 2, None]
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)

    # The Jacobian of the projection, at a point drawn back towards the frustum as gsplat does.
    margin_x, margin_y = (
        FRUSTUM_MARGIN * 0.5 * cameras.width / fx,
        FRUSTUM_MARGIN * 0.5 * cameras.height / fy,
    )
    tan_x = (x / z).clamp(-(cx / fx + margin_x), (cameras.width - cx) / fx + margin_x)
    tan_y = (y / z).clamp(-(cy / fy + margin_y), (cameras.height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack(
        [fx / z, zero, -fx * tan_x / z, zero, fy / z, -fy * tan_y / z], -1
    ).unflatten(-1, (2, 3))

    world_to_image = jacobian @ rotation[:, None]
    sharp = world_to_image @ scene.covariances @ world_to_image.mT
    covariances = sharp + DILATION_PX2 * torch.eye(2).to(sharp)
    compensations = torch.ones_like(z)
    if scene.antialiased:
        compensations = opacity_compensations(sharp)

    # The box outside which alpha is below the floor: o exp(-d^2 / 2) = floor at d = extent, in standard deviations.
    opacities = (scene.opacities * compensations).detach()
    extent = (2.0 * (opacities / ALPHA_FLOOR).log().clamp(min=0.0)).sqrt()
    half_box = extent[..., None] * covariances.detach().diagonal(dim1=-2, dim2=-1).sqrt()
    low, high = means2d.detach() - half_box, means2d.detach() + half_box
    size = low.new_tensor([cameras.width, cameras.height])
    seen = in_front & (extent > 0) & (high > 0).all(-1) & (low < size).all(-1)
    radii = torch.where(seen, half_box.amax(-1), 0.0)
    means2d = torch.where(seen[..., None], means2d, 0.0)
    return means2d, torch.linalg.inv(covariances), z, radii, compensations


def opacity_compensations(sharp: Tensor) -> Tensor:
    """Return by what the dilation would make a Gaussian cover too much, as a factor on its opacity.

    Args:
        sharp: [..., 2, 2] covariances of the images before the dilation, px^2.

    Returns:
        [...] the root of the ratio of the determinants, before and after the dilation, 0 to 1.

    Differentiable. Source: Yu et al. 2024 (Mip-Splatting), eq. 9, without the small numbers that its code adds.
    """
    # det(S + d I) = det S + d (trace S + d): so nothing cancels in the gradient where the ratio is nearly 1.
    det, trace = torch.linalg.det(sharp), sharp.diagonal(dim1=-2, dim2=-1).sum(-1)
    # Edge-on discs have none; the slope of the root is infinite there.
    flat = det <= 0.0
    added = DILATION_PX2 * (trace + DILATION_PX2) / torch.where(flat, 1.0, det)
    return torch.where(flat, 0.0, (1.0 + added).rsqrt())


def view_colors(scene: Gaussians, cameras: Cameras, sh_degree: int) -> Tensor:
    """Return the colours [C, N, 3] that each camera sees."""
    dirs = torch.nn.functional.normalize(scene.means - cameras.positions[:, None], dim=-1)
    return (eval_sh(scene.sh[:, : coefficient_count(sh_degree)], dirs) + 0.5).clamp(min=0.0)


def pixel_centres(cameras: Cameras) -> Tensor:
    """Return the centres [P, 2] (x, y) of all pixels, rows first, px."""
    rows, columns = torch.arange(cameras.height), torch.arange(cameras.width)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return (torch.stack([x, y], -1).reshape(-1, 2) + 0.5).to(cameras.viewmats)


def alphas(means2d: Tensor, conics: Tensor, opacities: Tensor, pixels: Tensor) -> Tensor:
    """Return the coverage [P, N] of each pixel by each Gaussian, before occlusion."""
    offset = pixels[:, None] - means2d
    sigma = 0.5 * torch.einsum("pni,nij,pnj->pn", offset, conics, offset)
    alpha = (opacities * torch.exp(-sigma)).clamp(max=ALPHA_CAP)
    return torch.where(alpha >= ALPHA_FLOOR, alpha, 0.0)


def composite(alpha: Tensor, depths: Tensor, colors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return colour [P, 3] on black, alpha [P, 1] and expected depth [P, 1] of coverages [P, N] in any order."""
    order = depths.argsort(stable=True)
    alpha = alpha[:, order]
    after = torch.cumprod(1.0 - alpha, dim=1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], dim=1)
    weights = torch.where(after > TRANSMITTANCE_STOP, alpha * before, 0.0)
    total = weights.sum(1, keepdim=True)
    depth = (weights @ depths[order, None]) / total.clamp(min=DEPTH_EPS)
    return weights @ colors[order], total, depth

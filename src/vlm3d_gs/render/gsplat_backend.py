"""gsplat behind our interface, for Gaussians on a CUDA device. Written for gsplat 1.5.3 and 1.6.

gsplat is imported inside a function, after a CUDA device was found: newer versions start compiling
at import wherever they find a compiler. The two versions differ only in the cap of alpha, 0.999 and
0.99. Letters: C views, N Gaussians.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlm3d_gs.core.bands import coefficient_count
from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.errors import DeviceError, MissingDependencyError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.rotations import normalize_quats
from vlm3d_gs.render.conventions import DILATION_PX2, NEAR
from vlm3d_gs.render.result import Rendering

OLDEST = (1, 5)
"""The oldest version whose `rasterization` has the interface that `rasterize` expects."""


def render_gsplat(
    gaussians: Gaussians, cameras: Cameras, background: Tensor, sh_degree: int
) -> Rendering:
    """Render all views with gsplat's CUDA kernels.

    Args:
        gaussians: N Gaussians on a CUDA device; computed in float32.
        cameras: C cameras; moved to that device.
        background: [C, 3] colours.
        sh_degree: highest degree used, at most that of the Gaussians.

    Returns:
        The rendering. Centres of Gaussians that are not seen are as gsplat leaves them.

    Raises:
        DeviceError: no CUDA device, or the Gaussians are not on one.
        MissingDependencyError: gsplat is not installed, or too old.

    Differentiable in every parameter.
    """
    if not torch.cuda.is_available():
        raise DeviceError(
            "The gsplat renderer needs a CUDA device and torch sees none. "
            "Use backend='cpu', or install a torch build with CUDA on a machine with a GPU."
        )
    if gaussians.device.type != "cuda":
        raise DeviceError(
            f"The gsplat renderer needs Gaussians on a CUDA device, got {gaussians.device}. "
            "Move them with .to('cuda') or use backend='cpu'."
        )
    return rasterize(load_rasterization(), gaussians, cameras, background, sh_degree)


def load_rasterization() -> Callable[..., Any]:
    """Return gsplat's `rasterization`. Call only where torch sees a CUDA device.

    Raises:
        MissingDependencyError: gsplat is not installed, or too old.
    """
    try:
        import gsplat
    except ImportError as error:
        raise MissingDependencyError(
            "The gsplat renderer needs gsplat 1.5.3 or newer (not installed). "
            "Run: vlm3d-gs setup gpu."
        ) from error

    if parse_version(gsplat.__version__) < OLDEST:
        raise MissingDependencyError(
            f"The gsplat renderer needs gsplat 1.5.3 or newer, got {gsplat.__version__}. "
            "Run: pip uninstall gsplat, then: vlm3d-gs setup gpu."
        )

    rasterization: Callable[..., Any] = gsplat.rasterization
    return rasterization


def parse_version(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, e.g. (1, 6, 0) of 1.6.0+cu128."""
    numbers: list[int] = []
    for part in text.split("+", 1)[0].split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def rasterize(
    rasterization: Callable[..., Any],
    gaussians: Gaussians,
    cameras: Cameras,
    background: Tensor,
    sh_degree: int,
) -> Rendering:
    """Call gsplat's `rasterization` and convert its result; other arguments as for `render_gsplat`.

    The background is composited here, and quaternions are normalised here, because gsplat turns a
    zero quaternion into NaN.
    """
    device, dtype = gaussians.device, gaussians.dtype
    if len(gaussians) == 0 or len(cameras) == 0:  # gsplat launches no empty kernels
        size = (len(cameras), cameras.height, cameras.width)
        nothing = torch.zeros(*size, 1, device=device, dtype=dtype)
        color = (nothing + background[:, None, None, :]).to(dtype)
        flat = torch.zeros(len(cameras), len(gaussians), 2, device=device, dtype=dtype)
        return Rendering(color, nothing, nothing.clone(), flat[..., 0], flat)

    scene, views = gaussians.to(dtype=torch.float32), cameras.to(device, torch.float32)
    pictures, alpha, meta = rasterization(
        means=scene.means,
        quats=normalize_quats(scene.quats),
        scales=scene.scales,
        opacities=scene.opacities,
        colors=scene.sh[:, : coefficient_count(sh_degree)].contiguous(),
        viewmats=views.viewmats,
        Ks=views.Ks,
        width=cameras.width,
        height=cameras.height,
        near_plane=NEAR,
        eps2d=DILATION_PX2,
        radius_clip=0.0,
        sh_degree=sh_degree,
        packed=False,  # one small object that every camera sees: the packed form only costs time
        render_mode="RGB+ED",
        rasterize_mode="antialiased" if gaussians.antialiased else "classic",
    )

    means2d, radii = meta["means2d"], meta["radii"]
    if means2d.requires_grad:
        means2d.retain_grad()
    if radii.ndim == 3:  # [C, N, 2]: half width and half height
        radii = radii.amax(-1)

    color = pictures[..., :3] + (1.0 - alpha) * background.to(pictures)[:, None, None, :]
    depth = pictures[..., 3:4]
    return Rendering(
        color.to(dtype), alpha.to(dtype), depth.to(dtype), radii.clamp(min=0).to(dtype), means2d
    )

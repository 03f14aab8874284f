"""Pictures of Gaussians: one function, three backends that agree.

`reference` is the definition (float64, slow), `cpu` the compiled rasteriser for machines without a
GPU, `gsplat` the CUDA one. docs/CONVENTIONS.md defines the picture.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.checks import expect_finite, expect_shape
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians, validate
from vlm3d_gs.render.result import Rendering

__all__ = ["BACKENDS", "Backend", "Rendering", "choose_backend", "render"]

Backend = Literal["auto", "cpu", "gsplat", "reference"]
BACKENDS: tuple[Backend, ...] = ("auto", "cpu", "gsplat", "reference")


def render(
    gaussians: Gaussians,
    cameras: Cameras,
    *,
    backend: Backend = "auto",
    background: Tensor | tuple[float, float, float] | None = None,
    sh_degree: int | None = None,
    check: bool = True,
) -> Rendering:
    """Render all views of a scene in one call.

    Args:
        gaussians: N Gaussians, N may be 0.
        cameras: C cameras, on the device of the Gaussians (moved there if not).
        backend: "auto" takes gsplat for Gaussians on a CUDA device and cpu otherwise.
        background: colour behind everything, [3], or one per view, [C, 3], sRGB; None is black.
        sh_degree: highest degree of the spherical harmonics used; None is all that the Gaussians have.
        check: look for values that are NaN or infinite, for which a GPU must be waited for; without, the caller has
            looked or will (`optimize.log_rows`).

    Returns:
        Colour, alpha, depth, and radii and projected centres for densification.

    Raises:
        ConfigError: unknown backend, a parameter that is NaN or infinite, or a degree that the
            Gaussians do not have.
        ShapeError: the background's shape does not fit.
        DeviceError: the backend cannot run on the device of the Gaussians.
        MissingDependencyError: gsplat is asked for and not installed.

    Differentiable in the Gaussians' parameters; not in cameras and background. After backward,
    `means2d.grad` of the result holds the gradient of the loss with respect to the projected
    centres.
    """
    chosen = choose_backend(backend, gaussians.device)

    if check:
        validate(gaussians)
        expect_finite("cameras.viewmats", cameras.viewmats)
    degree = gaussians.sh_degree if sh_degree is None else sh_degree
    if degree not in range(gaussians.sh_degree + 1):
        raise ConfigError(
            f"sh_degree must be 0 to {gaussians.sh_degree} for these Gaussians, got {sh_degree}."
        )
    backdrop = _backgrounds(background, len(cameras), gaussians, check=check)

    # Each backend's libraries are loaded only when that backend is chosen.
    if chosen == "reference":
        from vlm3d_gs.render.reference import render_reference

        return render_reference(gaussians, cameras, backdrop, degree)

    if chosen == "cpu":
        from vlm3d_gs.render.cpu.cache import tell_of_start

        tell_of_start()
        from vlm3d_gs.render.cpu.rasterize import render_cpu

        return render_cpu(gaussians, cameras, backdrop, degree)

    from vlm3d_gs.render.gsplat_backend import render_gsplat

    return render_gsplat(gaussians, cameras, backdrop, degree)


def choose_backend(backend: str, device: torch.device) -> Backend:
    """Return the backend for Gaussians on a device; "auto" takes gsplat on CUDA and cpu elsewhere.

    Raises:
        ConfigError: unknown name; the message lists the known ones.
    """
    if backend == "auto":
        return "gsplat" if device.type == "cuda" else "cpu"
    if backend == "cpu":
        return "cpu"
    if backend == "gsplat":
        return "gsplat"
    if backend == "reference":
        return "reference"
    raise ConfigError(f"Unknown render backend {backend!r}. Available: {', '.join(BACKENDS)}.")


def _backgrounds(
    background: Tensor | tuple[float, float, float] | None,
    views: int,
    like: Gaussians,
    *,
    check: bool,
) -> Tensor:
    """Return [C, 3] background colours, detached, in the dtype and on the device of the Gaussians."""
    if background is None:
        return like.means.new_zeros(views, 3)

    colors = torch.as_tensor(background, dtype=like.dtype).detach()
    if colors.ndim == 1:
        expect_shape("background", colors, (3,))
        colors = colors.expand(views, 3)

    expect_shape("background", colors, (views, 3))
    if check:
        expect_finite("background", colors)
    return colors.to(like.device, non_blocking=like.device.type == "cuda")

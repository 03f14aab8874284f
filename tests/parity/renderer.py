"""The renderer's differences from gsplat's own torch functions, in value and gradient.

A fixture holds what they gave; where gsplat is installed, test_parity.py calls them. float64 is our
definition, float32 the compiled renderer.
"""

from __future__ import annotations

from typing import Any

import torch
from comparisons import fixture, greatest
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.render import reference
from vlm3d_gs.render.cpu.rasterize import _Projection, camera_rows

PROJECTION = ("means2d", "conics", "depths", "colors")


def _double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def cameras_of(data: dict[str, Any]) -> Cameras:
    views, Ks = (torch.tensor(data[name], dtype=torch.float64) for name in ("viewmats", "Ks"))
    none = torch.zeros(len(views), dtype=torch.float64)
    return Cameras(views, Ks, data["width"], data["height"], none, none, none)


def by_definition(scene: Gaussians, cameras: Cameras) -> dict[str, Tensor]:
    means2d, inverse, depths, _, compensations = reference.project(scene, cameras)
    conics = torch.stack([inverse[..., 0, 0], inverse[..., 0, 1], inverse[..., 1, 1]], -1)
    colors = reference.view_colors(scene, cameras, 3)
    return {
        "means2d": means2d,
        "conics": conics,
        "depths": depths,
        "colors": colors,
        "compensations": compensations,
    }


def by_kernels(scene: Gaussians, cameras: Cameras) -> dict[str, Tensor]:
    sizes = (cameras.width, cameras.height, 3, 1)
    values = scene.parameters().values()
    means2d, shapes, _ = _Projection.apply(*values, camera_rows(cameras), sizes)
    slant, inv_u, inv_v = shapes[..., 0], shapes[..., 1], shapes[..., 2]
    conics = torch.stack([inv_u**2, -slant * inv_u**2, (slant * inv_u) ** 2 + inv_v**2], -1)
    return {
        "means2d": means2d,
        "conics": conics,
        "depths": shapes[..., 7],
        "colors": shapes[..., 4:7],
        "compensations": shapes[..., 3] / scene.opacities.detach(),
    }


def gsplat_errors(dtype: torch.dtype, names: tuple[str, ...]) -> float:
    """The greatest difference of some outputs, and of the gradients of all outputs' weighted sum."""
    data = fixture("gsplat")
    leaves = {
        name: torch.tensor(value, dtype=dtype).requires_grad_()
        for name, value in data["parameters"].items()
    }
    scene, cameras = Gaussians(**leaves, antialiased=True), cameras_of(data)
    found = (by_definition if dtype == torch.float64 else by_kernels)(scene, cameras)

    errors = [greatest(found[name], _double(data["outputs"][name])) for name in names]
    loss = sum((found[name] * _double(data["weights"][name])).sum() for name in found)
    loss.backward()
    for name, expected in data["gradients"].items():
        errors.append(greatest(leaves[name].grad, _double(expected)))
    return max(errors)


def as_installed(functions: Any) -> dict[str, Tensor]:
    """What gsplat's functions give now, for the fixture's inputs: the module `gsplat.cuda._torch_impl`."""
    data = fixture("gsplat")
    scene = Gaussians(**{name: _double(value) for name, value in data["parameters"].items()})
    cameras = cameras_of(data)

    covariances, _ = functions._quat_scale_to_covar_preci(
        scene.quats, scene.scales, compute_preci=False
    )
    _, means2d, depths, conics, compensations = functions._fully_fused_projection(
        scene.means,
        covariances,
        cameras.viewmats,
        cameras.Ks,
        cameras.width,
        cameras.height,
        calc_compensations=True,
    )
    directions = scene.means - cameras.positions[:, None]
    coefficients = scene.sh.expand(len(cameras), -1, -1, -1)
    colors = functions._spherical_harmonics(3, directions, coefficients) + 0.5
    return {
        "means2d": means2d,
        "conics": conics,
        "depths": depths,
        "colors": colors.clamp_min(0.0),
        "compensations": compensations,
    }


def projection(dtype: torch.dtype) -> float:
    return gsplat_errors(dtype, PROJECTION)


def antialiasing(dtype: torch.dtype) -> float:
    return gsplat_errors(dtype, ("compensations",))

"""Fixtures of the unit tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlm3d_gs.cameras import Cameras
from vlm3d_gs.scene import Gaussians


@pytest.fixture(params=["tiny", "basic"])
def stored_case(
    request: pytest.FixtureRequest, shared_fixtures: Path
) -> tuple[Gaussians, Cameras, torch.Tensor]:
    """A scene, its camera, and the RGBA picture that gsplat's CUDA kernels made of them."""
    path = shared_fixtures / "gsplat_render" / f"{request.param}_case.safetensors"
    if not path.is_file():
        pytest.skip(f"{path.name} is absent here")
    data = load_file(path)
    scene = Gaussians(
        data["means"], data["scales"], data["quats"], data["opacities"], data["coeffs"]
    )
    height, width = data["out_img"].shape[:2]
    viewmat = torch.eye(4)
    viewmat[:3, 3] = -torch.tensor([0.123, 0.456, -8.0])
    focal = width / 2
    intrinsics = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
    none = torch.zeros(1)
    return (
        scene,
        Cameras(viewmat[None], intrinsics[None], width, height, none, none, none),
        data["out_img"],
    )

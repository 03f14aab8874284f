"""Damage to ray-cast images, for the critic's question about geometric quality."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vlm3d_gs.core.prompts import COLORS
from vlm3d_gs.mini.world.scenes import ObjectSpec, SceneSpec

DAMAGES = ("floaters", "holes", "noise", "blur", "haze", "mismatch")


def with_floaters(scene: SceneSpec, rng: np.random.Generator) -> SceneSpec:
    """Add 5 to 25 small balls of any colour around a scene's objects; they come after the real objects."""
    extra: list[ObjectSpec] = []
    for _ in range(int(rng.integers(5, 26))):
        direction = rng.normal(size=3)
        place = direction / np.linalg.norm(direction) * rng.uniform(0.3, 0.95)
        size = float(rng.uniform(0.025, 0.09))

        # Most floaters hang in empty space, some stick out of an object.
        clear = all(np.linalg.norm(place - item.center) > 0.8 * item.size for item in scene.objects)
        if clear or rng.random() < 0.3:
            extra.append(
                ObjectSpec("sphere", str(rng.choice(COLORS)), (place[0], place[1], place[2]), size)
            )

    return SceneSpec(scene.objects + tuple(extra), scene.relation)


def damaged(rgba: Tensor, kind: str, rng: np.random.Generator) -> Tensor:
    """Damage the views of one scene.

    Args:
        rgba: [V, H, W, 4] premultiplied colour and coverage.
        kind: holes, noise, blur or haze.
        rng: source of randomness.

    Returns:
        [V, H, W, 4].
    """
    if kind == "holes":
        return _holes(rgba, rng)
    if kind == "noise":
        return _noise(rgba, rng)
    if kind == "blur":
        return blurred(rgba, float(rng.uniform(1.3, 4.0)))
    return _haze(rgba, rng)


def blurred(rgba: Tensor, sigma_px: float) -> Tensor:
    """Convolve with a Gaussian of `sigma_px` pixels."""
    reach = max(1, int(3.0 * sigma_px))
    offsets = torch.arange(-reach, reach + 1, dtype=rgba.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = (kernel / kernel.sum()).expand(4, 1, 1, -1)
    pixels = F.pad(rgba.movedim(-1, 1), (reach,) * 4, mode="replicate")
    pixels = F.conv2d(F.conv2d(pixels, kernel, groups=4), kernel.transpose(2, 3), groups=4)

    return pixels.movedim(1, -1)


def _field(shape: tuple[int, int], cells: int, rng: np.random.Generator) -> Tensor:
    """Return a smooth random field in 0..1 with about `cells` bumps per side."""
    grid = torch.from_numpy(rng.random((1, 1, cells, cells), dtype=np.float32))
    return F.interpolate(grid, shape, mode="bicubic").clamp(0.0, 1.0)[0, 0]


def _holes(rgba: Tensor, rng: np.random.Generator) -> Tensor:
    """Cut 3 to 10 discs out of the covered pixels of each view."""
    rgba = rgba.clone()
    height, width = rgba.shape[1:3]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for view in rgba:
        covered = (view[..., 3] > 0.5).nonzero()
        for _ in range(int(rng.integers(3, 11))):
            if len(covered):
                row, column = covered[int(rng.integers(len(covered)))]
                radius = float(rng.uniform(1.5, 5.0))
                view[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 0.0

    return rgba


def _noise(rgba: Tensor, rng: np.random.Generator) -> Tensor:
    """Add noise in cells of 1 to 3 pixels, everywhere or on the objects only."""
    n_views, height, width = rgba.shape[:3]
    cell = int(rng.integers(1, 4))
    small = rng.normal(size=(n_views, 4, height // cell + 1, width // cell + 1)).astype(np.float32)
    noise = F.interpolate(torch.from_numpy(small), scale_factor=cell)[..., :height, :width]
    noise = noise.movedim(1, -1)

    strength = float(rng.uniform(0.05, 0.22))
    where = 1.0 if rng.random() < 0.5 else rgba[..., 3:]

    return (rgba + strength * noise * where).clamp(0.0, 1.0)


def _haze(rgba: Tensor, rng: np.random.Generator) -> Tensor:
    """Composite clouds of one random colour over each view."""
    color = torch.from_numpy(rng.random(3, dtype=np.float32))
    views = []
    for view in rgba:
        field = _field((view.shape[0], view.shape[1]), int(rng.integers(3, 9)), rng)
        density = float(rng.uniform(0.8, 2.0))
        alpha = ((field - 0.35).clamp_min(0.0) * density).clamp_max(0.85)[..., None]
        views.append(torch.cat([color * alpha, alpha], -1) + (1.0 - alpha) * view)

    return torch.stack(views)

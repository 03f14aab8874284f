"""Recognition of mini-world images without a network: the scene that explains the views best.

Every composition is ray-cast in its mean layout from the same cameras and compared with the views; the nearest few are
compared again with jittered layouts, and the best one is returned.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.prompts import COLORS, SHAPES, Composition, ObjectPhrase
from vlm3d_gs.mini.world.scenes import AXIS, SceneSpec, build_scene, render_rgba

COARSE_PX = 32
"""Resolution of the first comparison."""
CANDIDATES = 10
"""Compositions in the second comparison."""
DRAWS = 24
"""Jittered layouts of each candidate."""


def all_compositions(n_objects: int) -> list[Composition]:
    """Return every composition of one object, or every canonical one of two."""
    phrases = [ObjectPhrase(color, shape) for color, shape in product(COLORS, SHAPES)]
    if n_objects == 1:
        return [Composition((phrase,)) for phrase in phrases]
    return [
        Composition((first, second), relation)
        for relation in AXIS
        for first, second in product(phrases, phrases)
        if first.color != second.color
    ]


class Recognizer:
    """Finds the composition in a set of views, for one set of cameras."""

    def __init__(self, cameras: Cameras, n_objects: int) -> None:
        """Ray-cast all compositions once.

        Args:
            cameras: V square cameras.
            n_objects: number of objects in the scenes, 1 or 2.
        """
        self.cameras, self.compositions = cameras, all_compositions(n_objects)
        coarse = cameras.resized(COARSE_PX, COARSE_PX)
        scenes = [build_scene(item) for item in self.compositions]
        self.templates = self._cast(scenes, coarse, 1)

    def _cast(self, scenes: list[SceneSpec], cameras: Cameras, supersample: int) -> Tensor:
        repeated = cameras.select(list(range(len(cameras))) * len(scenes))
        rgba, _ = render_rgba(scenes, repeated, supersample)
        return torch.from_numpy(rgba)

    def __call__(self, views: Tensor) -> Composition:
        """Return the composition whose images are nearest to the views [V, H, W, 3]."""
        # The background of a sample is not known: it is the median colour along the border of each view.
        border = torch.cat([views[:, 0], views[:, -1], views[:, :, 0], views[:, :, -1]], 1)
        background = border.median(1).values[:, None, None]

        small = torch.nn.functional.interpolate(
            views.movedim(-1, 1), (COARSE_PX, COARSE_PX), mode="area"
        ).movedim(1, -1)
        nearest = _errors(self.templates, small, background).argsort()[:CANDIDATES].tolist()

        rng = np.random.default_rng(0)
        lowest, best = float("inf"), self.compositions[nearest[0]]
        for index in nearest:
            scenes = [build_scene(self.compositions[index], rng) for _ in range(DRAWS)]
            error = float(_errors(self._cast(scenes, self.cameras, 1), views, background).min())
            if error < lowest:
                lowest, best = error, self.compositions[index]

        return best


def _errors(rgba: Tensor, views: Tensor, background: Tensor) -> Tensor:
    """Return the mean squared error of each scene [S, V, H, W, 4] over the views' own backgrounds."""
    chunks = [
        (chunk[..., :3] + (1.0 - chunk[..., 3:]) * background - views).square().mean((1, 2, 3, 4))
        for chunk in rgba.split(256)  # bounds the memory
    ]
    return torch.cat(chunks)

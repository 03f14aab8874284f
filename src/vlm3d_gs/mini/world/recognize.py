"""Reading mini-world pictures without a network: which scene explains these views best.

Every statement of the language is ray-cast in its mean layout from the same cameras and compared with the views; the
nearest few are fitted again with jittered layouts, and the best one wins.
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
CANDIDATES = 10
DRAWS = 24


def all_compositions(n_objects: int) -> list[Composition]:
    """Return every statement about one object, or every canonical one about two."""
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
    """Names the scene that a set of views shows, for one set of cameras."""

    def __init__(self, cameras: Cameras, n_objects: int) -> None:
        """Ray-cast all statements once.

        Args:
            cameras: V square cameras.
            n_objects: objects in the scenes to be told apart.
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
        """Return the statement whose pictures are nearest to the views [V, H, W, 3]."""
        border = torch.cat([views[:, 0], views[:, -1], views[:, :, 0], views[:, :, -1]], 1)
        background = border.median(1).values[:, None, None]
        small = torch.nn.functional.interpolate(
            views.movedim(-1, 1), (COARSE_PX, COARSE_PX), mode="area"
        ).movedim(1, -1)
        nearest = _errors(self.templates, small, background).argsort()[:CANDIDATES].tolist()
        rng = np.random.default_rng(0)
        best, winner = float("inf"), self.compositions[nearest[0]]
        for index in nearest:
            scenes = [build_scene(self.compositions[index], rng) for _ in range(DRAWS)]
            error = float(_errors(self._cast(scenes, self.cameras, 1), views, background).min())
            if error < best:
                best, winner = error, self.compositions[index]
        return winner


def _errors(rgba: Tensor, views: Tensor, background: Tensor) -> Tensor:
    """Return the mean squared error of each scene [S, V, H, W, 4] over the views' own backgrounds."""
    chunks = [
        (part[..., :3] + (1.0 - part[..., 3:]) * background - views).square().mean((1, 2, 3, 4))
        for part in rgba.split(256)
    ]
    return torch.cat(chunks)

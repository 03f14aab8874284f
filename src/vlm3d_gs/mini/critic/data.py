"""Batches for the critic: views, questions, and dense labels of what each image token shows."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.prompts import COLORS, SHAPES
from vlm3d_gs.mini.critic.model import LAYOUT
from vlm3d_gs.mini.prior.data import sample_background
from vlm3d_gs.mini.world.damage_images import DAMAGES, blurred, damaged, with_floaters
from vlm3d_gs.mini.world.examples import Example, geometry_example, joint_example, sample_examples
from vlm3d_gs.mini.world.scenes import (
    DISTANCE,
    ELEVATION_DEG,
    FOV_DEG,
    IMAGE_PX,
    N_VIEWS,
    SceneSpec,
    render_rgba,
    sample_scene,
)
from vlm3d_gs.mini.world.splat_images import changed_pixels, splat_views

DAMAGE_CLASSES = ("none", *DAMAGES)
SPLAT_SHARE = 0.5
"""Share of scenes that are drawn as Gaussians by our own renderer, whole or damaged; the others are ray-cast."""
JITTER_DEG = 20.0
SPOILED_SHARE = 0.05
"""Share of a patch's pixels that damage must change to count there."""
UNMARKED_DAMAGES = ("floaters", "mismatch")
"""Damages of ray-cast pictures that are not marked: the one is part of the scene that is cast, of the other no single
view knows."""
MIN_VISIBLE_PX = 24
"""Objects that the chosen views show less of are not asked about."""


@dataclass(frozen=True)
class TokenLabels:
    """What each image token shows; T tokens a view."""

    shape: Tensor
    """[S * V, T] int64: 0 for background, else 1 + index into `prompts.SHAPES`."""
    color: Tensor
    """[S * V, T] int64: likewise for `prompts.COLORS`."""
    other_shape: Tensor
    """[S * V, T] int64: shape of the scene's other object, 0 for none."""
    other_color: Tensor
    """[S * V, T] int64."""
    offset: Tensor
    """[S * V, T, 3]: from this object to the other: right and down in half pictures, and nearness in world units."""
    world_offset: Tensor
    """[S * V, T, 3]: from this object to the other, world units: what remains of it when the view's name is known."""
    damage: Tensor
    """[S * V] int64 index into `DAMAGE_CLASSES`."""
    spoiled: Tensor
    """[S * V, T] float32: 1 where damage shows in the token's patch, 0 where none does, -1 where nobody can say."""


@dataclass(frozen=True)
class CriticBatch:
    """S scenes from V named views with their questions."""

    images: Tensor
    """[S, V, H, W, 3], 0 to 1."""
    view_indices: tuple[int, ...]
    """V indices into `questions.VIEW_NAMES`."""
    scenes: list[SceneSpec]
    """S scenes with their ground truth."""
    examples: list[list[Example]]
    """Questions of each scene."""
    labels: TokenLabels

    def to(self, device: str) -> CriticBatch:
        """Move the tensors."""
        labels = TokenLabels(
            **{
                item.name: getattr(self.labels, item.name).to(device)
                for item in fields(TokenLabels)
            }
        )
        return replace(self, images=self.images.to(device), labels=labels)


def sample_critic_batch(
    rng: np.random.Generator,
    n_scenes: int,
    n_questions: int,
    *,
    held_out: bool | None = False,
    n_views: int | None = None,
) -> CriticBatch:
    """Draw scenes, damage half of them, render named views, and ask.

    Args:
        rng: source of all randomness.
        n_scenes: S.
        n_questions: questions a scene; the first is about geometric quality, the second about that and the content.
        held_out: as in `world.sample_composition`.
        n_views: V; None for four in 7 of 10 batches, else one to three.
    """
    chosen = _choose_views(rng, n_views)
    scenes = [sample_scene(rng, held_out=held_out) for _ in range(n_scenes)]
    kinds = [str(rng.choice(DAMAGES)) if rng.random() < 0.5 else "none" for _ in scenes]
    shown = [
        with_floaters(s, rng) if kind == "floaters" else s
        for s, kind in zip(scenes, kinds, strict=True)
    ]
    cameras = _named_cameras(rng, n_scenes)
    rgba_all, ids_all = render_rgba(shown, cameras)
    rgba, ids = torch.from_numpy(rgba_all[:, chosen]), torch.from_numpy(ids_all[:, chosen])
    ids = torch.where(
        ids >= torch.tensor([len(s.objects) for s in scenes])[:, None, None, None], -1, ids
    )
    if n_scenes == 1 or len(chosen) == 1:  # nothing to mix with
        kinds = ["noise" if kind == "mismatch" else kind for kind in kinds]
    pictures, spoiled = [], []
    whole: Tensor | None
    for s, (scene, kind) in enumerate(zip(scenes, kinds, strict=True)):
        if rng.random() < SPLAT_SHARE:
            mine = [s * N_VIEWS + view for view in chosen]
            views, whole = splat_views(scene, kind, cameras.select(mine), rng)
        else:
            views = _ray_cast_views(rgba, s, kind, rng)
            whole = views if kind == "none" else None if kind in UNMARKED_DAMAGES else rgba[s]
        spoiled.append(_spoiled_tokens(views, whole))
        background = torch.from_numpy(sample_background(rng))
        pictures.append((views[..., :3] + (1.0 - views[..., 3:]) * background).clamp(0.0, 1.0))
    examples = [
        _ask(rng, scene, kind, n_questions, ids[s])
        for s, (scene, kind) in enumerate(zip(scenes, kinds, strict=True))
    ]
    labels = _labels(scenes, kinds, ids, cameras, chosen, torch.cat(spoiled))
    return CriticBatch(torch.stack(pictures), tuple(chosen), scenes, examples, labels)


def _spoiled_tokens(views: Tensor, whole: Tensor | None) -> Tensor:
    """Mark the patches [V, T] where views [V, H, W, 4] differ from the undamaged ones; -1 where those are unknown."""
    side = views.shape[1] // LAYOUT.factor
    if whole is None:
        return torch.full((len(views), side * side), -1.0)
    cells = changed_pixels(views, whole).float()
    cells = cells.reshape(-1, side, LAYOUT.factor, side, LAYOUT.factor).mean((2, 4))
    return (cells.flatten(1) >= SPOILED_SHARE).float()


def _ray_cast_views(rgba: Tensor, s: int, kind: str, rng: np.random.Generator) -> Tensor:
    """Damage the exact pictures [S, V, H, W, 4] of scene s, or soften half of the whole ones a little."""
    views = rgba[s]
    if kind == "mismatch":
        views = views.clone()
        n_views = len(views)
        swapped = rng.permutation(n_views)[: int(rng.integers(1, max(2, n_views // 2 + 1)))]
        views[swapped] = rgba[(s + 1) % len(rgba)][swapped]
        return views
    if kind in ("holes", "noise", "blur", "haze"):
        return damaged(views, kind, rng)
    return blurred(views, float(rng.uniform(0.3, 0.7))) if rng.random() < 0.5 else views


def _choose_views(rng: np.random.Generator, n_views: int | None) -> list[int]:
    count = n_views or (N_VIEWS if rng.random() < 0.7 else int(rng.integers(1, N_VIEWS)))
    return sorted(rng.permutation(N_VIEWS)[:count].tolist())


def _named_cameras(rng: np.random.Generator, n_scenes: int) -> Cameras:
    azimuths = np.arange(N_VIEWS) * 90.0 + rng.uniform(-JITTER_DEG, JITTER_DEG, (n_scenes, 1))
    elevations, distances = (
        np.repeat(rng.uniform(low, high, (n_scenes, 1)), N_VIEWS, 1)
        for low, high in (ELEVATION_DEG, DISTANCE)
    )
    flat = [torch.from_numpy(values).flatten() for values in (azimuths, elevations, distances)]
    return orbit(flat[0], flat[1], flat[2], FOV_DEG, IMAGE_PX, IMAGE_PX)


def _ask(
    rng: np.random.Generator, scene: SceneSpec, kind: str, count: int, ids: Tensor
) -> list[Example]:
    geometry = geometry_example(kind == "none")
    hidden = any(int((ids == index).sum()) < MIN_VISIBLE_PX for index in range(len(scene.objects)))
    if kind == "mismatch" or hidden:
        return [geometry]
    if count < 3:
        return [geometry, *sample_examples(scene.composition, rng, count - 1)]
    joint = joint_example(scene.composition, rng, kind == "none")
    return [geometry, joint, *sample_examples(scene.composition, rng, count - 2)]


def _labels(
    scenes: list[SceneSpec],
    kinds: list[str],
    ids: Tensor,
    cameras: Cameras,
    chosen: list[int],
    spoiled: Tensor,
) -> TokenLabels:
    n_scenes, n_views, size = ids.shape[:3]
    side = size // LAYOUT.factor
    cells = ids.reshape(n_scenes, n_views, side, LAYOUT.factor, side, LAYOUT.factor)
    counts = torch.stack([(cells == index).float().mean((3, 5)) for index in (0, 1)], -1).flatten(
        2, 3
    )
    share, which = counts.max(-1)
    which = torch.where(share > 0.2, which, -1)
    names = ["shape", "color", "other_shape", "other_color"]
    fields = {name: torch.zeros(which.shape, dtype=torch.long) for name in names}
    offset, world_offset = torch.zeros(2, *which.shape, 3)
    viewmats = cameras.viewmats.reshape(n_scenes, N_VIEWS, 4, 4)[:, chosen]
    focal = cameras.Ks.reshape(n_scenes, N_VIEWS, 3, 3)[:, chosen, 1, 1] * 2.0 / size
    for s, scene in enumerate(scenes):
        centers = torch.tensor([item.center for item in scene.objects], dtype=viewmats.dtype)
        inside = centers @ viewmats[s, :, :3, :3].transpose(1, 2) + viewmats[s, :, None, :3, 3]
        seen = torch.cat(
            [inside[..., :2] / inside[..., 2:] * focal[s, :, None, None], -inside[..., 2:]], -1
        )
        for k, item in enumerate(scene.objects):
            mine = which[s] == k
            fields["shape"][s][mine] = 1 + SHAPES.index(item.shape)
            fields["color"][s][mine] = 1 + COLORS.index(item.color)
            if len(scene.objects) == 2:
                other = scene.objects[1 - k]
                fields["other_shape"][s][mine] = 1 + SHAPES.index(other.shape)
                fields["other_color"][s][mine] = 1 + COLORS.index(other.color)
                apart = (seen[:, 1 - k] - seen[:, k]).float()
                offset[s] = torch.where(mine[..., None], apart[:, None], offset[s])
                world_offset[s][mine] = (centers[1 - k] - centers[k]).float()
    flat = {name: value.flatten(0, 1) for name, value in fields.items()}
    damage = torch.tensor([DAMAGE_CLASSES.index(kind) for kind in kinds]).repeat_interleave(n_views)
    return TokenLabels(
        **flat,
        offset=offset.flatten(0, 1),
        world_offset=world_offset.flatten(0, 1),
        damage=damage,
        spoiled=spoiled,
    )

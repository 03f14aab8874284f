"""Batches for the critic: views, questions, and dense labels of the image tokens."""

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
"""Fraction of scenes that are drawn as Gaussians by our own renderer; the others are ray-cast."""
JITTER_DEG = 20.0
SPOILED_SHARE = 0.05
"""Fraction of a patch's pixels that damage must change for the patch to count as spoiled."""
UNMARKED_DAMAGES = ("floaters", "mismatch")
"""Damages of ray-cast images whose patches are not labelled: floaters are part of the scene that is cast, and no single
view shows a mismatch."""
MIN_VISIBLE_PX = 24
"""Scenes with an object that has fewer visible pixels in the chosen views get no question about their content."""
MIN_TOKEN_SHARE = 0.2
"""Fraction of a token's pixels that an object must cover for the token to be labelled with it."""


@dataclass(frozen=True)
class TokenLabels:
    """Labels of the image tokens; T tokens per view."""

    shape: Tensor
    """[S * V, T] int64: 0 for background, else 1 + index into `prompts.SHAPES`."""
    color: Tensor
    """[S * V, T] int64: likewise for `prompts.COLORS`."""
    other_shape: Tensor
    """[S * V, T] int64: shape of the scene's other object, 0 for none."""
    other_color: Tensor
    """[S * V, T] int64: its colour, 0 for none."""
    offset: Tensor
    """[S * V, T, 3]: from this object to the other: right and down in half image sides, nearer in world units."""
    world_offset: Tensor
    """[S * V, T, 3]: from this object to the other, world units; it follows from `offset` and the view's name."""
    damage: Tensor
    """[S * V] int64 index into `DAMAGE_CLASSES`."""
    spoiled: Tensor
    """[S * V, T] float32: 1 where damage is visible in the token's patch, 0 where none is, -1 where it is unknown."""


@dataclass(frozen=True)
class CriticBatch:
    """S scenes from V named views with their questions."""

    images: Tensor
    """[S, V, H, W, 3], 0 to 1."""
    view_indices: tuple[int, ...]
    """V indices into `templates.VIEW_NAMES`."""
    scenes: list[SceneSpec]
    """S scenes with their ground truth."""
    examples: list[list[Example]]
    """Questions of each scene."""
    labels: TokenLabels

    def to(self, device: str) -> CriticBatch:
        """Move the tensors."""
        labels = {
            field.name: getattr(self.labels, field.name).to(device) for field in fields(TokenLabels)
        }
        return replace(self, images=self.images.to(device), labels=TokenLabels(**labels))


def sample_critic_batch(
    rng: np.random.Generator,
    n_scenes: int,
    n_questions: int,
    *,
    held_out: bool | None = False,
    n_views: int | None = None,
) -> CriticBatch:
    """Draw scenes, damage half of them, render named views, and draw questions about them.

    Args:
        rng: source of all randomness.
        n_scenes: S.
        n_questions: questions per scene; the first is about geometric quality, the second about that and the content.
        held_out: as in `world.scenes.sample_composition`.
        n_views: V; None for four in 7 of 10 batches, else one to three.
    """
    chosen = _choose_views(rng, n_views)
    scenes = [sample_scene(rng, held_out=held_out) for _ in range(n_scenes)]
    kinds = [str(rng.choice(DAMAGES)) if rng.random() < 0.5 else "none" for _ in scenes]
    drawn = [
        with_floaters(scene, rng) if kind == "floaters" else scene
        for scene, kind in zip(scenes, kinds, strict=True)
    ]
    cameras = _named_cameras(rng, n_scenes)
    rgba, ids = _ray_cast(scenes, drawn, cameras, chosen)

    # A mismatch mixes views of two scenes, which takes two scenes and two views.
    if n_scenes == 1 or len(chosen) == 1:
        kinds = ["noise" if kind == "mismatch" else kind for kind in kinds]

    images, spoiled = [], []
    for s, (scene, kind) in enumerate(zip(scenes, kinds, strict=True)):
        clean: Tensor | None
        if rng.random() < SPLAT_SHARE:
            own_cameras = cameras.select([s * N_VIEWS + view for view in chosen])
            views, clean = splat_views(scene, kind, own_cameras, rng)
        else:
            views = _damaged_ray_cast(rgba, s, kind, rng)
            clean = views if kind == "none" else None if kind in UNMARKED_DAMAGES else rgba[s]

        spoiled.append(_spoiled_tokens(views, clean))
        background = torch.from_numpy(sample_background(rng))
        images.append((views[..., :3] + (1.0 - views[..., 3:]) * background).clamp(0.0, 1.0))

    examples = [
        _sample_questions(rng, scene, kind, n_questions, ids[s])
        for s, (scene, kind) in enumerate(zip(scenes, kinds, strict=True))
    ]
    labels = _labels(scenes, kinds, ids, cameras, chosen, torch.cat(spoiled))

    return CriticBatch(torch.stack(images), tuple(chosen), scenes, examples, labels)


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


def _ray_cast(
    scenes: list[SceneSpec], drawn: list[SceneSpec], cameras: Cameras, chosen: list[int]
) -> tuple[Tensor, Tensor]:
    """Return the chosen views [S, V, H, W, 4] of `drawn`, and object indices [S, V, H, W] without the floaters'."""
    rgba, ids = (torch.from_numpy(array[:, chosen]) for array in render_rgba(drawn, cameras))
    n_objects = torch.tensor([len(scene.objects) for scene in scenes])
    ids = torch.where(ids >= n_objects[:, None, None, None], -1, ids)

    return rgba, ids


def _damaged_ray_cast(rgba: Tensor, s: int, kind: str, rng: np.random.Generator) -> Tensor:
    """Damage the exact images [S, V, H, W, 4] of scene s; blur half of the undamaged ones a little."""
    views = rgba[s]
    if kind == "mismatch":
        views = views.clone()
        n_views = len(views)
        swapped = rng.permutation(n_views)[: int(rng.integers(1, max(2, n_views // 2 + 1)))]
        views[swapped] = rgba[(s + 1) % len(rgba)][swapped]
        return views

    if kind in ("holes", "noise", "blur", "haze"):
        return damaged(views, kind, rng)

    # Splats have softer edges than ray-cast images; that alone must not count as damage.
    return blurred(views, float(rng.uniform(0.3, 0.7))) if rng.random() < 0.5 else views


def _spoiled_tokens(views: Tensor, clean: Tensor | None) -> Tensor:
    """Mark the patches [V, T] where views [V, H, W, 4] differ from the clean ones; -1 if those are unknown."""
    side = views.shape[1] // LAYOUT.factor
    if clean is None:
        return torch.full((len(views), side * side), -1.0)

    cells = changed_pixels(views, clean).float()
    cells = cells.reshape(-1, side, LAYOUT.factor, side, LAYOUT.factor).mean((2, 4))

    return (cells.flatten(1) >= SPOILED_SHARE).float()


def _sample_questions(
    rng: np.random.Generator, scene: SceneSpec, kind: str, count: int, ids: Tensor
) -> list[Example]:
    geometry = geometry_example(kind == "none")

    # Of a hidden object, or a scene mixed with another, there is no right answer about the content.
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
    """Label the image tokens from object indices [S, V, H, W] and the scenes' ground truth."""
    owner = _token_owners(ids)
    viewmats = cameras.viewmats.reshape(len(scenes), N_VIEWS, 4, 4)[:, chosen]
    focal_px = cameras.Ks.reshape(len(scenes), N_VIEWS, 3, 3)[:, chosen, 1, 1]
    focal = focal_px * 2.0 / ids.shape[2]  # in half image sides

    names = ["shape", "color", "other_shape", "other_color"]
    classes = {name: torch.zeros(owner.shape, dtype=torch.long) for name in names}
    offset, world_offset = torch.zeros(2, *owner.shape, 3)

    for s, scene in enumerate(scenes):
        centers = torch.tensor([item.center for item in scene.objects], dtype=viewmats.dtype)
        in_views = _project(centers, viewmats[s], focal[s])

        for k, item in enumerate(scene.objects):
            own = owner[s] == k
            classes["shape"][s][own] = 1 + SHAPES.index(item.shape)
            classes["color"][s][own] = 1 + COLORS.index(item.color)
            if len(scene.objects) == 1:
                continue

            other = scene.objects[1 - k]
            classes["other_shape"][s][own] = 1 + SHAPES.index(other.shape)
            classes["other_color"][s][own] = 1 + COLORS.index(other.color)
            to_other = (in_views[:, 1 - k] - in_views[:, k]).float()
            offset[s] = torch.where(own[..., None], to_other[:, None], offset[s])
            world_offset[s][own] = (centers[1 - k] - centers[k]).float()

    damage = torch.tensor([DAMAGE_CLASSES.index(kind) for kind in kinds])
    return TokenLabels(
        **{name: value.flatten(0, 1) for name, value in classes.items()},
        offset=offset.flatten(0, 1),
        world_offset=world_offset.flatten(0, 1),
        damage=damage.repeat_interleave(len(chosen)),
        spoiled=spoiled,
    )


def _token_owners(ids: Tensor) -> Tensor:
    """Return [S, V, T] which object each image token shows, -1 for none, from object indices [S, V, H, W]."""
    n_scenes, n_views, size = ids.shape[:3]
    side = size // LAYOUT.factor
    cells = ids.reshape(n_scenes, n_views, side, LAYOUT.factor, side, LAYOUT.factor)

    shares = torch.stack([(cells == index).float().mean((3, 5)) for index in (0, 1)], -1)
    share, owner = shares.flatten(2, 3).max(-1)

    return torch.where(share > MIN_TOKEN_SHARE, owner, -1)


def _project(centers: Tensor, viewmats: Tensor, focal: Tensor) -> Tensor:
    """Return [V, K, 3] image position (half sides) and nearness (world units) of centres [K, 3] in V views."""
    points = centers @ viewmats[:, :3, :3].transpose(1, 2) + viewmats[:, None, :3, 3]
    depth = points[..., 2:]

    return torch.cat([points[..., :2] / depth * focal[:, None, None], -depth], -1)

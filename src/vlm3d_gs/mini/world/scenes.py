"""The mini world: scenes of one or two coloured primitives in a relation, with exact images and ground truth.

The embedded models are trained on nothing else. Frame, cameras and relations are those of
docs/CONVENTIONS.md: the front camera stands on +x, its right is +y, z is up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.cameras import Cameras
from vlm3d_gs.core.prompts import (
    COLORS,
    OPPOSITE,
    RELATION_PHRASES,
    RELATIONS,
    SHAPE_WORDS,
    SHAPES,
    Composition,
    ObjectPhrase,
    article,
)
from vlm3d_gs.layout.shapes import HALF_HEIGHT, HALF_WIDTH
from vlm3d_gs.mini.world import raycast as rc

PALETTE = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.97, 0.50, 0.06),
    "yellow": (0.96, 0.88, 0.12),
    "green": (0.12, 0.66, 0.18),
    "cyan": (0.10, 0.78, 0.82),
    "blue": (0.12, 0.24, 0.88),
    "purple": (0.56, 0.14, 0.72),
    "white": (0.95, 0.95, 0.95),
}
"""Albedo of each colour, sRGB as displayed, 0 to 1."""

FOV_DEG = 40.0
DISTANCE = (2.9, 3.2)
ELEVATION_DEG = (0.0, 30.0)
IMAGE_PX = 64
N_VIEWS = 4

AXIS = {"on top of": 2, "to the left of": 1, "in front of": 0}
SIGN = {"on top of": 1.0, "to the left of": -1.0, "in front of": 1.0}
"""Side of objects[1] on which objects[0] stands, along `AXIS`."""
HELD_OUT_MODULUS = 8


@dataclass(frozen=True, slots=True)
class ObjectSpec:
    """One primitive of a scene."""

    shape: str
    """One of `prompts.SHAPES`."""
    color: str
    """One of `prompts.COLORS`."""
    center: tuple[float, float, float]
    """World units."""
    size: float
    """World units; its meaning for each shape is defined in `raycast`."""


@dataclass(frozen=True, slots=True)
class SceneSpec:
    """A scene with its ground truth: objects[0] relation objects[1]."""

    objects: tuple[ObjectSpec, ...]
    """One or two objects inside the unit ball."""
    relation: str | None = None
    """One of `prompts.RELATIONS`, or None for one object."""

    @property
    def composition(self) -> Composition:
        """Return what a prompt for this scene describes."""
        return Composition(
            tuple(ObjectPhrase(item.color, item.shape) for item in self.objects), self.relation
        )


def canonical(composition: Composition) -> Composition:
    """Return an equivalent composition with the relation "on top of", "to the left of" or "in front of"."""
    if composition.relation is None or composition.relation in AXIS:
        return composition
    return Composition(composition.objects[::-1], OPPOSITE[composition.relation])


def is_held_out(composition: Composition) -> bool:
    """Return whether this two-object combination, one of eight, is excluded from training.

    A composition and its opposite ("A on top of B", "B under A") are the same combination. One-object scenes are never
    held out.
    """
    stated = canonical(composition)
    if stated.relation is None:
        return False

    # A hash of colours, shapes and relation.
    first, second = stated.objects
    code = (
        COLORS.index(first.color)
        + 3 * COLORS.index(second.color)
        + 5 * SHAPES.index(first.shape)
        + 6 * SHAPES.index(second.shape)
        + 2 * list(AXIS).index(stated.relation)
    )
    return code % HELD_OUT_MODULUS == 0


def sample_composition(
    rng: np.random.Generator, n_objects: int | None = None, held_out: bool | None = False
) -> Composition:
    """Draw a composition: colours, shapes and relations uniform, the two colours different.

    Args:
        rng: source of randomness.
        n_objects: 1, 2, or None for one object in 3 of 10.
        held_out: False for the training combinations, True for the held-out ones, None for both.
    """
    count = n_objects or (1 if rng.random() < 0.3 else 2)
    if count == 1:
        return Composition((ObjectPhrase(str(rng.choice(COLORS)), str(rng.choice(SHAPES))),))

    while True:
        colors = rng.choice(len(COLORS), 2, replace=False)
        phrases = tuple(ObjectPhrase(COLORS[color], str(rng.choice(SHAPES))) for color in colors)
        composition = Composition(phrases, str(rng.choice(RELATIONS)))
        if held_out is None or is_held_out(composition) == held_out:
            return composition


def build_scene(composition: Composition, rng: np.random.Generator | None = None) -> SceneSpec:
    """Place the objects of a composition: touching or nearly so, centred as a pair, sizes and positions jittered.

    Args:
        composition: one or two objects.
        rng: source of the jitter; None for the mean layout.
    """

    def jitter(scale: float) -> float:
        return 0.0 if rng is None else float(rng.uniform(-scale, scale))

    if composition.relation is None:
        phrase = composition.objects[0]
        center = (jitter(0.04), jitter(0.04), jitter(0.04))
        return SceneSpec((ObjectSpec(phrase.shape, phrase.color, center, 0.62 + jitter(0.05)),))

    # Only three relations are laid out; the opposite ones exchange the objects.
    stated = canonical(composition)
    assert stated.relation is not None
    axis, sign = AXIS[stated.relation], SIGN[stated.relation]
    extents = HALF_HEIGHT if axis == 2 else HALF_WIDTH
    sizes = [0.42 + jitter(0.03), 0.42 + jitter(0.03)]
    halves = [
        size * extents[phrase.shape] for size, phrase in zip(sizes, stated.objects, strict=True)
    ]

    # Along the relation's axis the pair is centred, with a gap between objects that stand side by side.
    gap = 0.0 if axis == 2 else 0.08 + jitter(0.05)
    length = 2.0 * halves[0] + 2.0 * halves[1] + gap
    places = [np.zeros(3), np.zeros(3)]
    places[0][axis] = sign * (length / 2.0 - halves[0])
    places[1][axis] = -sign * (length / 2.0 - halves[1])
    if axis != 2:  # both stand on the same floor
        for place, size, phrase in zip(places, sizes, stated.objects, strict=True):
            place[2] = size * HALF_HEIGHT[phrase.shape] - 0.38

    shift = np.array([jitter(0.03), jitter(0.03), jitter(0.03)])
    objects = tuple(
        ObjectSpec(phrase.shape, phrase.color, _point(place + shift), size)
        for phrase, place, size in zip(stated.objects, places, sizes, strict=True)
    )
    if stated is not composition:
        objects = objects[::-1]

    return SceneSpec(objects, composition.relation)


def _point(values: NDArray[np.float64]) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def sample_scene(
    rng: np.random.Generator, n_objects: int | None = None, held_out: bool | None = False
) -> SceneSpec:
    """Draw a composition and place it; arguments as in `sample_composition`."""
    return build_scene(sample_composition(rng, n_objects, held_out), rng)


def phrase_prompt(composition: Composition, rng: np.random.Generator | None = None) -> str:
    """Return a prompt for a composition: canonical without `rng`, else with random synonyms, articles and order."""
    if rng is None:
        return str(composition)
    if composition.relation is not None and rng.random() < 0.3:
        composition = Composition(composition.objects[::-1], OPPOSITE[composition.relation])

    names = []
    for item in composition.objects:
        synonyms = [word for word, shape in SHAPE_WORDS.items() if shape == item.shape]
        shape = item.shape if rng.random() < 0.6 else str(rng.choice(synonyms))
        if rng.random() < 0.8:
            leading = f"{article(item.color)} "
        else:
            leading = "the " if rng.random() < 0.5 else ""
        names.append(f"{leading}{item.color} {shape}")
    if composition.relation is None:
        return names[0]

    synonyms = [
        phrase for phrase, relation in RELATION_PHRASES.items() if relation == composition.relation
    ]
    relation = composition.relation if rng.random() < 0.6 else str(rng.choice(synonyms))

    return f"{names[0]} {relation} {names[1]}"


def render_rgba(
    scenes: list[SceneSpec], cameras: Cameras, supersample: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Ray-cast scenes, each from its own V cameras.

    Args:
        scenes: S scenes.
        cameras: S * V square cameras, the V views of one scene adjacent, principal point at the centre.
        supersample: rays per pixel along each axis.

    Returns:
        [S, V, H, W, 4] float32 premultiplied colour and coverage; [S, V, H, W] int8 object index or -1.
    """
    n_scenes, n_views, size = len(scenes), len(cameras) // len(scenes), cameras.width
    n_objects = max(len(scene.objects) for scene in scenes)

    shapes = np.full((n_scenes, n_objects), -1, np.int64)
    centers = np.zeros((n_scenes, n_objects, 3))
    sizes = np.ones((n_scenes, n_objects))
    colors = np.zeros((n_scenes, n_objects, 3))
    for s, scene in enumerate(scenes):
        for k, item in enumerate(scene.objects):
            shapes[s, k] = SHAPES.index(item.shape)
            centers[s, k], sizes[s, k], colors[s, k] = item.center, item.size, PALETTE[item.color]

    viewmats = cameras.viewmats.detach().cpu().double().numpy().reshape(n_scenes, n_views, 4, 4)
    rotations = np.ascontiguousarray(viewmats[..., :3, :3])
    positions = -np.einsum("svji,svj->svi", rotations, viewmats[..., :3, 3])
    focal = cameras.Ks[:, 1, 1].detach().cpu().double().numpy().reshape(n_scenes, n_views)
    tan = size / (2.0 * focal)

    rgba = np.empty((n_scenes, n_views, size, size, 4), np.float32)
    ids = np.empty((n_scenes, n_views, size, size), np.int8)
    rc.raycast(shapes, centers, sizes, colors, positions, rotations, tan, supersample, rgba, ids)

    return rgba, ids

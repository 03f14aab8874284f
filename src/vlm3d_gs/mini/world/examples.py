"""Questions with known answers about mini-world scenes, with balanced hard negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlm3d_gs.core.prompts import COLORS, OPPOSITE, RELATIONS, SHAPES, Composition, ObjectPhrase
from vlm3d_gs.critic.questions.templates import (
    GEOMETRY_QUESTION,
    content_question,
    joint_question,
    object_question,
    relation_question,
)
from vlm3d_gs.mini.world.scenes import phrase_prompt


@dataclass(frozen=True, slots=True)
class Example:
    """One question about one scene."""

    kind: str
    """Form of the question, or what is wrong in it: content, color, shape, swapped colors, relation, geometry, ..."""
    text: str
    """The question."""
    answer: bool
    """True for Yes."""


def geometry_example(clean: bool) -> Example:
    """Return the question about geometric quality."""
    return Example("geometry", GEOMETRY_QUESTION, clean)


def joint_example(composition: Composition, rng: np.random.Generator, clean: bool) -> Example:
    """Return the question about content and quality at once; the content is right in 3 of 4 cases."""
    stated, right = composition, bool(rng.random() < 0.75)
    if not right:
        _, stated = _false_statement(composition, rng)
    return Example("joint", joint_question(phrase_prompt(stated, rng)), right and clean)


def sample_examples(
    composition: Composition, rng: np.random.Generator, count: int
) -> list[Example]:
    """Draw `count` questions about the content of a scene, half of them with the answer Yes."""
    makers = (
        [_content, _object]
        if composition.relation is None
        else [_content, _content, _relation, _object]
    )
    order = rng.permutation(count) % len(makers)
    return [makers[index](composition, rng, bool(rng.random() < 0.5)) for index in order]


def _other(rng: np.random.Generator, choices: tuple[str, ...], *taken: str) -> str:
    return str(rng.choice([item for item in choices if item not in taken]))


def recolored(composition: Composition, rng: np.random.Generator, index: int) -> Composition:
    """Change one object's colour to one that the scene does not contain."""
    taken = [item.color for item in composition.objects]
    return _replaced(
        composition,
        index,
        ObjectPhrase(_other(rng, COLORS, *taken), composition.objects[index].shape),
    )


def reshaped(composition: Composition, rng: np.random.Generator, index: int) -> Composition:
    """Change one object's shape."""
    item = composition.objects[index]
    return _replaced(composition, index, ObjectPhrase(item.color, _other(rng, SHAPES, item.shape)))


def _replaced(composition: Composition, index: int, item: ObjectPhrase) -> Composition:
    objects = list(composition.objects)
    objects[index] = item
    return Composition(tuple(objects), composition.relation)


def swapped_colors(composition: Composition) -> Composition:
    """Exchange the two colours; for equal shapes this is the same as `swapped_objects`."""
    first, second = composition.objects
    return Composition(
        (ObjectPhrase(second.color, first.shape), ObjectPhrase(first.color, second.shape)),
        composition.relation,
    )


def swapped_objects(composition: Composition) -> Composition:
    """Exchange the two objects, which reverses the relation."""
    return Composition(composition.objects[::-1], composition.relation)


def other_relation(composition: Composition, rng: np.random.Generator) -> Composition:
    """Change the relation to a false one."""
    assert composition.relation is not None
    return Composition(composition.objects, _other(rng, RELATIONS, composition.relation))


def _content(composition: Composition, rng: np.random.Generator, answer: bool) -> Example:
    kind, stated = "content", composition
    if not answer:
        kind, stated = _false_statement(composition, rng)
    return Example(kind, content_question(phrase_prompt(stated, rng)), answer)


def _false_statement(composition: Composition, rng: np.random.Generator) -> tuple[str, Composition]:
    index = int(rng.integers(len(composition.objects)))
    kinds = ["color", "shape"]
    if composition.relation is not None:
        kinds += ["swapped colors", "swapped objects", "relation"]
    kind = str(rng.choice(kinds))

    if kind == "color":
        return kind, recolored(composition, rng, index)
    if kind == "shape":
        return kind, reshaped(composition, rng, index)
    if kind == "swapped colors":
        return kind, swapped_colors(composition)
    if kind == "swapped objects":
        return kind, swapped_objects(composition)
    return kind, other_relation(composition, rng)


def _relation(composition: Composition, rng: np.random.Generator, answer: bool) -> Example:
    stated, kind = composition, "relation"
    if not answer:
        draw = rng.random()
        if draw < 0.4:
            stated = other_relation(composition, rng)
        elif draw < 0.8:
            kind, stated = "swapped objects", swapped_objects(composition)
        else:
            kind, stated = "swapped colors", swapped_colors(composition)

    # Half of the statements are made from the other object, with the opposite relation.
    if rng.random() < 0.5:
        assert stated.relation is not None
        stated = Composition(stated.objects[::-1], OPPOSITE[stated.relation])
    assert stated.relation is not None

    return Example(
        kind, relation_question(stated.objects[0], stated.relation, stated.objects[1]), answer
    )


def _object(composition: Composition, rng: np.random.Generator, answer: bool) -> Example:
    index = int(rng.integers(len(composition.objects)))
    if answer:
        return Example("object", object_question(composition.objects[index]), True)

    kinds = ["color", "shape"]
    if (
        composition.relation is not None
        and composition.objects[0].shape != composition.objects[1].shape
    ):
        kinds += ["swapped colors", "swapped colors"]
    kind = str(rng.choice(kinds))

    # A changed object may be the scene's other one: draw again, or the answer No would be wrong.
    present = set(composition.objects)
    while True:
        if kind == "color":
            item = recolored(composition, rng, index).objects[index]
        elif kind == "shape":
            item = reshaped(composition, rng, index).objects[index]
        else:
            item = swapped_colors(composition).objects[index]

        if item not in present:
            return Example(kind, object_question(item), False)

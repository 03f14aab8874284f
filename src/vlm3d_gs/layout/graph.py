"""The scene graph: objects, how many and how large, and the relations between them.

Relations are meant as the front camera sees them (docs/CONVENTIONS.md).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

from vlm3d_gs.core import prompts
from vlm3d_gs.core.errors import LayoutError, PromptError
from vlm3d_gs.core.prompts import ObjectPhrase, parse_composition

RELATIONS = (*prompts.RELATIONS, "next to", "between", "inside", "around")
SIDEWAYS = ("to the left of", "to the right of", "in front of", "behind", "next to")
"""Relations between things that stand beside each other."""
RESTING = ("on top of", "inside")
"""Relations whose subject rests on or in the other object instead of on the floor."""
SIZES = ("tiny", "small", "normal", "large")
"""Size words, smallest first; `normal` stands for no word."""
COUNT_WORDS = ("one", "two", "three", "four")

MOST_OBJECTS, MOST_COUNT, MOST_THINGS = 8, 4, 16
"""Objects of a graph, things of one object, things altogether: more would be too small to see."""
NAME_PATTERN = "^[a-z0-9][a-z0-9_-]{0,39}$"
"""Names of objects become names of files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """One object of a scene, or up to four alike."""

    name: str
    """Unique in the graph, as `NAME_PATTERN` says; the object's files are named after it."""
    prompt: str
    """One of it in words, as a prior would be asked for it: "a red cube"."""
    count: int = 1
    """How many alike, 1 to `MOST_COUNT`."""
    size: str = "normal"
    """One of `SIZES`, compared with the scene's other objects."""
    attributes: tuple[str, ...] = ()
    """What is said of it beside its kind: "red", "ripe"."""
    proportions: tuple[float, float, float] | None = None
    """Depth, width and height of its box (along x, y, z) relative to the largest of them; None takes those of its
    shape, or a cube's."""

    @property
    def phrase(self) -> ObjectPhrase | None:
        """Colour and shape, for an object in the language of the embedded models; else None."""
        return _phrase(self.prompt)

    @property
    def noun(self) -> str:
        """The prompt without its article."""
        return re.sub(r"^(an?|the|one)\s+", "", self.prompt.strip(), flags=re.IGNORECASE)

    @property
    def sizeless(self) -> str:
        """What it is called without its size: "the two red cubes"."""
        if self.count > 1:
            return f"the {COUNT_WORDS[self.count - 1]} {plural(self.noun)}"
        return f"the {self.noun}"

    def __str__(self) -> str:
        if self.size == "normal":
            return self.sizeless
        if self.count > 1:
            return f"the {COUNT_WORDS[self.count - 1]} {self.size} {plural(self.noun)}"
        return f"the {self.size} {self.noun}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """`subject` relation `object`, and for "between" also `second`; each by an object's name."""

    subject: str
    relation: str
    """One of `RELATIONS`."""
    object: str
    second: str | None = None
    """The other neighbour of a subject "between" two objects; None for every other relation."""
    touching: bool | None = None
    """Whether the two touch. None leaves it to the relation: what is on top touches, what stands beside does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneGraph:
    """What a prompt describes. Construction checks it (`LayoutError`)."""

    prompt: str
    """The whole scene in words."""
    objects: tuple[SceneObject, ...]
    """1 to `MOST_OBJECTS`, at most `MOST_THINGS` things with their counts."""
    relations: tuple[Relation, ...] = field(default=())

    def __post_init__(self) -> None:
        _check_objects(self.objects)
        for relation in self.relations:
            _check_relation(relation, [item.name for item in self.objects])

    def find(self, name: str) -> SceneObject:
        """Return the object of this name, which the graph has."""
        return next(item for item in self.objects if item.name == name)

    def index(self, name: str) -> int:
        """Return the number of the object of this name, which the graph has."""
        return next(index for index, item in enumerate(self.objects) if item.name == name)

    def sentence(self, relation: Relation) -> str:
        """Return a relation of this graph in words."""
        subject = self.find(relation.subject)
        words = f"{subject} {'are' if subject.count > 1 else 'is'} "
        if relation.relation == "next to" and relation.touching:
            return f"{words}touching {self.find(relation.object)}"

        words += f"{relation.relation} {self.find(relation.object)}"
        if relation.second is not None:
            words += f" and {self.find(relation.second)}"
        return words + {None: "", True: ", touching", False: ", not touching"}[relation.touching]


@cache
def _phrase(prompt: str) -> ObjectPhrase | None:
    try:
        composition = parse_composition(prompt)
    except PromptError:
        return None
    return composition.objects[0] if composition.relation is None else None


def plural(noun: str) -> str:
    """Return the plural of a noun phrase that ends in its noun."""
    if noun.endswith("torus"):
        return f"{noun[:-5]}tori"
    if re.search(r"(s|x|z|ch|sh)$", noun):
        return f"{noun}es"
    if re.search(r"[^aeiou]y$", noun):
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def compared_sizes(graph: SceneGraph) -> dict[str, int]:
    """Return the rank among `SIZES` of each object whose size is stated against the others', by name.

    An object without a size word counts as normal where some other object has a word, unless it holds, surrounds or is
    held by something: then it is as large as that needs. Empty if there is no size word.
    """
    if all(item.size == "normal" for item in graph.objects):
        return {}
    bound = {
        name
        for relation in graph.relations
        if relation.relation in ("inside", "around")
        for name in (relation.subject, relation.object)
    }
    return {
        item.name: SIZES.index(item.size)
        for item in graph.objects
        if item.size != "normal" or item.name not in bound
    }


def _check_objects(objects: tuple[SceneObject, ...]) -> None:
    if not 1 <= len(objects) <= MOST_OBJECTS:
        raise LayoutError(f"A scene has 1 to {MOST_OBJECTS} objects, got {len(objects)}.")

    for name, times in Counter(item.name for item in objects).items():
        if times > 1:
            raise LayoutError(f"{times} objects are named {name!r}; give each a name of its own.")
        if not re.match(NAME_PATTERN, name):
            raise LayoutError(
                f"An object's name has up to 40 lower-case letters, digits, - and _, got {name!r}."
            )

    for item in objects:
        if not item.prompt.strip():
            raise LayoutError(f"Object {item.name!r} has no prompt. Say what it is: 'a red cube'.")
        if not 1 <= item.count <= MOST_COUNT:
            raise LayoutError(
                f"Object {item.name!r} has the count {item.count}; 1 to {MOST_COUNT} is allowed."
            )
        if item.size not in SIZES:
            raise LayoutError(
                f"Object {item.name!r} has the size {item.size!r}; known: {', '.join(SIZES)}."
            )
        if item.proportions is not None and not all(0.05 <= one <= 1 for one in item.proportions):
            raise LayoutError(
                f"Object {item.name!r} has the proportions {item.proportions}; each must be 0.05 to 1, "
                "relative to the largest."
            )

    things = sum(item.count for item in objects)
    if things > MOST_THINGS:
        raise LayoutError(
            f"A scene has at most {MOST_THINGS} things, got {things} with their counts."
        )


def _check_relation(relation: Relation, names: list[str]) -> None:
    stated = f"{relation.subject} {relation.relation} {relation.object}"
    if relation.relation not in RELATIONS:
        raise LayoutError(
            f"Unknown relation {relation.relation!r} in {stated!r}. Known: {', '.join(RELATIONS)}."
        )

    mentioned = [relation.subject, relation.object]
    mentioned += [] if relation.second is None else [relation.second]
    for name in mentioned:
        if name not in names:
            raise LayoutError(
                f"{stated!r} names {name!r}, which is no object. Objects: {', '.join(names)}."
            )

    if (relation.second is None) == (relation.relation == "between"):
        raise LayoutError(
            f"{stated!r}: 'between' needs a second neighbour, every other relation has none."
        )
    if len(set(mentioned)) < len(mentioned):
        raise LayoutError(f"{stated!r}: an object cannot stand in a relation to itself.")

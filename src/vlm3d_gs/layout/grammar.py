"""From a prompt to a scene graph, by a small grammar.

    scene    = thing { [","] ["and"] ( relation thing | thing ) }
    thing    = [article or number] [size] words
    relation = one of the phrases below, with "is", "are", "standing" and the like before it

A relation right after a thing is about that thing; after a comma or "and" it is about the first thing of its clause: in
"a red cube on top of a blue sphere, to the left of two green cones" the cube is to the left of the cones. "and" after a
thing beside which something stands adds a second one; after a comma a new clause begins. "with" means next to. "the"
and a name that was there before means that thing again, "it" and "them" the last thing named before.

Things of the embedded models are a colour and a shape (`core/prompts.py`). For other models a thing is any words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from vlm3d_gs.core import prompts
from vlm3d_gs.core.errors import PromptError
from vlm3d_gs.core.prompts import COLORS, SHAPE_WORDS, article
from vlm3d_gs.layout.graph import COUNT_WORDS, Relation, SceneGraph, SceneObject

PHRASES: dict[str, tuple[str, bool | None]] = {
    **{phrase: (relation, None) for phrase, relation in prompts.RELATION_PHRASES.items()},
    "underneath": ("under", None),
    "on the left of": ("to the left of", None),
    "on the right of": ("to the right of", None),
    "next to": ("next to", None),
    "beside": ("next to", None),
    "close to": ("next to", None),
    "near": ("next to", None),
    "touching": ("next to", True),
    "not touching": ("next to", False),
    "between": ("between", None),
    "in between": ("between", None),
    "inside of": ("inside", None),
    "inside": ("inside", None),
    "around": ("around", None),
    "surrounding": ("around", None),
}
"""Phrase -> relation, and whether it says that the things touch."""
OPEN_PHRASES: dict[str, tuple[str, bool | None]] = {
    "on": ("on top of", None),
    "over": ("on top of", None),
    "in": ("inside", None),
}
"""Phrases that only prompts for other models may use."""

SIZE_WORDS = {"tiny": "tiny", "small": "small", "little": "small", "large": "large", "big": "large"}
COUNTS = {word: number for number, word in enumerate(COUNT_WORDS, 1)} | {
    str(number): number for number in range(1, len(COUNT_WORDS) + 1)
}
MORE = ("five", "six", "seven", "eight", "nine", "ten", "many", "several", "some")
FILLERS = (
    *("is", "are", "stands", "stand", "standing", "sits", "sit", "sitting", "lies", "lie", "lying"),
    *("placed", "that", "which", "both"),
)
PLURALS = {"boxes": "box", "toruses": "torus", "tori": "torus"} | {
    f"{word}s": word for word in SHAPE_WORDS if word not in ("box", "torus")
}
BESIDE = ("to the left of", "to the right of", "in front of", "behind", "next to", "around")
"""Relations that "and" repeats with the next thing."""


@dataclass
class _Reading:
    """What has been read of a prompt so far."""

    text: str
    embedded: bool
    objects: list[SceneObject] = field(default_factory=list)
    relations: list[Relation] = field(default_factory=list)
    mentioned: list[str] = field(default_factory=list)
    """Names in the order in which they were mentioned."""
    head: str | None = None
    """First thing of the clause."""
    shared: Relation | None = None
    """The relation that an "and" would repeat."""


def parse_scene(text: str, *, embedded: bool = True) -> SceneGraph:
    """Parse a prompt into a scene graph.

    Args:
        text: for example "a red cube on top of a blue sphere, to the left of two small green cones".
        embedded: only things that the embedded models can draw, which are a colour and a shape; else any words.

    Raises:
        PromptError: something of it cannot be understood; the message says what, and what can be.
        LayoutError: too many objects, or an object in a relation to itself.
    """
    items = _items(text, embedded)
    reading = _Reading(text.strip(), embedded)
    position = 0
    while position < len(items):
        position = _step(reading, items, position)
    if not reading.objects:
        raise PromptError(_refusal(text, "it names no object", embedded))
    return SceneGraph(
        prompt=reading.text, objects=tuple(reading.objects), relations=tuple(reading.relations)
    )


def _items(text: str, embedded: bool) -> list[tuple[str, str]]:
    """Split a prompt into things ("thing", words), relations ("relation", phrase), "and", "with" and "comma"."""
    phrases = list(PHRASES if embedded else PHRASES | OPEN_PHRASES)
    marks = "|".join(re.escape(one) for one in sorted(phrases, key=len, reverse=True))
    pattern = rf"(?<![\w'-])(?:(?P<relation>{marks})|(?P<and>and)|(?P<with>with))(?![\w'-])|(?P<comma>[,;.])"

    plain = re.sub(r"[^\w\s,;.'-]", " ", text.lower())
    items, end = [], 0
    for match in re.finditer(pattern, plain):
        items.append(("thing", plain[end : match.start()]))
        assert match.lastgroup is not None
        items.append((match.lastgroup, match.group()))
        end = match.end()
    items.append(("thing", plain[end:]))

    spaced = [(kind, " ".join(_spoken(words))) for kind, words in items]
    return [(kind, words) for kind, words in spaced if words or kind == "comma"]


def _spoken(words: str) -> list[str]:
    return [word for word in words.split() if word not in FILLERS]


def _step(reading: _Reading, items: list[tuple[str, str]], position: int) -> int:
    """Read the item at a position, and return the position of the next."""
    kind, words = items[position]
    before = [one for one, _ in items[:position]]
    after = [one for one, _ in items[position + 1 :]]

    if kind == "relation":
        return _read_relation(reading, items, position)
    if kind == "thing":
        name = _thing(reading, words)
        joined = before[-1] if before else ""
        shared, reading.shared = reading.shared, None
        if joined == "with" and reading.head is not None:
            reading.relations.append(
                Relation(subject=name, relation="next to", object=reading.head)
            )
        elif (
            joined == "and"
            and shared is not None
            and "comma" not in before[-2:]
            and after[:1] != ["relation"]
        ):
            reading.relations.append(replace(shared, object=name))
            reading.shared = shared
        else:
            reading.head = name
    elif kind in ("and", "with") and not after:
        raise PromptError(_refusal(reading.text, f"nothing follows {words!r}", reading.embedded))
    elif kind == "comma":
        reading.shared = None
    return position + 1


def _read_relation(reading: _Reading, items: list[tuple[str, str]], position: int) -> int:
    """Read a relation and the things that it needs, and return the position after them."""
    phrase = items[position][1]
    relation, touching = (PHRASES | OPEN_PHRASES)[phrase]
    fresh = position > 0 and items[position - 1][0] in ("comma", "and")
    last = reading.mentioned[-1] if reading.mentioned else None
    subject = reading.head if fresh else last
    if subject is None:
        raise PromptError(
            _refusal(reading.text, f"nothing stands before {phrase!r}", reading.embedded)
        )

    # "to the left of and touching", or simply two relations one after the other.
    following = items[position + 1 : position + 3]
    touch = [
        words
        for kind, words in following
        if (kind, words) in (("relation", "touching"), ("and", "and"))
    ]
    if touch[-1:] == ["touching"] and touch[0] in ("and", "touching"):
        touching, position = True, position + len(touch)

    needed = 2 if relation == "between" else 1
    names: list[str] = []
    for _ in range(needed):
        position += 1
        if names and position < len(items) and items[position][0] == "and":
            position += 1
        if position >= len(items) or items[position][0] != "thing":
            missing = "two things joined by 'and'" if needed == 2 else "a thing"
            raise PromptError(
                _refusal(reading.text, f"{phrase!r} needs {missing} after it", reading.embedded)
            )
        if needed == 2 and not names and _count_of(items[position][1]) == 2:
            names = [_thing(reading, items[position][1])]
            break
        names.append(_thing(reading, items[position][1], other_than=subject))

    if needed == 2 and len(names) == 1:
        names = _split_pair(reading, names[0])
    found = Relation(
        subject=subject,
        relation=relation,
        object=names[0],
        second=names[1] if needed == 2 else None,
        touching=touching,
    )
    reading.relations.append(found)
    reading.shared = found if relation in BESIDE else None
    return position + 1


def _count_of(words: str) -> int:
    first = words.split()[:1]
    return COUNTS.get(first[0], 1) if first else 1


def _split_pair(reading: _Reading, name: str) -> list[str]:
    """Make two objects of a pair, so that something can be between them."""
    index = next(i for i, item in enumerate(reading.objects) if item.name == name)
    pair = reading.objects[index]
    single = replace(pair, count=1)
    second = replace(single, name=_free_name(reading, pair.noun))
    reading.objects[index : index + 1] = [single, second]
    reading.mentioned.append(second.name)
    return [single.name, second.name]


def _thing(reading: _Reading, phrase: str, other_than: str | None = None) -> str:
    """Return the name of a thing: one mentioned before, or a new object."""
    words = phrase.split()
    if words in (["it"], ["them"], ["they"]):
        earlier = [name for name in reversed(reading.mentioned) if name != other_than]
        if not earlier:
            raise PromptError(
                _refusal(reading.text, f"{phrase!r} refers to nothing before it", reading.embedded)
            )
        return earlier[0]

    definite = words[:1] == ["the"]
    if definite:
        words = words[1:]
    made = _object(reading, words, phrase)
    if definite:
        for item in reading.objects:
            same_size = made.size in ("normal", item.size)
            if item.prompt == made.prompt and same_size and made.count in (1, item.count):
                reading.mentioned.append(item.name)
                return item.name

    reading.objects.append(made)
    reading.mentioned.append(made.name)
    return made.name


def _object(reading: _Reading, words: list[str], phrase: str) -> SceneObject:
    """Return a new object for the words of a thing."""
    count, size = 1, "normal"
    attributes: tuple[str, ...]
    if words and words[0] in COUNTS:
        count, words = COUNTS[words[0]], words[1:]
    elif words and words[0] in ("a", "an"):
        words = words[1:]
    elif words and (words[0] in MORE or words[0].isdigit()):
        raise PromptError(
            _refusal(
                reading.text, f"{phrase!r} is more than {COUNT_WORDS[-1]} alike", reading.embedded
            )
        )

    sizes = [word for word in words[:2] if word in SIZE_WORDS]
    if sizes:
        size = SIZE_WORDS[sizes[0]]
        words = [word for index, word in enumerate(words) if index > 1 or word not in SIZE_WORDS]

    if reading.embedded:
        colors = [word for word in words if word in COLORS]
        shapes = [
            PLURALS.get(word, word) for word in words if PLURALS.get(word, word) in SHAPE_WORDS
        ]
        if len(words) != 2 or len(colors) != 1 or len(shapes) != 1 or words[0] != colors[0]:
            raise PromptError(
                _refusal(reading.text, f"{phrase.strip()!r} is not one colour and one shape", True)
            )
        noun = f"{colors[0]} {SHAPE_WORDS[shapes[0]]}"
        attributes = (colors[0],)
    else:
        if not words:
            raise PromptError(_refusal(reading.text, f"{phrase.strip()!r} names no thing", False))
        noun = " ".join([*words[:-1], _singular(words[-1]) if count > 1 else words[-1]])
        attributes = tuple(word for word in words[:-1] if word in COLORS)

    return SceneObject(
        name=_free_name(reading, noun),
        prompt=f"{article(noun)} {noun}",
        count=count,
        size=size,
        attributes=attributes,
    )


def _singular(noun: str) -> str:
    """Return the singular of a plural, by its ending."""
    if noun in PLURALS:
        return PLURALS[noun]
    if noun.endswith("ies"):
        return f"{noun[:-3]}y"
    if re.search(r"(ses|xes|zes|ches|shes)$", noun):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not noun.endswith("ss") else noun


def _free_name(reading: _Reading, noun: str) -> str:
    """Return a name for an object that no other object has."""
    plain = re.sub(r"[^a-z0-9]+", "_", noun).strip("_")[:34] or "object"
    taken = {item.name for item in reading.objects}
    numbered = [plain, *(f"{plain}_{number}" for number in range(2, 20))]
    return next(name for name in numbered if name not in taken)


def _refusal(text: str, reason: str, embedded: bool) -> str:
    if not embedded:
        return (
            f"The layout of {text!r} cannot be read: {reason}. Join things by commas, 'and', 'with', or one of: "
            f"{', '.join(PHRASES | OPEN_PHRASES)}; at most {COUNT_WORDS[-1]} of a kind. Or ask a model for it "
            "(--from-model), or write it (--layout FILE)."
        )
    return (
        f"The embedded mini models cannot lay out {text!r}: {reason}. They know things of a colour "
        f"({', '.join(COLORS)}) and a shape ({', '.join(SHAPE_WORDS)}), one to four of a kind, tiny, small or large, "
        f"joined by commas, 'and', 'with', or one of: {', '.join(PHRASES)}. Example: 'a red cube on top of a blue "
        "sphere, to the left of two small green cones'."
    )

"""What can be checked of any sentence: its things, how many there are, and how they stand to each other.

A few lists of words, no grammar: a sentence is cut at relations and joining words, and what lies between is taken as a
thing. Where a sentence does not fit, fewer questions come out, never wrong ones that could not be dropped by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SPATIAL_RELATIONS = (
    *("on top of", "in front of", "to the left of", "to the right of", "left of", "right of"),
    *("next to", "close to", "inside of", "underneath", "beneath", "between", "behind", "beside"),
    *("inside", "above", "below", "under", "over", "near", "in", "on"),
)
"""Relations between neighbours in the sentence."""
ACTIONS = (
    *("wearing", "holding", "riding", "carrying", "eating", "playing", "reading", "driving"),
    *("sitting on", "standing on", "lying on", "sitting in", "standing in", "leaning against"),
)
"""Relations whose subject is the first thing of the sentence."""
SEPARATORS = ("and", "with", "made of", "that", "which", "while")
"""Words at which a thing ends without a relation that could be asked for."""
NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 2
    )
}
MAX_WORDS = 6
"""Longer things are left to the question about the whole sentence."""


@dataclass(frozen=True, slots=True)
class Thing:
    """What a part of a sentence names."""

    words: str
    """Without article, such as "red car" or "three apples"."""
    count: int
    """How many; 1 where the sentence gives no number."""

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True, slots=True)
class Relation:
    """How one thing of a sentence stands to another."""

    first: Thing
    """Subject."""
    words: str
    """One of `SPATIAL_RELATIONS` or `ACTIONS`."""
    second: Thing
    """Object."""


def parse_sentence(text: str) -> tuple[tuple[Thing, ...], tuple[Relation, ...]]:
    """Return the things of a sentence in order, and the relations between them.

    Example:
        >>> things, relations = parse_sentence("a corgi wearing a hat on a red sofa")
        >>> [str(thing) for thing in things], [relation.words for relation in relations]
        (['corgi', 'hat', 'red sofa'], ['wearing', 'on'])
    """
    sentence = " ".join(re.findall(r"[a-z0-9'-]+|[,.;]", text.lower()))
    cuts = sorted((*SPATIAL_RELATIONS, *ACTIONS, *SEPARATORS), key=len, reverse=True)
    pattern = r"(?<!\S)(" + "|".join(map(re.escape, cuts)) + r"|[,.;])(?!\S)"
    parts = re.split(pattern, sentence)
    things: list[Thing] = []
    relations: list[Relation] = []
    joint = ""
    for index, part in enumerate(parts):
        if index % 2:
            joint = part
            continue
        thing = _thing(part)
        if thing is None:
            joint = ""
            continue
        if things and joint in SPATIAL_RELATIONS:
            relations.append(Relation(things[-1], joint, thing))
        elif things and joint in ACTIONS:
            relations.append(Relation(things[0], joint, thing))
        things.append(thing)
    return tuple(things), tuple(relations)


def _thing(part: str) -> Thing | None:
    words = part.split()
    while words and words[0] in (
        "a",
        "an",
        "the",
        "one",
        "its",
        "his",
        "her",
        "their",
        "is",
        "are",
    ):
        words = words[1:]
    if not words or len(words) > MAX_WORDS:
        return None
    count = NUMBER_WORDS.get(words[0], int(words[0]) if re.fullmatch(r"[2-9]|1\d", words[0]) else 1)
    return None if count > 1 and len(words) == 1 else Thing(" ".join(words), count)

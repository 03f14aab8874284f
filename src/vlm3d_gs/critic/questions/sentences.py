"""What can be checked about any sentence: its things, their numbers, and their relations.

A few lists of words, no grammar: a sentence is split at relations and conjunctions, and what lies between is taken as a
thing. A sentence that does not fit gives fewer questions; a wrong one can be dropped by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SPATIAL_RELATIONS = (
    *("on top of", "in front of", "to the left of", "to the right of", "left of", "right of"),
    *("next to", "close to", "inside of", "underneath", "beneath", "between", "behind", "beside"),
    *("inside", "above", "below", "under", "over", "near", "in", "on"),
)
"""Relations between two things that are adjacent in the sentence."""
ACTIONS = (
    *("wearing", "holding", "riding", "carrying", "eating", "playing", "reading", "driving"),
    *("sitting on", "standing on", "lying on", "sitting in", "standing in", "leaning against"),
)
"""Relations whose subject is the first thing in the sentence."""
SEPARATORS = ("and", "with", "made of", "that", "which", "while")
"""Words that end a thing without stating a relation that a question could be about."""
NUMBER_WORDS = {
    word: number
    for number, word in enumerate(
        ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), 2
    )
}
LEADING_WORDS = ("a", "an", "the", "one", "its", "his", "her", "their", "is", "are")
"""Dropped from the front of a thing."""
MAX_WORDS = 6
"""Longer things are covered by the question about the whole sentence only."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing that a sentence names."""

    words: str
    """Without article, such as "red car" or "three apples"."""
    count: int
    """Number of them; 1 if the sentence has no number."""

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation between two things of a sentence."""

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

    # Longest first: "on" is part of "on top of". The group makes re.split return the separators too.
    splitters = sorted((*SPATIAL_RELATIONS, *ACTIONS, *SEPARATORS), key=len, reverse=True)
    pattern = r"(?<!\S)(" + "|".join(map(re.escape, splitters)) + r"|[,.;])(?!\S)"
    phrases = re.split(pattern, sentence)

    things: list[Thing] = []
    relations: list[Relation] = []
    splitter = ""
    for index, phrase in enumerate(phrases):
        if index % 2:
            splitter = phrase
            continue

        thing = _parse_thing(phrase)
        if thing is None:
            splitter = ""
            continue

        if things and splitter in SPATIAL_RELATIONS:
            relations.append(Relation(things[-1], splitter, thing))
        elif things and splitter in ACTIONS:
            relations.append(Relation(things[0], splitter, thing))
        things.append(thing)

    return tuple(things), tuple(relations)


def _parse_thing(phrase: str) -> Thing | None:
    words = phrase.split()
    while words and words[0] in LEADING_WORDS:
        words = words[1:]
    if not words or len(words) > MAX_WORDS:
        return None

    count = NUMBER_WORDS.get(words[0], int(words[0]) if re.fullmatch(r"[2-9]|1\d", words[0]) else 1)

    # A number alone ("two") names nothing.
    return None if count > 1 and len(words) == 1 else Thing(" ".join(words), count)

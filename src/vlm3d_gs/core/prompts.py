"""The composition that a sentence describes: objects, their colours and shapes, and their relation.

`parse_composition` understands the restricted language of the embedded models ("a red cube on top of a blue sphere")
and its synonyms. It is used to ask questions about relations, to refuse words that the embedded models never learned,
and by the composition checker. Relations are meant as the front camera sees them (docs/CONVENTIONS.md).
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from vlm3d_gs.core.errors import PromptError

SHAPES = ("sphere", "cube", "cylinder", "cone", "torus")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white")
RELATIONS = ("on top of", "under", "to the left of", "to the right of", "in front of", "behind")

SHAPE_WORDS = {
    "sphere": "sphere",
    "ball": "sphere",
    "cube": "cube",
    "box": "cube",
    "cylinder": "cylinder",
    "can": "cylinder",
    "cone": "cone",
    "torus": "torus",
    "ring": "torus",
    "donut": "torus",
}
"""Word in a prompt -> shape."""

RELATION_PHRASES = {
    "on top of": "on top of",
    "above": "on top of",
    "under": "under",
    "below": "under",
    "beneath": "under",
    "to the left of": "to the left of",
    "left of": "to the left of",
    "to the right of": "to the right of",
    "right of": "to the right of",
    "in front of": "in front of",
    "behind": "behind",
}
"""Phrase in a prompt -> relation."""

ALIASES = {
    "violet": "purple",
    "turquoise": "cyan",
    "aqua": "cyan",
    "crimson": "red",
    "scarlet": "red",
    "orb": "sphere",
    "globe": "sphere",
    "block": "cube",
    "tube": "cylinder",
    "doughnut": "torus",
}
"""Word as people write it -> one that the embedded models have learned; plurals follow by themselves."""
VERBS = "is|are|sits|sitting|stands|standing|lies|lying|rests|resting|placed|located"
"""Dropped before a relation."""
ON = r"(?:on(?! top of\b| the (?:left|right)\b)|upon|atop(?: of)?|over)"
"""Ways to say `on top of`."""

OPPOSITE = {
    "on top of": "under",
    "under": "on top of",
    "to the left of": "to the right of",
    "to the right of": "to the left of",
    "in front of": "behind",
    "behind": "in front of",
}
"""`A relation B` means the same as `B OPPOSITE[relation] A`."""

LIKENESS = 0.7
"""Share of letters that a word has in common with the one it may be meant for."""
ARTICLES = ("a", "an", "the", "one")


@dataclass(frozen=True, slots=True)
class ObjectPhrase:
    """One object that a prompt names."""

    color: str
    """One of `COLORS`."""
    shape: str
    """One of `SHAPES`."""

    def __str__(self) -> str:
        return f"{self.color} {self.shape}"


@dataclass(frozen=True, slots=True)
class Composition:
    """The objects of a prompt, and the relation of the first to the second."""

    objects: tuple[ObjectPhrase, ...]
    """One or two objects, in the prompt's order."""
    relation: str | None = None
    """One of `RELATIONS`: objects[0] relation objects[1]; None for one object."""

    def __str__(self) -> str:
        first = f"{article(self.objects[0].color)} {self.objects[0]}"
        if self.relation is None:
            return first
        return f"{first} {self.relation} {article(self.objects[1].color)} {self.objects[1]}"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, parsed once at the start of a run."""

    text: str
    """As the user wrote it."""
    composition: Composition | None
    """None for a prompt outside the language of the embedded models."""
    refusal: str = ""
    """Why the embedded models cannot draw it, and the cure; empty for a composition."""


def article(word: str) -> str:
    """Return "an" before a vowel, else "a"."""
    return "an" if word[:1] in "aeiou" else "a"


def words_of(text: str) -> list[str]:
    """Split a text into lower-case words of any alphabet, punctuation dropped.

    Example:
        >>> words_of("Ein roter Würfel, bitte!")
        ['ein', 'roter', 'würfel', 'bitte']
    """
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", unicodedata.normalize("NFC", text).lower())


def plain_words(text: str) -> str:
    """Return a text in the words that the embedded models have learned, where it says the same in others.

    Example:
        >>> plain_words("A violet ball sits on two blocks")
        'A purple ball on top of two cubes'
        >>> plain_words("a red cube on top of a blue sphere")
        'a red cube on top of a blue sphere'
    """
    relations = "|".join(sorted(RELATION_PHRASES, key=len, reverse=True))
    words = "|".join(ALIASES)
    sides = r"\bon the (left|right)(?: side)? of\b"
    text = re.sub(sides, r"to the \1 of", text, flags=re.IGNORECASE)
    text = re.sub(rf"\b(?:{VERBS})\s+(?=(?:{ON}|{relations})\b)", "", text, flags=re.IGNORECASE)
    text = re.sub(rf"\b{ON}\b", "on top of", text, flags=re.IGNORECASE)
    return re.sub(
        rf"\b({words})(s?)\b",
        lambda found: ALIASES[found[1].lower()] + found[2],
        text,
        flags=re.IGNORECASE,
    )


def known_words() -> tuple[str, ...]:
    """Return every word that `parse_composition` understands, sorted."""
    relation_words = {word for phrase in RELATION_PHRASES for word in phrase.split()}
    return tuple(sorted({*SHAPE_WORDS, *COLORS, *relation_words, *ARTICLES}))


def parse_composition(text: str) -> Composition:
    """Parse a prompt of one or two coloured shapes; words that mean the same as learned ones are taken for them.

    Args:
        text: for example "a red box left of a blue ball"; case and punctuation do not matter.

    Returns:
        The objects by canonical names ("cube", "sphere") and the canonical relation.

    Raises:
        PromptError: an unknown word, a missing colour or shape, or not one or two objects; the message lists the
            known words and says how to use an open-vocabulary model.
    """
    words = words_of(plain_words(text))
    unknown = unknown_words(text)
    if unknown or not words:
        raise PromptError(_refusal(text, f"unknown words {unknown}{nearest(unknown)}"))

    # Longest phrases first: "left of" is part of "to the left of".
    sentence = " ".join(words)
    for phrase in sorted(RELATION_PHRASES, key=len, reverse=True):
        first, found, second = f" {sentence} ".partition(f" {phrase} ")
        if found:
            objects = (_parse_object(first, text), _parse_object(second, text))
            return Composition(objects, RELATION_PHRASES[phrase])
    return Composition((_parse_object(sentence, text),))


def unknown_words(text: str, known: Iterable[str] = ()) -> list[str]:
    """Return the words of a text that the embedded models have not learned, in order.

    Args:
        text: a prompt.
        known: more words that are known.
    """
    learned = {*known_words(), *known}
    return [word for word in words_of(plain_words(text)) if word not in learned]


def nearest(words: Iterable[str]) -> str:
    """Return for each word the known one that looks most like it, as a question; empty if none does.

    Example:
        >>> nearest(["cub", "dog"])
        " (did you mean 'cube'?)"
    """
    known = (*known_words(), *ALIASES)
    close = (difflib.get_close_matches(word, known, 1, LIKENESS) for word in words)
    found = [match[0] for match in close if match]
    return f" (did you mean {' and '.join(map(repr, found))}?)" if found else ""


def parse_prompt(text: str) -> Prompt:
    """Parse any prompt; one that `parse_composition` refuses has no composition, and the reason instead."""
    try:
        return Prompt(text, parse_composition(text))
    except PromptError as error:
        return Prompt(text, None, str(error))


def _parse_object(phrase: str, text: str) -> ObjectPhrase:
    words = [word for word in phrase.split() if word not in ARTICLES]
    if len(words) != 2 or words[0] not in COLORS or words[1] not in SHAPE_WORDS:
        raise PromptError(_refusal(text, f"'{phrase.strip()}' is not one colour and one shape"))
    return ObjectPhrase(words[0], SHAPE_WORDS[words[1]])


def _refusal(text: str, reason: str) -> str:
    return (
        f"The embedded mini models cannot draw {text!r}: {reason}. They know a colour "
        f"({', '.join(COLORS)}) and a shape "
        f"({', '.join(SHAPE_WORDS)}), or two such objects joined by one of: {', '.join(RELATION_PHRASES)}. "
        f"Example: 'a red cube on top of a blue sphere'.\n"
        f"For any words use large models: vlm3d-gs generate {text!r} --preset mvdream"
    )

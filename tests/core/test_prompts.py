"""The language of the embedded models."""

from __future__ import annotations

import pytest

from vlm3d_gs.core.errors import PromptError
from vlm3d_gs.core.prompts import (
    COLORS,
    OPPOSITE,
    RELATION_PHRASES,
    RELATIONS,
    SHAPE_WORDS,
    Composition,
    ObjectPhrase,
    parse_composition,
)

RED_CUBE, BLUE_SPHERE = ObjectPhrase("red", "cube"), ObjectPhrase("blue", "sphere")


@pytest.mark.parametrize(
    "text",
    [
        "a red cube on top of a blue sphere",
        "A red box above the blue ball.",
        "red cube on top of blue sphere",
    ],
)
def test_phrasings_of_one_statement_are_read_alike(text: str) -> None:
    assert parse_composition(text) == Composition((RED_CUBE, BLUE_SPHERE), "on top of")


@pytest.mark.parametrize("phrase", RELATION_PHRASES)
def test_every_relation_phrase_is_understood(phrase: str) -> None:
    found = parse_composition(f"a red cube {phrase} a blue sphere")
    assert found.relation == RELATION_PHRASES[phrase]
    assert found.objects == (RED_CUBE, BLUE_SPHERE)


@pytest.mark.parametrize("word", SHAPE_WORDS)
@pytest.mark.parametrize("color", COLORS)
def test_every_color_and_shape_word_is_understood(color: str, word: str) -> None:
    assert parse_composition(f"a {color} {word}").objects == (
        ObjectPhrase(color, SHAPE_WORDS[word]),
    )


def test_text_form_is_read_back() -> None:
    for relation in RELATIONS:
        composition = Composition((ObjectPhrase("orange", "torus"), BLUE_SPHERE), relation)
        assert parse_composition(str(composition)) == composition
    assert str(Composition((ObjectPhrase("orange", "torus"),))) == "an orange torus"


def test_opposites_are_opposite() -> None:
    assert all(
        OPPOSITE[OPPOSITE[relation]] == relation != OPPOSITE[relation] for relation in RELATIONS
    )


@pytest.mark.parametrize(
    "text", ["a corgi", "", "red", "a cube", "a red cube blue", "a red cube under"]
)
def test_what_it_does_not_know_is_refused_with_the_words_it_knows(text: str) -> None:
    with pytest.raises(PromptError, match="red, orange, yellow") as caught:
        parse_composition(text)
    assert "--preset mvdream" in str(caught.value)

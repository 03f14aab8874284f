"""The language of the embedded models."""

from __future__ import annotations

import pytest

from vlm3d_gs.core.errors import PromptError
from vlm3d_gs.core.prompts import (
    ALIASES,
    COLORS,
    OPPOSITE,
    RELATION_PHRASES,
    RELATIONS,
    SHAPE_WORDS,
    Composition,
    ObjectPhrase,
    known_words,
    parse_composition,
    plain_words,
    words_of,
)

RED_CUBE, BLUE_SPHERE = ObjectPhrase("red", "cube"), ObjectPhrase("blue", "sphere")


@pytest.mark.parametrize(
    "text",
    [
        "a red cube on top of a blue sphere",
        "A red box above the blue ball.",
        "red cube on top of blue sphere",
        "a red cube on a blue sphere",
        "a red block is on top of a blue orb",
        "A scarlet cube sits atop the blue globe!",
        "a red cube over a blue ball",
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


def test_a_refusal_is_two_lines_with_the_nearest_word_and_the_way_out() -> None:
    with pytest.raises(PromptError) as caught:
        parse_composition("a red cub on a Würfel")
    first, second = str(caught.value).splitlines()
    assert "unknown words ['cub', 'würfel'] (did you mean 'cube'?)" in first
    assert second.endswith("vlm3d-gs generate 'a red cub on a Würfel' --preset mvdream")


def test_words_are_those_of_any_alphabet() -> None:
    assert words_of("Don't: WU\u0308RFEL_кубик 3") == ["don't", "würfel", "кубик", "3"]


def test_what_is_said_in_learned_words_stays_to_the_letter() -> None:
    for text in ("A red cube, on top of THE blue sphere.", "two small cones in front of a torus"):
        assert plain_words(text) == text
    assert plain_words("a cone on the left side of a ring") == "a cone to the left of a ring"
    assert plain_words("three violet orbs") == "three purple spheres"
    assert set(ALIASES.values()) <= set(known_words())
    assert not set(ALIASES) & set(known_words())

"""layout.grammar: prompts of several things, counted and sized, as scene graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm3d_gs.core.errors import LayoutError, PromptError
from vlm3d_gs.core.prompts import RELATION_PHRASES, RELATIONS, parse_composition
from vlm3d_gs.layout.grammar import PHRASES, SIZE_WORDS, parse_scene
from vlm3d_gs.layout.graph import SceneGraph


def said(graph: SceneGraph) -> list[str]:
    return [graph.sentence(relation) for relation in graph.relations]


def things(graph: SceneGraph) -> list[str]:
    return [str(item) for item in graph.objects]


@pytest.mark.parametrize(
    ("prompt", "objects", "sentences"),
    [
        ("a red cube", ["the red cube"], []),
        ("Two small red boxes.", ["the two small red cubes"], []),
        ("3 large cyan donuts", ["the three large cyan tori"], []),
        (
            "a red cube on top of a blue sphere, to the left of two green cones",
            ["the red cube", "the blue sphere", "the two green cones"],
            [
                "the red cube is on top of the blue sphere",
                "the red cube is to the left of the two green cones",
            ],
        ),
        (
            "a red cube on top of a blue sphere to the left of a green cone",
            ["the red cube", "the blue sphere", "the green cone"],
            [
                "the red cube is on top of the blue sphere",
                "the blue sphere is to the left of the green cone",
            ],
        ),
        (
            "a red cube to the left of a blue sphere and a green cone",
            ["the red cube", "the blue sphere", "the green cone"],
            [
                "the red cube is to the left of the blue sphere",
                "the red cube is to the left of the green cone",
            ],
        ),
        (
            "a red cube to the left of a blue sphere, and a green cone behind it",
            ["the red cube", "the blue sphere", "the green cone"],
            [
                "the red cube is to the left of the blue sphere",
                "the green cone is behind the blue sphere",
            ],
        ),
        (
            "a red cube on top of a blue sphere and a green cone",
            ["the red cube", "the blue sphere", "the green cone"],
            ["the red cube is on top of the blue sphere"],
        ),
        (
            "a tiny red cube with a white can",
            ["the tiny red cube", "the white cylinder"],
            ["the white cylinder is next to the tiny red cube"],
        ),
        (
            "a red cube between a blue sphere and a green cone",
            ["the red cube", "the blue sphere", "the green cone"],
            ["the red cube is between the blue sphere and the green cone"],
        ),
        (
            "a red cube between two blue spheres",
            ["the red cube", "the blue sphere", "the blue sphere"],
            ["the red cube is between the blue sphere and the blue sphere"],
        ),
        (
            "a red cube to the left of and touching a blue sphere",
            ["the red cube", "the blue sphere"],
            ["the red cube is to the left of the blue sphere, touching"],
        ),
        (
            "a red cube is touching a blue sphere; the blue sphere stands behind the red cube",
            ["the red cube", "the blue sphere"],
            ["the red cube is touching the blue sphere", "the blue sphere is behind the red cube"],
        ),
        (
            "four tiny red spheres around a blue cube and a green cone on top of it",
            ["the four tiny red spheres", "the blue cube", "the green cone"],
            [
                "the four tiny red spheres are around the blue cube",
                "the green cone is on top of the blue cube",
            ],
        ),
        ("a red cube and a red cube", ["the red cube", "the red cube"], []),
    ],
)
def test_prompts_are_read_as_they_are_meant(
    prompt: str, objects: list[str], sentences: list[str]
) -> None:
    graph = parse_scene(prompt)
    assert things(graph) == objects
    assert said(graph) == sentences
    assert len({item.name for item in graph.objects}) == len(graph.objects)


def test_all_prompts_of_one_or_two_objects_are_read_as_before(golden: Path) -> None:
    lines = (golden / "prompts.txt").read_text().splitlines()
    for line in [line for line in lines if line and not line.startswith("#")]:
        composition, graph = parse_composition(line), parse_scene(line)
        assert tuple(item.phrase for item in graph.objects) == composition.objects
        assert [one.relation for one in graph.relations] == (
            [composition.relation] if composition.relation else []
        )


@pytest.mark.parametrize("phrase", PHRASES)
def test_every_phrase_is_understood(phrase: str) -> None:
    rest = "a blue sphere and a green cone" if "between" in phrase else "a blue sphere"
    (relation,) = parse_scene(f"a red cube {phrase} {rest}").relations
    assert (relation.relation, relation.touching) == PHRASES[phrase]
    assert (relation.subject, relation.object) == ("red_cube", "blue_sphere")


def test_the_old_phrases_mean_what_they_meant() -> None:
    assert all(PHRASES[phrase][0] == relation for phrase, relation in RELATION_PHRASES.items())
    assert {relation for relation, _ in PHRASES.values()} >= set(RELATIONS)


@pytest.mark.parametrize("word", SIZE_WORDS)
def test_sizes_stand_before_or_after_the_colour_word(word: str) -> None:
    for prompt in (f"a {word} red cube", f"a red {word} cube"):
        assert parse_scene(prompt).objects[0].size == SIZE_WORDS[word]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "names no object"),
        ("a corgi", "'a corgi' is not one colour and one shape"),
        ("a cube", "not one colour"),
        ("a red blue cube", "not one colour"),
        ("on top of a red cube", "nothing stands before 'on top of'"),
        ("a red cube on top of", "'on top of' needs a thing"),
        ("a red cube and", "nothing follows 'and'"),
        ("a red cube between a blue sphere", "needs two things joined by 'and'"),
        ("five red cubes", "more than four alike"),
        ("it", "refers to nothing"),
    ],
)
def test_what_it_does_not_know_is_refused_with_what_it_knows(prompt: str, reason: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse_scene(prompt)
    assert reason in str(caught.value)
    assert "red, orange, yellow" in str(caught.value)


def test_nine_objects_are_too_many() -> None:
    with pytest.raises(LayoutError, match="1 to 8 objects, got 9"):
        parse_scene(", ".join(["a red cube"] * 9))


def test_other_models_get_things_of_any_words() -> None:
    graph = parse_scene(
        "A corgi wearing a hat on a red sofa, next to two big potted plants and four ripe apples in a basket",
        embedded=False,
    )
    assert [item.name for item in graph.objects] == [
        *("corgi_wearing_a_hat", "red_sofa", "potted_plant", "ripe_apple", "basket"),
    ]
    assert [item.count for item in graph.objects] == [1, 1, 2, 4, 1]
    assert graph.objects[1].attributes == ("red",)
    assert said(graph) == [
        "the corgi wearing a hat is on top of the red sofa",
        "the corgi wearing a hat is next to the two large potted plants",
        "the four ripe apples are inside the basket",
    ]
    with pytest.raises(PromptError, match="--from-model"):
        parse_scene("seven apples", embedded=False)

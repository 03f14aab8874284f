"""Which questions a prompt gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm3d_gs.config import QuestionConfig
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.prompts import parse_prompt
from vlm3d_gs.critic.questions.checklist import (
    cached_generator,
    held_out_questions,
    model_questions,
    prompt_questions,
    user_question,
)
from vlm3d_gs.critic.questions.sentences import parse_sentence
from vlm3d_gs.mini.critic.model import critic_tokenizer

MINI = parse_prompt("a red cube on top of a blue sphere")
CORGI = parse_prompt("a corgi")


def test_relation_and_objects_get_questions_of_their_own_and_share_the_weight() -> None:
    questions = prompt_questions(MINI, QuestionConfig(semantic_weight=2.0, geometric_weight=3.0))
    names = [question.name for question in questions]
    assert names == ["semantic", "relation", "object_1", "object_2", "geometric"]
    assert "is the red cube on top of the blue sphere?" in questions[1].text
    assert questions[2].text.startswith("Is there a red cube?")
    assert questions[3].text.startswith("Is there a blue sphere?")
    assert sum(question.weight for question in questions[:4]) == pytest.approx(2.0)
    assert questions[4].weight == 3.0


def test_two_objects_of_one_kind_are_asked_for_once() -> None:
    questions = prompt_questions(parse_prompt("a red cube behind a red cube"), QuestionConfig())
    names = [question.name for question in questions]
    assert names == ["semantic", "relation", "object_1", "geometric"]


def test_an_open_prompt_is_asked_for_its_relations_counts_and_things() -> None:
    text = "three green apples in front of a wooden bowl, next to a sleeping cat wearing a hat"
    questions = {q.name: q.text for q in prompt_questions(parse_prompt(text), QuestionConfig())}
    assert "are the three green apples in front of the wooden bowl?" in questions["relation_1"]
    assert "exactly three green apples" in questions["count_1"]
    assert "show a wooden bowl?" in questions["thing_2"]
    assert "geometric" in questions
    assert len({*questions.values()}) == len(questions)


def test_one_plain_thing_gets_no_more_than_content_and_geometry() -> None:
    names = [q.name for q in prompt_questions(CORGI, QuestionConfig())]
    assert names == ["semantic", "geometric"]


@pytest.mark.parametrize(
    ("text", "things", "relations"),
    [
        ("a corgi wearing a top hat", ["corgi", "top hat"], [("corgi", "wearing", "top hat")]),
        (
            "a man riding a horse holding a lance",
            ["man", "horse", "lance"],
            [("man", "riding", "horse"), ("man", "holding", "lance")],
        ),
        ("The ONE ring", ["ring"], []),
        ("two cats and a dog", ["two cats", "dog"], []),
        ("", [], []),
        ("on under behind", [], []),
    ],
)
def test_sentences_are_cut_at_relations(
    text: str, things: list[str], relations: list[tuple[str, str, str]]
) -> None:
    found, related = parse_sentence(text)
    assert [str(thing) for thing in found] == things
    assert [(str(r.first), r.words, str(r.second)) for r in related] == relations


def test_the_joint_question_stands_alone() -> None:
    (question,) = prompt_questions(MINI, QuestionConfig(checks="joint"))
    assert question.name == "joint"
    assert MINI.text in question.text
    assert "floaters" in question.text


def test_questions_of_the_user_keep_their_weight_and_are_told_how_to_answer() -> None:
    config = QuestionConfig(asks=("Is the lid open? @ 0.5", "Is it a@b? Say Yes or No. @ 2"))
    first, second = prompt_questions(MINI, config)[-2:]
    assert (first.name, first.weight) == ("ask_1", 0.5)
    assert first.text == "Is the lid open? Answer Yes or No."
    assert (second.text, second.weight) == ("Is it a@b? Say Yes or No.", 2.0)


@pytest.mark.parametrize("text", ["", "@ 1", "Is it? @ much", "Is it? @ -1", "Is it? @ nan"])
def test_malformed_questions_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--ask"):
        user_question(text, 1)


def test_questions_are_dropped_by_name_and_wrong_names_refused() -> None:
    kept = prompt_questions(MINI, QuestionConfig(drop=("relation", "object_2")))
    assert [question.name for question in kept] == ["semantic", "object_1", "geometric"]
    with pytest.raises(ConfigError, match=r"colour.*geometric, object_1, object_2, relation"):
        prompt_questions(MINI, QuestionConfig(drop=("colour",)))
    with pytest.raises(ConfigError, match="nothing to ask"):
        prompt_questions(CORGI, QuestionConfig(drop=("semantic", "geometric")))


ANSWER = """Here are some checks:
1. Is there a red cube?
- "Is the cube on top of the sphere?"
2) Is there a red cube?
Is it nice.
* Is the sphere blue?
"""


def test_what_a_model_lists_becomes_questions_without_repetition() -> None:
    requests: list[str] = []

    def generate_text(request: str) -> str:
        requests.append(request)
        return ANSWER

    texts = [question.text for question in model_questions(MINI.text, generate_text, 12)]
    assert texts == [
        "Is there a red cube? Answer Yes or No.",
        "Is the cube on top of the sphere? Answer Yes or No.",
        "Is the sphere blue? Answer Yes or No.",
    ]
    assert MINI.text in requests[0]
    assert len(model_questions(MINI.text, generate_text, 2)) == 2
    config = QuestionConfig(checks="model", drop=("check_3",))
    names = [question.name for question in prompt_questions(MINI, config, generate_text)]
    assert names == [
        *("semantic", "relation", "object_1", "object_2"),
        *("check_2", "geometric"),  # the first that is listed is asked for already
    ]


def test_answers_are_kept_by_model_and_request(tmp_path: Path) -> None:
    calls: list[str] = []

    def generate_text(request: str) -> str:
        calls.append(request)
        return f"answer {len(calls)}"

    for _ in range(2):
        assert cached_generator(generate_text, "model", tmp_path / "cache")("request") == "answer 1"
    assert cached_generator(generate_text, "other", tmp_path / "cache")("request") == "answer 2"
    assert cached_generator(generate_text, "model", None)("request") == "answer 3"


def test_held_out_questions_use_other_words_that_the_embedded_critic_knows() -> None:
    own = {question.text for question in prompt_questions(MINI, QuestionConfig())}
    tokenizer = critic_tokenizer()
    semantic = held_out_questions(MINI)[0]
    assert semantic.text not in own
    assert "a blue ball under a red box" in semantic.text
    assert tokenizer.unk_token_id not in tokenizer(semantic.text).input_ids
    hat = parse_prompt("a corgi wearing a hat")
    texts = {question.text for question in held_out_questions(hat)}
    assert texts.isdisjoint({q.text for q in prompt_questions(hat, QuestionConfig())})


def test_many_questions_are_cut_at_the_limit_but_geometry_stays() -> None:
    text = " next to ".join(f"a thing{index}" for index in range(20))
    questions = prompt_questions(parse_prompt(text), QuestionConfig(most=5))
    assert len(questions) == 5
    assert questions[-1].name == "geometric"

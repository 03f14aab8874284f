"""Which questions a prompt gets: from templates, from the user, and from the critic itself.

Questions about the content share one weight, so that a long prompt does not outweigh its geometry. Every question has
a name, which appears in the log and by which it can be dropped.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vlm3d_gs.config import QuestionConfig
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.prompts import OPPOSITE, SHAPE_WORDS, Composition, Prompt, article
from vlm3d_gs.critic.questions.sentences import parse_sentence
from vlm3d_gs.critic.questions.templates import (
    GEOMETRY_QUESTION,
    Question,
    content_question,
    count_question,
    joint_question,
    object_question,
    relation_question,
    thing_question,
    with_answer_format,
)

MAX_QUESTION_LENGTH = 200
"""Characters; longer lines of a model's answer are not taken as questions."""
CHECK_REQUEST = (
    "Somebody made a 3D scene from this description: {prompt}\n"
    "List at most {count} short questions that tell from several views whether the scene is as described. "
    "Ask for one thing at a time: an object, a colour or material, a number, or where one thing stands to another as "
    "seen from the front. Each question must be answered by Yes if the scene is right. "
    "Write one question a line and nothing else."
)
TextGenerator = Callable[[str], str]
"""A language model: request -> answer."""


def prompt_questions(
    prompt: Prompt, config: QuestionConfig, generate_text: TextGenerator | None = None
) -> tuple[Question, ...]:
    """Return the questions for a prompt, with their weights.

    Args:
        prompt: what the scene should show.
        config: sources, weights, and the names of questions to drop.
        generate_text: the model that lists further questions with `checks="model"`.

    Raises:
        ConfigError: a name to drop that no question has, a malformed question of the user, or no question left.
    """
    if config.checks == "joint":
        weight = config.semantic_weight + config.geometric_weight
        text = joint_question(prompt.text)
        if config.joint_text is not None:
            text = config.joint_text.replace("{prompt}", prompt.text)
        questions = [Question("joint", text, weight)]
    else:
        content = _content_questions(prompt, config, generate_text)
        share = config.semantic_weight / len(content)
        geometry = Question("geometric", GEOMETRY_QUESTION, config.geometric_weight)
        questions = [*(replace(question, weight=share) for question in content), geometry]

    questions += [user_question(text, number) for number, text in enumerate(config.asks, 1)]

    return _without_dropped(questions, config.drop)


def _content_questions(
    prompt: Prompt, config: QuestionConfig, generate_text: TextGenerator | None
) -> list[Question]:
    """Return the unweighted questions about the content: templates first, then those of the model."""
    questions = template_questions(prompt)
    if config.checks == "model":
        if generate_text is None:
            raise ConfigError("critic.questions.checks is 'model', but no model can write here.")
        known = {question.text for question in questions}
        listed = model_questions(prompt.text, generate_text, config.most)
        questions += [question for question in listed if question.text not in known]

    # One place is kept for the question about geometry, and the whole prompt is always asked for.
    return questions[: max(1, config.most - 1)]


def _without_dropped(questions: Sequence[Question], drop: Sequence[str]) -> tuple[Question, ...]:
    names = {question.name for question in questions}
    for name in drop:
        if name not in names:
            raise ConfigError(
                f"critic.questions.drop names {name!r}, but the questions are {', '.join(sorted(names))}."
            )

    remaining = tuple(question for question in questions if question.name not in drop)
    if not any(question.weight > 0 for question in remaining):
        raise ConfigError(
            "The critic has nothing to ask. Drop fewer questions, or use --no-critic."
        )

    return remaining


def template_questions(prompt: Prompt) -> list[Question]:
    """Return questions about the content alone: the whole, then each relation, number and described thing."""
    questions = [Question("semantic", content_question(prompt.text))]
    composition = prompt.composition
    if composition is None:
        return questions + _sentence_questions(prompt.text)

    # A single object is covered by the question about the whole.
    if composition.relation is not None:
        first, second = composition.objects
        relation = relation_question(first, composition.relation, second)
        questions.append(Question("relation", relation))
        questions += [
            Question(f"object_{number}", object_question(item))
            for number, item in enumerate(dict.fromkeys(composition.objects), 1)
        ]

    return questions


def _sentence_questions(text: str) -> list[Question]:
    """Return questions about the relations, numbers and things of an open-vocabulary prompt."""
    things, relations = parse_sentence(text)
    questions = []

    for number, relation in enumerate(relations, 1):
        name = "relation" if len(relations) == 1 else f"relation_{number}"
        text = relation_question(
            str(relation.first),
            relation.words,
            str(relation.second),
            plural=relation.first.count > 1,
        )
        questions.append(Question(name, text))

    # A single thing is covered by the question about the whole, unless there are several of it.
    if len(things) > 1 or any(thing.count > 1 for thing in things):
        for number, thing in enumerate(things, 1):
            if thing.count > 1:
                questions.append(Question(f"count_{number}", count_question(str(thing))))
            else:
                questions.append(Question(f"thing_{number}", thing_question(str(thing))))

    return questions


def user_question(text: str, number: int) -> Question:
    """Parse a question of the user: a sentence, optionally followed by "@" and its weight.

    Raises:
        ConfigError: empty, or the weight is not a number of 0 or more.
    """
    sentence, at, weight = text.rpartition("@")
    if not at:
        sentence, weight = text, "1"
    try:
        value = float(weight)
    except ValueError:
        value = -1.0

    if not sentence.strip() or not 0.0 <= value <= 1e6:
        raise ConfigError(
            f"--ask needs a question, and after a last @ its weight of 0 or more, got {text!r}. "
            'E.g. --ask "Is the lid open? @ 0.5".'
        )

    return Question(f"ask_{number}", with_answer_format(sentence.strip()), value)


def model_questions(prompt: str, generate_text: TextGenerator, most: int) -> list[Question]:
    """Return up to `most` questions that a model lists for a prompt; lines that are no question are skipped."""
    answer = generate_text(CHECK_REQUEST.format(prompt=prompt, count=most))

    texts: list[str] = []
    for line in answer.splitlines():
        # Models number their lists or mark them with bullets, and some quote each question.
        text = re.sub(r"^[\s\-*•]*(\d+[.)]\s*)?", "", line).strip().strip('"').strip()
        if text.endswith("?") and len(text) <= MAX_QUESTION_LENGTH and text not in texts:
            texts.append(text)

    return [
        Question(f"check_{number}", with_answer_format(text))
        for number, text in enumerate(texts[:most], 1)
    ]


def cached_generator(
    generate_text: TextGenerator, model: str, folder: Path | None
) -> TextGenerator:
    """Return a generator that caches answers in a folder, by model and request; None caches nothing."""
    if folder is None:
        return generate_text

    def cached(request: str) -> str:
        key = hashlib.sha256(json.dumps([model, request]).encode()).hexdigest()[:32]
        path = folder / f"{key}.txt"
        if path.is_file():
            return path.read_text()

        answer = generate_text(request)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as draft:
            draft.write_text(answer)
        return answer

    return cached


def held_out_questions(prompt: Prompt) -> tuple[Question, ...]:
    """Return questions worded differently from those a run optimises, to detect a reward that is merely gamed.

    In the embedded critic's language: synonyms, and the relation stated from the other object. For any other prompt:
    other sentences.
    """
    if prompt.composition is None:
        semantic = f"Would a careful eye call this {prompt.text}? Answer Yes or No."
        geometric = (
            "Is everything here well formed, the same object from each side, with no second face, loose parts, "
            "cracks or speckles? Answer Yes or No."
        )
    else:
        semantic = content_question(_reworded(prompt.composition))
        geometric = GEOMETRY_QUESTION

    return Question("semantic", semantic), Question("geometric", geometric)


def _reworded(composition: Composition) -> str:
    """Put a composition into other words: synonyms of the shapes, the second object first."""
    synonyms = {shape: word for word, shape in SHAPE_WORDS.items() if word != shape}
    objects = [
        f"{article(item.color)} {item.color} {synonyms.get(item.shape, item.shape)}"
        for item in composition.objects
    ]
    if composition.relation is None:
        return objects[0]

    return f"{objects[1]} {OPPOSITE[composition.relation]} {objects[0]}"

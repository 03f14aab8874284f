"""Which questions a prompt gets: from templates, from the user, and from the critic itself.

Questions about the content share one weight, so that a long prompt does not outweigh its geometry. Every question has
a name, by which it is logged and by which it can be dropped.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vlm3d_gs.config import QuestionConfig
from vlm3d_gs.core.errors import ConfigError, PromptError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.prompts import OPPOSITE, SHAPE_WORDS, Composition, article, parse_composition
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

LONGEST_QUESTION = 200
"""Characters; what the critic lists beyond is no question."""
CHECK_REQUEST = (
    "Somebody made a 3D scene from this description: {prompt}\n"
    "List at most {count} short questions that tell from several views whether the scene is as described. "
    "Ask for one thing at a time: an object, a colour or material, a number, or where one thing stands to another as "
    "seen from the front. Each question must be answered by Yes if the scene is right. "
    "Write one question a line and nothing else."
)
TextGenerator = Callable[[str], str]
"""A model that answers a request in words."""


def prompt_questions(
    prompt: str, config: QuestionConfig, write: TextGenerator | None = None
) -> tuple[Question, ...]:
    """Return what the critic is asked about a prompt.

    Args:
        prompt: what to make.
        config: sources, weights, and the names of questions to leave out.
        write: for `checks="model"`.

    Raises:
        ConfigError: a name to drop that no question has, a malformed question of the user, or nothing left to ask.
    """
    if config.checks == "joint":
        weight = config.semantic_weight + config.geometric_weight
        found = [Question("joint", joint_question(prompt), weight)]
    else:
        content = template_questions(prompt)
        if config.checks == "model":
            if write is None:
                raise ConfigError(
                    "critic.questions.checks is 'model', but no model can write here."
                )
            known = {question.text for question in content}
            listed = model_questions(prompt, write, config.most)
            content += [question for question in listed if question.text not in known]
        content = content[: max(1, config.most - 1)]
        share = config.semantic_weight / len(content)
        geometry = Question("geometric", GEOMETRY_QUESTION, config.geometric_weight)
        found = [*(replace(question, weight=share) for question in content), geometry]
    found += [user_question(text, index) for index, text in enumerate(config.asks, 1)]
    names = {question.name for question in found}
    for name in config.drop:
        if name not in names:
            raise ConfigError(
                f"critic.questions.drop names {name!r}, but the questions are {', '.join(sorted(names))}."
            )
    kept = tuple(question for question in found if question.name not in config.drop)
    if not any(question.weight > 0 for question in kept):
        raise ConfigError(
            "The critic has nothing to ask. Drop fewer questions, or use --no-critic."
        )
    return kept


def template_questions(prompt: str) -> list[Question]:
    """Return questions about the content alone: the whole, then each relation, number and described thing."""
    questions = [Question("semantic", content_question(prompt))]
    try:
        composition = parse_composition(prompt)
    except PromptError:
        return questions + _open_questions(prompt)
    if composition.relation is not None:
        first, second = composition.objects
        relation = relation_question(first, composition.relation, second)
        questions.append(Question("relation", relation))
        questions += [
            Question(f"object_{index}", object_question(item))
            for index, item in enumerate(dict.fromkeys(composition.objects), 1)
        ]
    return questions


def _open_questions(prompt: str) -> list[Question]:
    things, relations = parse_sentence(prompt)
    found = []
    for index, relation in enumerate(relations, 1):
        name = "relation" if len(relations) == 1 else f"relation_{index}"
        text = relation_question(
            str(relation.first),
            relation.words,
            str(relation.second),
            plural=relation.first.count > 1,
        )
        found.append(Question(name, text))
    if len(things) > 1 or any(thing.count > 1 for thing in things):
        for index, thing in enumerate(things, 1):
            if thing.count > 1:
                found.append(Question(f"count_{index}", count_question(str(thing))))
            else:
                found.append(Question(f"thing_{index}", thing_question(str(thing))))
    return found


def user_question(text: str, index: int) -> Question:
    """Read a question of the user: a sentence, and perhaps its weight after a last @.

    Raises:
        ConfigError: empty, or the weight is no number of 0 or more.
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
    return Question(f"ask_{index}", with_answer_format(sentence.strip()), value)


def model_questions(prompt: str, write: TextGenerator, most: int) -> list[Question]:
    """Return the checks that a model lists for a prompt; what is no question is left out."""
    answer = write(CHECK_REQUEST.format(prompt=prompt, count=most))
    texts: list[str] = []
    for line in answer.splitlines():
        text = re.sub(r"^[\s\-*•]*(\d+[.)]\s*)?", "", line).strip().strip('"').strip()
        if text.endswith("?") and len(text) <= LONGEST_QUESTION and text not in texts:
            texts.append(text)
    return [
        Question(f"check_{index}", with_answer_format(text))
        for index, text in enumerate(texts[:most], 1)
    ]


def cached_generator(write: TextGenerator, model: str, folder: Path | None) -> TextGenerator:
    """Return a writer that keeps its answers in a folder, by model and request; None keeps nothing."""
    if folder is None:
        return write

    def answer(request: str) -> str:
        key = hashlib.sha256(json.dumps([model, request]).encode()).hexdigest()[:32]
        path = folder / f"{key}.txt"
        if path.is_file():
            return path.read_text()
        said = write(request)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as draft:
            draft.write_text(said)
        return said

    return answer


def held_out_questions(prompt: str) -> tuple[Question, ...]:
    """Return questions in other words than a run is optimised for, to see whether it got better or only pleasing.

    For the embedded critic's language: synonyms, and the relation told from the other object. For any other prompt:
    other sentences.
    """
    try:
        said = _reworded(parse_composition(prompt))
    except PromptError:
        return (
            Question("semantic", f"Would a careful eye call this {prompt}? Answer Yes or No."),
            Question(
                "geometric",
                "Is everything here well formed, the same object from each side, with no second face, loose parts, "
                "cracks or speckles? Answer Yes or No.",
            ),
        )
    return (
        Question("semantic", content_question(said)),
        Question("geometric", GEOMETRY_QUESTION),
    )


def _reworded(composition: Composition) -> str:
    """Put a composition into other words: synonyms of the shapes, the second object first."""
    other = {shape: word for word, shape in SHAPE_WORDS.items() if word != shape}
    objects: Sequence[str] = [
        f"{article(item.color)} {item.color} {other.get(item.shape, item.shape)}"
        for item in composition.objects
    ]
    if composition.relation is None:
        return objects[0]
    return f"{objects[1]} {OPPOSITE[composition.relation]} {objects[0]}"

"""What the critic is asked: plain Yes/No questions about several named views of one scene.

The same texts go to the embedded critic and to the large models. Views are named in the message, since without the
names nobody could tell left from right.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlm3d_gs.errors import ConfigError, PromptError
from vlm3d_gs.prompts import ObjectPhrase, article, parse_composition

VIEW_NAMES = ("Front view", "Right side view", "Back view", "Left side view")
"""Names of the views at azimuth 0, 90, 180 and 270 degrees."""
VIEW_REACH_DEG = 20.0
"""A view has a name if it stands within this of one of those azimuths."""
GEOMETRY_QUESTION = (
    "Do these views show one clean and solid scene from all sides, without floaters, holes, blur or noise? "
    "Answer Yes or No."
)
CAPTION_REQUEST = "Describe these views."
"""Asked in training only."""


@dataclass(frozen=True, slots=True)
class Question:
    """One Yes/No question to the critic; Yes is what the scene should be."""

    name: str
    """Short name for logs, unique within a run."""
    text: str
    """The sentence that follows the views in the message."""
    weight: float = 1.0
    """Factor of this question's loss."""


def content_question(prompt: str) -> str:
    """Ask whether the views show what the prompt says."""
    return f"Do these views show {prompt}? Answer Yes or No."


def relation_question(first: ObjectPhrase, relation: str, second: ObjectPhrase) -> str:
    """Ask whether a relation holds, as the front camera sees it."""
    return f"Seen from the front, is the {first} {relation} the {second}? Answer Yes or No."


def object_question(item: ObjectPhrase) -> str:
    """Ask whether an object with this colour and this shape is there: a test of attribute binding."""
    return f"Is there {article(item.color)} {item}? Answer Yes or No."


def view_name(azimuth_deg: float) -> str:
    """Return the name of the view whose azimuth is nearest.

    Raises:
        ConfigError: the azimuth is more than 20 degrees from 0, 90, 180 and 270.
    """
    index = round(azimuth_deg / 90.0)
    if abs(azimuth_deg - 90.0 * index) > VIEW_REACH_DEG + 1e-3:
        raise ConfigError(
            f"A critic view at azimuth {azimuth_deg:.1f} degrees has no name. "
            f"Views must stand within {VIEW_REACH_DEG:.0f} degrees of 0 (front), 90 (right side), "
            f"180 (back) or 270 (left side)."
        )
    return VIEW_NAMES[index % 4]


def questions_for(
    prompt: str, semantic_weight: float, geometric_weight: float
) -> tuple[Question, ...]:
    """Return the semantic and the geometric query of a prompt.

    A prompt in the language of the embedded models also gets a question for its relation; it shares the semantic
    weight with the content question.
    """
    try:
        composition = parse_composition(prompt)
    except PromptError:
        composition = None
    if composition is None or composition.relation is None:
        semantic: tuple[Question, ...] = (
            Question("semantic", content_question(prompt), semantic_weight),
        )
    else:
        first, second = composition.objects
        relation = relation_question(first, composition.relation, second)
        semantic = (
            Question("semantic", content_question(prompt), 0.5 * semantic_weight),
            Question("relation", relation, 0.5 * semantic_weight),
        )
    return (*semantic, Question("geometric", GEOMETRY_QUESTION, geometric_weight))

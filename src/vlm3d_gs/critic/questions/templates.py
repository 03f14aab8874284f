"""What the critic is asked: plain Yes/No questions about several named views of one scene.

The same texts go to the embedded critic and to the large models. Views are named in the message, since without the
names nobody could tell left from right. Which questions a prompt gets is decided in `checklist`.
"""

from __future__ import annotations

from dataclasses import dataclass

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.prompts import ObjectPhrase, article

VIEW_NAMES = ("Front view", "Right side view", "Back view", "Left side view")
"""Names of the views at azimuth 0, 90, 180 and 270 degrees."""
VIEW_TOLERANCE_DEG = 20.0
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


def joint_question(prompt: str) -> str:
    """Ask for content and geometry at once, as the paper does: Yes only if both hold."""
    return (
        f"Do these views show {prompt} and one clean and solid scene from all sides, "
        "without floaters, holes, blur or noise? Answer Yes or No."
    )


def relation_question(
    first: ObjectPhrase | str, relation: str, second: ObjectPhrase | str, *, plural: bool = False
) -> str:
    """Ask whether a relation holds, as the front camera sees it; `plural` if the first is a plural."""
    verb = "are" if plural else "is"
    return f"Seen from the front, {verb} the {first} {relation} the {second}? Answer Yes or No."


def object_question(item: ObjectPhrase) -> str:
    """Ask whether an object with this colour and this shape is there: a test of attribute binding."""
    return f"Is there {article(item.color)} {item}? Answer Yes or No."


def thing_question(words: str) -> str:
    """Ask for one thing of an open-vocabulary prompt, with all that is said of it."""
    return f"Do these views show {article(words)} {words}? Answer Yes or No."


def count_question(words: str) -> str:
    """Ask for a number of things, such as "three apples"."""
    return f"Are there exactly {words}, counted over the whole scene? Answer Yes or No."


def with_answer_format(text: str) -> str:
    """Ask what the user wrote; the way to answer is added where it is missing."""
    return text if "yes" in text.lower() and "no" in text.lower() else f"{text} Answer Yes or No."


def view_name(azimuth_deg: float) -> str:
    """Return the name of the view whose azimuth is nearest.

    Raises:
        ConfigError: the azimuth is more than 20 degrees from 0, 90, 180 and 270.
    """
    index = round(azimuth_deg / 90.0)
    if abs(azimuth_deg - 90.0 * index) > VIEW_TOLERANCE_DEG + 1e-3:
        raise ConfigError(
            f"A critic view at azimuth {azimuth_deg:.1f} degrees has no name. "
            f"Views must stand within {VIEW_TOLERANCE_DEG:.0f} degrees of 0 (front), 90 (right side), "
            f"180 (back) or 270 (left side)."
        )
    return VIEW_NAMES[index % 4]

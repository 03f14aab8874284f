"""Templates of Yes/No questions about several named views of one scene.

The embedded critic and the large models get the same texts. Views are named in the message: without the names, left
and right would be undefined. Which questions a prompt gets is decided in `checklist`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlm3d_gs.config.critic import ViewNames
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.prompts import ObjectPhrase, article

if TYPE_CHECKING:
    from torch import Tensor

VIEW_NAMES = ("Front view", "Right side view", "Back view", "Left side view")
"""Names of the views at azimuth 0, 90, 180 and 270 degrees."""
EIGHT_VIEW_NAMES = (
    *("Front view", "Front right view", "Right side view", "Back right view"),
    *("Back view", "Back left view", "Left side view", "Front left view"),
)
"""Names of the views at azimuth 0, 45, ... degrees."""
VIEW_TOLERANCE_DEG = 20.0
"""Largest distance of a view's azimuth from one of those for the view to have a name."""
GEOMETRY_QUESTION = (
    "Do these views show one clean and solid scene from all sides, without floaters, holes, blur or noise? "
    "Answer Yes or No."
)
CAPTION_REQUEST = "Describe these views."
"""Used in training only."""


@dataclass(frozen=True, slots=True)
class Question:
    """One Yes/No question to the critic; the scene should make the answer Yes."""

    name: str
    """Short name for logs, unique within a run."""
    text: str
    """The sentence that follows the views in the message."""
    weight: float = 1.0
    """Factor of this question's loss."""


def content_question(prompt: str) -> str:
    """Return the question whether the views show the prompt."""
    return f"Do these views show {prompt}? Answer Yes or No."


def joint_question(prompt: str) -> str:
    """Return the question for content and geometry at once, as in the paper: Yes only if both hold."""
    return (
        f"Do these views show {prompt} and one clean and solid scene from all sides, "
        "without floaters, holes, blur or noise? Answer Yes or No."
    )


def relation_question(
    first: ObjectPhrase | str, relation: str, second: ObjectPhrase | str, *, plural: bool = False
) -> str:
    """Return the question whether a relation holds from the front camera; `plural` if the subject is a plural."""
    verb = "are" if plural else "is"
    return f"Seen from the front, {verb} the {first} {relation} the {second}? Answer Yes or No."


def object_question(item: ObjectPhrase) -> str:
    """Return the question whether an object has this colour and this shape: a test of attribute binding."""
    return f"Is there {article(item.color)} {item}? Answer Yes or No."


def thing_question(words: str) -> str:
    """Return the question for one thing of an open-vocabulary prompt, with all its attributes."""
    return f"Do these views show {article(words)} {words}? Answer Yes or No."


def count_question(words: str) -> str:
    """Return the question for a number of things, such as "three apples"."""
    return f"Are there exactly {words}, counted over the whole scene? Answer Yes or No."


def with_answer_format(text: str) -> str:
    """Return a question, with the request to answer Yes or No added if it is missing."""
    return text if "yes" in text.lower() and "no" in text.lower() else f"{text} Answer Yes or No."


def view_names(azimuths_deg: Tensor, kind: ViewNames = "four") -> list[str]:
    """Return the names of views at azimuths [V] in degrees, as `critic.view_names` says; "" is no name.

    Raises:
        ConfigError: with `four`, an azimuth is more than 20 degrees from 0, 90, 180 and 270.
    """
    azimuths = azimuths_deg.tolist()
    if kind == "four":
        return [view_name(azimuth) for azimuth in azimuths]
    if kind == "eight":
        return [EIGHT_VIEW_NAMES[round(azimuth / 45.0) % 8] for azimuth in azimuths]
    if kind == "degrees":
        return [_turned_name(azimuth) for azimuth in azimuths]
    return [""] * len(azimuths)


def azimuth_range_deg(kind: ViewNames) -> tuple[float, float] | None:
    """Return the azimuth offsets of a view group at which its views have names; None is any."""
    return (-VIEW_TOLERANCE_DEG, VIEW_TOLERANCE_DEG) if kind == "four" else None


def _turned_name(azimuth_deg: float) -> str:
    turn = round(azimuth_deg) % 360
    if turn in (0, 180):
        return VIEW_NAMES[turn // 90]
    side, angle = ("right", turn) if turn < 180 else ("left", 360 - turn)
    return f"View from {angle} degrees to the {side} of the front"


def view_name(azimuth_deg: float) -> str:
    """Return the name of the view whose azimuth is nearest, of `VIEW_NAMES`.

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

"""What the critic is asked."""

from __future__ import annotations

import pytest

from vlm3d_gs.errors import ConfigError
from vlm3d_gs.guidance.questions import questions_for, view_name


@pytest.mark.parametrize(
    ("azimuth", "name"),
    [
        (0.0, "Front view"),
        (350.0, "Front view"),
        (-20.0, "Front view"),
        (75.0, "Right side view"),
        (190.0, "Back view"),
        (270.0, "Left side view"),
    ],
)
def test_views_are_named_by_azimuth(azimuth: float, name: str) -> None:
    assert view_name(azimuth) == name


def test_a_view_between_two_names_is_refused() -> None:
    with pytest.raises(ConfigError, match="45"):
        view_name(45.0)


def test_a_relation_gets_a_question_of_its_own() -> None:
    questions = questions_for("a red cube on top of a blue sphere", 2.0, 3.0)
    assert [question.name for question in questions] == ["semantic", "relation", "geometric"]
    assert "is the red cube on top of the blue sphere?" in questions[1].text
    assert sum(question.weight for question in questions[:2]) == 2.0
    assert questions[2].weight == 3.0


def test_any_other_prompt_gets_content_and_geometry() -> None:
    questions = questions_for("a corgi wearing a top hat", 1.0, 1.0)
    assert [question.name for question in questions] == ["semantic", "geometric"]
    assert "a corgi wearing a top hat" in questions[0].text

"""The templates of questions."""

from __future__ import annotations

import pytest

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.critic.questions.templates import view_name


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

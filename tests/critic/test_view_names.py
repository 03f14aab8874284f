"""Names of views, and the cameras that a due critic leaves to the prior."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlm3d_gs.config import CameraConfig, Config, CriticConfig
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.critic.guidance import Critic
from vlm3d_gs.critic.questions.templates import VIEW_NAMES, view_names
from vlm3d_gs.critic.qwen.messages import split_message
from vlm3d_gs.critic.targets import CriticTargets
from vlm3d_gs.optimize.guidance import Progress
from vlm3d_gs.optimize.targets import Chain
from vlm3d_gs.optimize.views import draw_cameras, draw_even_cameras


class Spelled:
    """A tokenizer with a token a character, that writes a message as its parts in a row."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [ord(letter) for letter in text]

    def apply_chat_template(self, conversation: list[dict[str, object]], **_: object) -> str:
        image = "<|vision_start|><|image_pad|><|vision_end|>"
        parts = conversation[0]["content"]
        return "".join(part.get("text", image) for part in parts)  # type: ignore[attr-defined]


class Namer:
    name = "targets"


def offsets(kind: str, n_views: int, draws: int = 300) -> torch.Tensor:
    """First azimuths of the groups that are drawn when a critic is due, -180 to 180 degrees."""
    critic = Critic(None, [], CriticConfig(view_names=kind), torch.Generator())  # type: ignore[arg-type]
    generator, camera = torch.Generator().manual_seed(1), CameraConfig(n_views=n_views)
    found = []
    for _ in range(draws):
        cameras = draw_cameras(camera, [critic], Progress(0, 10), generator)
        names = view_names(cameras.azimuths_deg, kind)  # type: ignore[arg-type]
        assert len(names) == n_views
        found.append(float(cameras.azimuths_deg[0]))
    return (torch.tensor(found) + 180.0) % 360.0 - 180.0


@pytest.mark.parametrize("n_views", [1, 3, 4, 8])
@pytest.mark.parametrize("kind", ["eight", "degrees", "none"])
def test_a_critic_whose_names_fit_any_view_leaves_the_cameras_free(kind: str, n_views: int) -> None:
    found = offsets(kind, n_views)
    assert torch.histc(found, 12, -180.0, 180.0).min() > 5


def test_the_four_names_hold_the_cameras_near_them() -> None:
    assert offsets("four", 4).abs().max() <= 20.0 + 1e-3


@pytest.mark.parametrize(
    ("kind", "limits"), [("four", (-20.0, 20.0)), ("eight", None), ("none", None)]
)
def test_the_same_holds_for_rounds_of_targets(kind: str, limits: object) -> None:
    critic = Critic(None, [], CriticConfig(view_names=kind), torch.Generator())  # type: ignore[arg-type]
    source = CriticTargets(Namer(), scorer=Namer(), names=kind)  # type: ignore[arg-type]
    progress = Progress(0, 10)
    ranges = [
        source.azimuth_range_deg(Chain(1.0, 3, 3), progress),
        critic.azimuth_range_deg(progress),
    ]
    assert ranges == [limits, limits]
    generator = torch.Generator().manual_seed(1)
    firsts = [
        float(draw_even_cameras(CameraConfig(), 2, ranges, progress, generator).azimuths_deg[0])
        for _ in range(100)
    ]
    near = [abs((first + 180.0) % 360.0 - 180.0) <= 20.0 + 1e-3 for first in firsts]
    assert all(near) == (limits is not None)


def test_the_names_say_what_is_seen() -> None:
    azimuths = torch.tensor([0.0, 37.0, 90.0, 135.0, 180.0, 200.0, 337.0, 359.9])
    assert view_names(azimuths, "eight") == [
        *("Front view", "Front right view", "Right side view", "Back right view"),
        *("Back view", "Back view", "Front left view", "Front view"),
    ]
    assert view_names(azimuths, "degrees")[1] == "View from 37 degrees to the right of the front"
    assert view_names(azimuths, "degrees")[5] == "View from 160 degrees to the left of the front"
    assert view_names(azimuths, "degrees")[7] == "Front view"
    assert view_names(azimuths, "none") == [""] * 8
    named = torch.tensor([0.0, 90.0, 180.0, 270.0])
    assert tuple(view_names(named)) == VIEW_NAMES == tuple(view_names(named, "eight"))[:4]


def test_views_without_names_come_first_in_the_message() -> None:
    prefix, (question,) = split_message(Spelled(), ["", ""], [1, 2], ["Well?"])  # type: ignore[arg-type]
    start, image, end = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
    assert "".join(map(chr, prefix)) == start + image + end + start + 2 * image + end
    assert "".join(map(chr, question)) == "Well?"


@pytest.mark.parametrize("n_views", [1, 3, 8])
def test_other_numbers_of_views_are_refused_when_the_config_is_read(n_views: int) -> None:
    config = Config(prompt="a red cube")
    camera = replace(config.camera, n_views=n_views)
    with pytest.raises(
        ConfigError, match=f"camera.n_views is {n_views}, but critic.view_names=four"
    ):
        replace(config, camera=camera)
    replace(config, camera=camera, critic=CriticConfig(enabled=False))
    replace(config, camera=camera, critic=CriticConfig(view_names="eight"))


def test_large_critics_know_eight_directions() -> None:
    for name in ("mvdream", "sd", "sdxl"):
        assert preset(name, "a corgi").critic.view_names == "eight"
    assert preset("mini", "a red cube").critic.view_names == "four"

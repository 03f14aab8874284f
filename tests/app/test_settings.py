"""`vlm3d-gs settings`: every setting is there, explained, and in the form that --set takes."""

from __future__ import annotations

import json
from dataclasses import is_dataclass
from typing import Any, get_type_hints

import pytest
from typer.testing import CliRunner

from vlm3d_gs.app.settings import field_help, list_settings
from vlm3d_gs.cli import app
from vlm3d_gs.config import Config, replace_path, to_dict
from vlm3d_gs.config.coerce import is_section
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError

MINI = preset("mini", "a red cube")


def leaves(data: dict[str, Any], section: str = "") -> list[str]:
    return [
        name
        for key, value in data.items()
        for name in (
            leaves(value, f"{section}{key}.") if isinstance(value, dict) else [f"{section}{key}"]
        )
    ]


def sections(settings: type) -> list[type]:
    inner = [hint for hint in get_type_hints(settings).values() if is_section(hint)]
    return [settings, *(deeper for kind in inner for deeper in sections(kind))]


def test_every_setting_is_listed_once_in_the_order_of_the_dataclasses() -> None:
    names = [item.name for item in list_settings(MINI)]
    assert ["prompt", "preset", *names] == leaves(to_dict(MINI))


@pytest.mark.parametrize("settings", sections(Config), ids=lambda kind: kind.__name__)
def test_every_setting_is_explained(settings: type) -> None:
    assert is_dataclass(settings)
    found = field_help(settings)
    assert set(found) == set(get_type_hints(settings))
    assert all(text.endswith(".") and "\n" not in text for text in found.values())


@pytest.mark.parametrize("name", ["mini", "sd", "mvdream"])
def test_a_listed_value_is_what_set_takes(name: str) -> None:
    config = preset(name, "a red cube")
    for item in list_settings(config):
        assert replace_path(config, item.name, item.value) == config, item.name


def test_a_setting_says_what_is_allowed() -> None:
    allowed = {item.name: item.allowed for item in list_settings(MINI)}
    assert allowed["critic.every"] == "whole number in [1, 10000000]"
    assert allowed["prior.rescale"] == "number in [0, 1]"
    assert allowed["prior.t_max"] == "number or schedule in [0.001, 1]"
    assert allowed["camera.fov_deg"] == "two numbers in [5, 120]"
    assert allowed["critic.size_px"] == "number or schedule in [16, 4096], or none"
    assert allowed["critic.layout"] == "images, grid"
    assert allowed["critic.questions.asks"] == "texts, separated by commas"
    assert allowed["export.formats"].startswith("any of ply, ")
    assert allowed["optim.fused"] == "true or false"


def test_a_prefix_chooses_and_an_unknown_one_lists_the_sections() -> None:
    assert [item.name for item in list_settings(MINI, "prior.t_m")] == [
        "prior.t_max",
        "prior.t_min",
    ]
    with pytest.raises(
        ConfigError, match=r"No setting begins with 'prio\.'. Sections: devices, scene, "
    ):
        list_settings(MINI, "prio.")


def test_piped_output_has_one_plain_line_for_each_setting() -> None:
    result = CliRunner().invoke(app, ["settings", "critic.", "--preset", "sd"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == len(list_settings(MINI, "critic."))
    assert len({line.index(" = ") for line in lines}) == 1, "aligned"
    assert "\x1b" not in result.stdout
    (family,) = (line for line in lines if line.startswith("critic.family "))
    assert "= qwen2.5-vl-7b  # mini, " in family


def test_json_holds_the_same() -> None:
    result = CliRunner().invoke(app, ["settings", "critic.layout", "--json"])
    assert json.loads(result.stdout) == [
        {
            "name": "critic.layout",
            "value": "images",
            "allowed": "images, grid",
            "choices": ["images", "grid"],
            "help": "One image per view, or one image with all views in a grid.",
        }
    ]

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import pytest

from vlm3d_gs import config as config_module
from vlm3d_gs.config import Config, SceneConfig, from_dict, replace_path, to_dict
from vlm3d_gs.config.bounds import Range, ranges
from vlm3d_gs.config.schedules import Schedule, linear
from vlm3d_gs.core.errors import ConfigError

CONFIG = Config(prompt="a red cube")
SECTIONS = {
    "scene": CONFIG.scene,
    "camera": CONFIG.camera,
    "prior": CONFIG.prior,
    "critic": CONFIG.critic,
    "critic.questions": CONFIG.critic.questions,
    "critic.augment": CONFIG.critic.augment,
    "critic.watch": CONFIG.critic.watch,
    "critic.server": CONFIG.critic.server,
    "densify": CONFIG.densify,
    "optim": CONFIG.optim,
    "regularizer": CONFIG.regularizer,
    "train": CONFIG.train,
    "export": CONFIG.export,
}


def sections() -> list[type]:
    return [t for t in get_type_hints(Config).values() if dataclasses.is_dataclass(t)]


def test_a_config_survives_json() -> None:
    changed = replace_path(CONFIG, "optim.means_lr", "exponential:0.01,0.001@0.5")
    assert from_dict(json.loads(json.dumps(to_dict(changed)))) == changed
    assert changed != CONFIG


def test_missing_sections_take_their_defaults() -> None:
    assert from_dict({"prompt": "a red cube"}) == CONFIG


def test_a_config_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.prompt = "another"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.scene.n_init = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("train.steps", "100", 100),
        ("train.steps", "1e2", 100),
        ("prior.rescale", "0.25", 0.25),
        ("prior.t_min", "linear:0.9,0.1", linear(0.9, 0.1)),
        ("critic.enabled", "no", False),
        ("critic.size_px", "none", None),
        ("prior.size_px", "96", 96),
        ("critic.questions.asks", "Is it red?,Is it round?", ("Is it red?", "Is it round?")),
        ("camera.fov_deg", "30,50", (30.0, 50.0)),
        ("export.formats", "ply,gif", ("ply", "gif")),
        ("out", "runs/a", Path("runs/a")),
        ("render.backend", "reference", "reference"),
    ],
)
def test_text_is_read_as_the_type_of_the_setting(path: str, text: str, value: object) -> None:
    got: object = replace_path(CONFIG, path, text)
    for name in path.split("."):
        got = getattr(got, name)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("path", "text", "says"),
    [
        ("optim.mean_lr", "1", r"Unknown setting 'optim.mean_lr'. Did you mean 'optim.means_lr'"),
        ("optim.mean_lr", "1", "See: vlm3d-gs settings optim$"),
        ("optimiser", "1", "See: vlm3d-gs settings$"),
        ("optimiser.means_lr", "1", "Known here: .*optim"),
        ("optim", "1", "is a section, not a setting.*optim.means_lr"),
        ("prompt.length", "1", "is a setting, not a section"),
        ("train.steps", "3.5", "whole number, got '3.5'"),
        ("train.steps", "0", r"\[1, 10000000\], got 0"),
        ("prior.rescale", "2", r"\[0, 1\], got 2"),
        ("prior.rescale", "nan", r"\[0, 1\], got nan"),
        ("prior.t_max", "0.5", "t_min must not be above t_max"),
        ("critic.enabled", "maybe", "true or false"),
        ("critic.reward", "tanh", "one of logit, logsigmoid, probability, got 'tanh'"),
        ("camera.fov_deg", "40", "2 values separated by commas"),
        ("camera.distance", "3,2", "smaller first"),
        ("camera.resolution_px", "4", r"stay in \[8, 4096\]"),
        ("export.formats", "ply,obj", "one of ply, compressed.ply, .*sheet, got 'obj'"),
        ("export.formats", "", "nothing would be written"),
        ("export.turntable_px", "255", "even, got 255. Use 256"),
        ("scene.max_gaussians", "10", r"\[4000, 50000000\], got 10|4000 or more, got 10"),
        ("device", "tpu", "cpu, cuda or cuda:N, got 'tpu'"),
        ("prompt", "  ", "prompt is empty"),
    ],
)
def test_a_bad_setting_names_value_and_choices(path: str, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        replace_path(CONFIG, path, text)


def numbers() -> list[tuple[str, bool, Range | None]]:
    """Every numeric setting, whether it is a pair, and the range of its annotation."""
    return [
        (f"{section}.{name}", get_origin(hint) is tuple, ranges(type(part)).get(name))
        for section, part in SECTIONS.items()
        for name, hint in get_type_hints(type(part)).items()
        if {int, float, Schedule} & {hint, *get_args(hint)}
    ]


@pytest.mark.parametrize(("path", "pair", "allowed"), numbers())
def test_every_number_has_a_range_that_is_checked(
    path: str, pair: bool, allowed: Range | None
) -> None:
    assert allowed is not None
    for outside in (allowed.low - 1.0, allowed.high + 1.0):
        if outside < 2**63:  # some have no upper end, and the seed's is the largest integer
            text = f"{outside},{outside}" if pair else str(outside)
            with pytest.raises(
                ConfigError, match=f"^{path} must (be|stay) .*{re.escape(str(allowed))}"
            ):
                replace_path(CONFIG, path, text)


def test_an_unknown_key_in_a_file_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"Unknown setting 'scene.points'. Known here: .*n_init"):
        from_dict({"prompt": "a red cube", "scene": {"points": 3}})


def test_a_file_without_prompt_is_refused() -> None:
    with pytest.raises(ConfigError, match="incomplete"):
        from_dict({})


def test_a_section_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match="scene must be a mapping"):
        from_dict({"prompt": "a red cube", "scene": 3})


def test_every_field_has_a_string_under_it() -> None:
    folder = Path(config_module.__file__).parent
    classes = [
        node
        for file in folder.glob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef)
    ]
    assert {node.name for node in classes} >= {t.__name__ for t in sections()}
    for node in classes:
        for field, below in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(below, ast.Expr), f"{node.name}: {ast.unparse(field)}"
                assert isinstance(below.value, ast.Constant)


def test_schedules_hold_no_step_numbers() -> None:
    for section in sections():
        for name, hint in get_type_hints(section).items():
            if hint is Schedule:
                schedule = getattr(section(), name)
                assert all(0.0 <= fraction <= 1.0 for fraction, _ in schedule.points)


def test_numbers_given_in_python_are_validated_too() -> None:
    with pytest.raises(ConfigError, match=r"scene.n_init must be in .1, 10000000., got 0"):
        SceneConfig(n_init=0)

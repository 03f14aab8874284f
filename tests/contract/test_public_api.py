from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import ModuleType
from typing import get_args, get_type_hints

import pytest

import vlm3d_gs
from vlm3d_gs.core import errors

PUBLIC = [
    "Cameras",
    "CheckpointError",
    "Config",
    "ConfigError",
    "DeviceError",
    "ExportError",
    "Gaussians",
    "GenerateResult",
    "InputFileError",
    "LayoutError",
    "MissingDependencyError",
    "ModelError",
    "NotFiniteError",
    "ProcessError",
    "PromptError",
    "Result",
    "RunLostError",
    "SetupError",
    "ShapeError",
    "Vlm3dGsError",
    "WriteError",
    "__version__",
    "generate",
    "orbit",
    "preset",
    "read_splat",
    "render_views",
    "write_splat",
]


def test_the_public_names_are_frozen() -> None:
    assert vlm3d_gs.__all__ == PUBLIC
    assert dir(vlm3d_gs) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(vlm3d_gs, name)
    assert isinstance(value, str) or value.__doc__


def test_every_error_is_public() -> None:
    ours = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert ours <= set(vlm3d_gs.__all__)


def test_render_is_always_the_package_and_render_views_its_function() -> None:
    from vlm3d_gs import render

    assert isinstance(render, ModuleType)
    assert vlm3d_gs.render_views is render.render


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Splat'"):
        _ = vlm3d_gs.Splat


def test_the_config_offers_the_renderers_that_exist() -> None:
    from vlm3d_gs.config import Backend
    from vlm3d_gs.render import BACKENDS

    assert get_args(Backend) == BACKENDS


def test_the_config_offers_the_losses_and_weightings_that_exist() -> None:
    from vlm3d_gs.config.prior import DistillationLoss, PriorConfig
    from vlm3d_gs.prior.losses import LOSSES
    from vlm3d_gs.prior.timesteps import WEIGHTINGS

    assert get_args(DistillationLoss) == tuple(LOSSES)
    named, unset = get_args(get_type_hints(PriorConfig)["weighting"])
    assert get_args(named) == WEIGHTINGS
    assert unset is type(None)


def test_the_version_is_the_same_everywhere(repo_root: Path) -> None:
    declared = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (repo_root / "CHANGELOG.md").read_text(), re.M)
    assert newest is not None
    assert vlm3d_gs.__version__ == declared == newest.group(1)

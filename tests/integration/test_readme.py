"""README.md can be followed from top to bottom in one empty folder: its shell and Python blocks are run as they stand.

The first run is a real one of two steps. The others are stood in for, since each would take seconds and other tests run
them: settings, prompt and folder are checked as a run checks them, and a scene that is as promised is put there. What
waits for a person (`view`) or needs a card is parsed, no more.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from vlm3d_gs.app import generate as python_face
from vlm3d_gs.app import selection
from vlm3d_gs.assembly.device import run_device
from vlm3d_gs.assembly.start import read_prompt
from vlm3d_gs.cli import app
from vlm3d_gs.config import Config
from vlm3d_gs.core.prompts import parse_composition
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.mini.world.scenes import build_scene
from vlm3d_gs.mini.world.splats import scene_to_gaussians
from vlm3d_gs.pipeline import GenerateResult
from vlm3d_gs.runs.folder import run_folder
from vlm3d_gs.runs.log import write_config

ON_A_CARD = "Large models"
"""Section whose commands download, or need a GPU."""
INTERACTIVE = {"view", "--view", "studio"}
QUICK = {
    "generate": "--steps 2 --set scene.n_init=300 --set export.turntable_s=0.1",
    "render": "--size-px 32 --seconds 0.1",
    "mesh": "--resolution 32 --texture-px 64 --faces 500",
}


def blocks(text: str, language: str) -> Iterator[tuple[str, str]]:
    """Yield section and content of each fenced block of a language."""
    section, inside = "", list[str]()
    fence: str | None = None
    for line in text.splitlines():
        if line.startswith("```"):
            if fence == language:
                yield section, "\n".join(inside)
            fence, inside = (line[3:] if fence is None else None), []
        elif fence is not None:
            inside.append(line)
        elif line.startswith("#"):
            section = line.lstrip("# ")


def parse(arguments: list[str]) -> None:
    """Check command and options without running anything."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context("vlm3d-gs", arguments)


def stand_in(config: Config, *_: Any, **options: Any) -> GenerateResult:
    """Refuse what a run refuses, and leave the scene that it promises."""
    prompt = read_prompt(config.prompt, config.priors, config.critic)
    assert prompt.composition is not None
    run_device(config)
    random = torch.Generator().manual_seed(0)
    solid = scene_to_gaussians(build_scene(prompt.composition), 2000, random)
    with run_folder(config.out, overwrite=options.get("overwrite", False)) as folder:
        write_config(folder.path, config)
        write_splat(solid, folder.path / "scene.ply")
    return GenerateResult(solid, config.out, (config.out / "scene.ply",), 1, 0.1)


def test_the_commands_of_the_readme_can_be_followed(
    repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for section, block in blocks((repo_root / "README.md").read_text(), "sh"):
        for line in block.splitlines():
            program, name, *arguments = shlex.split(line, comments=True)
            assert program == "vlm3d-gs", line
            parse([name, *arguments])
            if section == ON_A_CARD or {name, *arguments} & INTERACTIVE:
                continue

            result = CliRunner().invoke(app, [name, *arguments, *QUICK.get(name, "").split()])
            assert result.exit_code == 0, (line, result.output, result.exception)
            if ran == 0:
                assert Path("runs/demo/sheet.png").is_file(), "a real run"
                monkeypatch.setattr(selection, "generate_one_or_best", stand_in)
                # Two steps make fog; from here on it is the scene of a whole run.
                scene = build_scene(parse_composition(arguments[0]))
                solid = scene_to_gaussians(scene, 2000, torch.Generator().manual_seed(0))
                write_splat(solid, "runs/demo/scene.ply")
            ran += 1

    assert ran >= 12
    assert {"demo.spz", "turn.gif", "layout", "runs"} <= {path.name for path in tmp_path.iterdir()}
    assert {"mesh.glb", "scene.html"} <= {path.name for path in Path("runs/demo").iterdir()}


def test_the_python_of_the_readme_runs(
    repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(python_face, "generate_whole", stand_in)
    names: dict[str, Any] = {}
    for _, block in blocks((repo_root / "README.md").read_text(), "python"):
        exec(compile(block, "README.md", "exec"), names)
    assert Path("cube.spz").is_file()
    assert names["images"].shape == (3, 256, 256, 3)

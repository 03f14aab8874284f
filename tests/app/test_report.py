from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from splat_files import random_splat
from vlm3d_gs.app.report import print_report
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.prompts import parse_composition
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.mini.world.scenes import build_scene
from vlm3d_gs.mini.world.splats import scene_to_gaussians
from vlm3d_gs.pipeline import GenerateResult
from vlm3d_gs.runs.answers import Answer
from vlm3d_gs.runs.folder import CANDIDATES
from vlm3d_gs.runs.log import write_config, write_json

QUESTION = "Do these views show a red cube on top of a blue sphere? Answer Yes or No."
PROMPT = "a red cube on top of a blue sphere"
CONFIG = preset("mini", PROMPT)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> GenerateResult:
    out = tmp_path_factory.mktemp("report") / "run"
    out.mkdir()
    scene = build_scene(parse_composition(PROMPT))
    solid = scene_to_gaussians(scene, 2000, torch.Generator().manual_seed(0))
    write_config(out, replace(CONFIG, out=out))
    write_splat(solid, out / "scene.ply")
    answers = (Answer("semantic", QUESTION, 4.0), Answer("geometric", "Is it [clean]?", -1.0))
    return GenerateResult(solid, out, (out / "scene.ply",), 135, 12.3, answers=answers)


def told(
    result: GenerateResult, width: int, monkeypatch: pytest.MonkeyPatch, *, as_json: bool = False
) -> str:
    monkeypatch.setenv("COLUMNS", str(width))
    stream = io.StringIO()
    print_report(result, replace(CONFIG, out=result.out), as_json=as_json, file=stream)
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_run_ends_with_files_answers_verdict_and_what_is_next(
    made: GenerateResult, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = told(made, width, monkeypatch)
    flat = " ".join(text.split())
    assert text.startswith("Done in 12 s:")
    assert "scene.ply" in flat
    assert "0.1 MB" in flat
    assert "98%" in flat
    assert "73%" in flat
    assert flat.index("Yes") < flat.index("No ")
    assert "The checker, which is no network, says: right, clean" in flat
    assert "Next: vlm3d-gs view" in flat
    assert "\x1b" not in text
    if width == 80:
        assert "  No   73%  Is it [clean]?" in text
        assert "Answer Yes or No" not in text


def test_json_has_all_of_it(made: GenerateResult, monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.loads(told(made, 40, monkeypatch, as_json=True))
    assert found["folder"] == str(made.out)
    assert [(item["name"], item["yes"]) for item in found["answers"]] == [
        ("semantic", True),
        ("geometric", False),
    ]
    assert found["checker"]["content_right"] is True
    assert Path(found["files"][0]).is_file()


def test_without_a_critic_nobody_judges(
    made: GenerateResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = replace(CONFIG, out=made.out, critic=replace(CONFIG.critic, enabled=False))
    monkeypatch.setenv("COLUMNS", "200")
    stream = io.StringIO()
    print_report(made, without, file=stream)
    assert "scene.ply" in stream.getvalue()
    assert "checker" not in stream.getvalue()


def test_several_seeds_say_who_won_and_why(
    made: GenerateResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = replace(made, out=tmp_path, gaussians=random_splat(3, 0), files=(), answers=())
    (tmp_path / CANDIDATES).mkdir()
    write_json(
        tmp_path / CANDIDATES / "scores.json", {"scores": {"0": -1.0, "1": 2.5}, "picked": 1}
    )
    text = told(result, 200, monkeypatch)
    assert "Seed 1 won" in text
    assert "(0: -1.0, 1: +2.5)" in text
    assert "checker" not in text, "there is no scene.ply"


def test_an_interrupted_run_says_how_to_go_on(
    made: GenerateResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--resume goes on" in told(replace(made, signal=2), 200, monkeypatch)

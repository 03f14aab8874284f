"""A tournament in GPTEval3D's layout: pictures, plan, grids, judges, files that its own code reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from evaluate.judge_server import JudgeServer, busy_at_first
from scenes import splats_for
from vlm3d_gs.cli import app
from vlm3d_gs.core.cameras import turntable_cameras
from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.core.images import to_uint8
from vlm3d_gs.evaluate.gpteval.dump import PROOF, VIEWS, Source, dump_method
from vlm3d_gs.evaluate.gpteval.grids import comparison, object_grid, view_numbers
from vlm3d_gs.evaluate.gpteval.methods import check_name, find_methods, find_sources
from vlm3d_gs.evaluate.gpteval.scanlines import color_scanlines, normal_scanlines, png
from vlm3d_gs.evaluate.gpteval.schedule import schedule
from vlm3d_gs.evaluate.gpteval.tournament import Ensemble, read_tournament
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.render import render
from vlm3d_gs.show.surfaces import surface_pictures

PROMPTS = ["A red cube", "a blue sphere", "a green cone"]


def ensemble(
    views: int, rgb: int, normal: int, dimensions: list[int], count: int
) -> dict[str, Any]:
    return {
        "num_views": views,
        "rgb": rgb,
        "normal": normal,
        "gpt_prompt": f"gpt_prompts/{len(dimensions)}.txt",
        "dimensions": dimensions,
        "num_comparisons": count,
    }


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One scene's whole set of pictures."""
    root = tmp_path_factory.mktemp("pictures")
    write_splat(splats_for("a red cube"), root / "scene.ply")
    dump_method([Source(root / "scene.ply", 0, 0, 7)], root / "dump", size_px=32)
    return root / "dump" / "0" / "0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tournament of two methods with flat pictures: the darker, the better."""
    root = tmp_path / "tournament"
    (root / "gpt_prompts").mkdir(parents=True)
    for count in (1, 2):
        (root / "gpt_prompts" / f"{count}.txt").write_text(f"Which is darker? CRITERIA {count} \n")
    scores = [{"dark": 1100.0, "light": 900.0}, {"dark": 1050.0, "light": 950.0}]
    config = {
        "criteria": [["[0] Text", ""], ["[1] Shape", ""]],
        "ensembles": [ensemble(4, 1, 1, [1, 0], 6), ensemble(1, 1, 0, [0], 4)],
        "scores": scores,
    }
    (root / "config.json").write_text(json.dumps(config))
    (root / "prompts.json").write_text(json.dumps(PROMPTS))
    for name, shade in (("dark", 40), ("light", 220)):
        for prompt in range(len(PROMPTS)):
            flat(root / "methods" / name / str(prompt) / "0", shade)
    return root


def flat(place: Path, shade: int) -> None:
    place.mkdir(parents=True)
    picture = Image.new("RGB", (32, 32), (shade, shade, shade))
    for kind in ("rgb", "normal"):
        for view in range(4):
            picture.save(place / f"{kind}_{view}.png")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    root = tmp_path / "ours"
    for name, prompt, seed in (
        ("a", "a RED cube.", 9),
        ("b", "a red cube", 4),
        ("c", "a white torus", 0),
    ):
        (root / name).mkdir(parents=True)
        write_splat(splats_for("a red cube"), root / name / "scene.ply")
        critic = {"enabled": True, "family": "mini", "model": None}
        config = {
            "config": {"prompt": prompt, "train": {"seed": seed}, "critic": critic},
            "seed": seed,
        }
        (root / name / "config.json").write_text(json.dumps(config))
    return root


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    running = JudgeServer(busy_at_first)
    yield running
    running.close()


def test_pictures_are_what_the_slow_way_makes_of_a_scene(pictures: Path) -> None:
    names = {path.name for path in pictures.glob("*.png")}
    assert names == {f"{kind}_{view}.png" for kind in ("rgb", "normal") for view in range(VIEWS)}
    assert json.loads((pictures / PROOF).read_text())["seed"] == 7

    cameras = turntable_cameras(VIEWS, 15.0, 3.1, 40.0, 32, 32).select([0, 30])
    rendering = render(splats_for("a red cube"), cameras, background=(1.0, 1.0, 1.0))
    normals = surface_pictures(rendering, cameras, "normal", (1.0, 1.0, 1.0), (0.0, 1.0))
    for kind, expected in (("rgb", rendering.color), ("normal", normals)):
        for index, view in enumerate((0, 30)):
            with Image.open(pictures / f"{kind}_{view}.png") as picture:
                found = np.asarray(picture).astype(int)
            difference = np.abs(found - to_uint8(expected[index].detach()))
            # The file of a splat holds 32 bits of each number, the scene here more.
            assert np.quantile(difference, 0.995) <= 1, kind


def test_scanlines_make_the_picture_again() -> None:
    source = torch.Generator().manual_seed(0)
    color = torch.rand(5, 7, 3, generator=source) * 1.4 - 0.2
    color[0, 0, 0] = float("nan")
    lines = np.empty((5, 22), np.uint8)
    color_scanlines(color.numpy(), lines)
    import io

    with Image.open(io.BytesIO(png(lines))) as picture:
        assert np.array_equal(np.asarray(picture), to_uint8(color))

    flat_depth = np.full((5, 7), 2.0, np.float32)
    alpha = np.ones((5, 7), np.float32)
    alpha[:, 0] = 0.0
    intrinsics = np.array([[7, 0, 3.5], [0, 7, 2.5], [0, 0, 1]], np.float32)
    normal_scanlines(flat_depth, alpha, intrinsics, np.zeros(3, np.float32), lines)
    with Image.open(io.BytesIO(png(lines))) as picture:
        pixels = np.asarray(picture)
    assert pixels[2, 3].tolist() == [128, 128, 255]
    assert pixels[2, 0].tolist() == [0, 0, 0]


def test_pictures_that_are_there_are_kept_until_the_splat_changes(tmp_path: Path) -> None:
    splat = tmp_path / "scene.ply"
    write_splat(splats_for("a red cube"), splat)
    source = [Source(splat, 0, 0, None)]
    assert dump_method(source, tmp_path / "m", size_px=16) == 2 * VIEWS
    assert dump_method(source, tmp_path / "m", size_px=16) == 0
    write_splat(splats_for("a blue cone"), splat)
    assert dump_method(source, tmp_path / "m", size_px=16) == 2 * VIEWS
    # GPTEval3D's loader takes every name without a dot in the method's folder for a number.
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["0"]
    with pytest.raises(ConfigError, match="16 to 2048"):
        dump_method(source, tmp_path / "m", size_px=8)


def test_grids_hold_the_views_that_gpteval3d_shows(tmp_path: Path) -> None:
    assert view_numbers(120, 4) == [0, 30, 60, 90]
    assert view_numbers(120, 9) == [0, 13, 26, 39, 52, 65, 78, 91, 104]
    with pytest.raises(InputFileError, match="needs 9 views"):
        view_numbers(4, 9)

    place = tmp_path / "m"
    place.mkdir()
    for kind, base in (("rgb", 0), ("normal", 100)):
        for view in range(4):
            Image.new("RGB", (2, 2), (base + view,) * 3).save(place / f"{kind}_{view}.png")
    four = Ensemble(4, True, True, (0,), 1, place)
    grid = object_grid(place, four)[::2, ::2, 0]
    assert grid.tolist() == [[0, 1], [2, 3], [100, 101], [102, 103]]
    assert object_grid(place, Ensemble(1, False, True, (0,), 1, place))[::2, ::2, 0].tolist() == [
        [100]
    ]
    assert len(comparison(place, place, four)) > 50
    (place / "rgb_3.png").unlink()
    with pytest.raises(InputFileError, match="got 0"):
        object_grid(place, four)


def test_runs_are_matched_by_prompt_and_numbered_from_zero(folder: Path, runs: Path) -> None:
    sources, others = find_sources(runs, read_tournament(folder))
    assert [(one.prompt_id, one.number, one.seed) for one in sources] == [(0, 0, 4), (0, 1, 9)]
    assert [path.name for path in others] == ["c"]
    with pytest.raises(ConfigError, match="name"):
        check_name("../up")


def test_each_pair_is_planned_in_both_orders_and_within_the_budget(folder: Path) -> None:
    tournament = read_tournament(folder)
    available = {**find_methods(tournament), "ours": [0, 2]}
    plan = schedule(tournament, available, "ours")
    # 6 and 4 pairs are wanted; two opponents on two prompts are 4 of each kind.
    assert len(plan) == 16
    assert len(set(plan)) == 16
    for one, other in zip(plan[::2], plan[1::2], strict=True):
        assert (one.first, one.second, one.pair) == (other.second, other.first, other.pair)
        assert "ours" in (one.first, one.second)
        assert one.prompt_id in (0, 2)
    assert plan == schedule(tournament, available, "ours")
    assert plan != schedule(tournament, available, "ours", seed=1)

    short = schedule(tournament, available, None, budget=7)
    assert len(short) == 6
    assert sum(one.ensemble == 0 for one in short) == 4
    assert len(schedule(tournament, available, None)) == 20
    with pytest.raises(ConfigError, match="two questions"):
        schedule(tournament, available, None, budget=1)
    with pytest.raises(ConfigError, match="nothing to compare"):
        schedule(tournament, {"ours": [0]}, "ours")


def test_from_runs_to_ratings_by_a_server(folder: Path, runs: Path, server: JudgeServer) -> None:
    command = ["evaluate", "gpteval", str(runs), "--tournament", str(folder), "--size", "32"]
    judge = ["--judge", f"server:bright@{server.url}"]
    first = CliRunner().invoke(app, [*command, *judge, "--json"])
    assert first.exit_code == 0, first.output
    asked = len(server.requests)

    out = folder / "comparisons" / "ours"
    comparisons = json.loads((out / "comparisons.json").read_text())
    assert set(comparisons) == {"0", "1"}
    assert {row["result"] for rows in comparisons.values() for row in rows} <= {-1, 0, 1}
    for row in comparisons["0"]:
        ours_first = row["m1"] == "ours"
        rival = row["m2"] if ours_first else row["m1"]
        # A cube before white is darker than the light method and lighter than the dark one.
        better = rival == "light"
        assert row["result"] == (-1 if ours_first == better else 1)

    report = json.loads((out / "report.json").read_text())
    shown = report["judges"][0]["criteria"]["0"]
    assert 900.0 < shown["published"]["elo"]["ours"]["value"] < 1100.0
    assert shown["order"] == {"pairs": 4, "consistent": 4, "first_share": None}
    assert report["judges"][0]["spent"]["asked"] == 8
    scores = json.loads((out / "scores.json").read_text())
    assert scores["0"]["methods"] == ["dark", "light", "ours"]

    # All is remembered.
    again = CliRunner().invoke(app, [*command, *judge])
    assert again.exit_code == 0, again.output
    assert len(server.requests) == asked
    assert "is there" in again.output
    assert "8 remembered" in again.output


def test_pictures_alone_need_no_judge(folder: Path, runs: Path) -> None:
    command = ["evaluate", "gpteval", str(runs), "--tournament", str(folder), "--size", "16"]
    done = CliRunner().invoke(app, [*command, "--name", "mine"])
    assert done.exit_code == 0, done.output
    assert find_methods(read_tournament(folder))["mine"] == [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "mini"], "Yes or No"),
        (["--judge", "nobody"], "no judge"),
        (["--judge", "server:mini@http://127.0.0.1:9/v1"], "favours"),
        (["--judge", "model:x", "--judge", "server:x@http://127.0.0.1:9/v1"], "twice"),
        (["--name", "a/b"], "name"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_drawn(
    folder: Path, runs: Path, options: list[str], message: str
) -> None:
    command = ["evaluate", "gpteval", str(runs), "--tournament", str(folder)]
    done = CliRunner().invoke(app, [*command, *options])
    assert done.exit_code == 2
    assert message in done.output
    assert not (folder / "methods" / "ours").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criteria": []}, "criteria"),
        ({"ensembles": []}, "ensembles"),
        ({"ensembles": [ensemble(5, 1, 1, [0], 1)]}, "1, 4, 9"),
        ({"ensembles": [ensemble(4, 1, 1, [2], 1)]}, "0 to 1"),
        ({"ensembles": [ensemble(4, 0, 0, [0], 1)]}, "rgb or normal"),
        ({"ensembles": [ensemble(4, 1, 1, [0], 1) | {"gpt_prompt": "../../x"}]}, "folder"),
        ({"ensembles": [ensemble(4, 1, 1, [0], 0)]}, "num_comparisons"),
        ({"scores": [{"a": "x"}, {}]}, "finite"),
        ({"prompt_ids": [9]}, "prompt_ids"),
    ],
)
def test_a_folder_that_is_no_tournament_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputFileError, match=message):
        read_tournament(folder)

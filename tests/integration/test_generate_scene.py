"""Scenes of many objects, short: what is written, what is resumed, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vlm3d_gs.app.scene import generate_scene
from vlm3d_gs.assembly.layout import find_layout
from vlm3d_gs.assembly.start import is_scene
from vlm3d_gs.cli import app
from vlm3d_gs.config import Config, apply_settings, replace_path
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import CheckpointError, PromptError
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.pipeline import generate

PROMPT = "two red cubes, a small red cube on top of a blue sphere"


def config(out: Path, prompt: str = PROMPT) -> Config:
    values = {"train.steps": 2, "scene.n_init": 200, "critic.enabled": False}
    values |= {"reconstruct.fit_steps": 1, "reconstruct.until": 1, "train.checkpoint_every": 0.5}
    values |= {"export.formats": "ply,glb", "train.preview_every": 0, "out": out}
    return apply_settings(preset("mini", prompt), values)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scene") / "run"
    made = config(out)
    generate_scene(made, find_layout(made), quiet=True)
    return out


def test_equal_objects_are_made_once_and_stand_where_the_layout_says(scene: Path) -> None:
    data = json.loads((scene / "scene.json").read_text())
    whole, first = read_splat(scene / "scene.ply"), 0
    assert [(row["name"], len(row["things"])) for row in data["objects"]] == [
        ("red_cube", 2),
        ("red_cube_2", 1),
        ("blue_sphere", 1),
    ]
    for row in data["objects"]:
        begin, end = row["gaussians"]
        assert begin == first < end
        first = end
        own = read_splat(scene / row["file"])
        assert torch.equal(own.means, whole.means[begin:end])
    assert first == len(whole)

    cubes, small, _ = data["objects"]
    assert small["things"][0]["scale"] < cubes["things"][0]["scale"]
    assert cubes["things"][0]["turn_deg"] == 0.0
    assert cubes["things"][1]["turn_deg"] > 0.0, "copies do not stand alike"

    summary = json.loads((scene / "summary.json").read_text())
    assert summary["finished"]
    assert summary["objects"] == {"red_cube": 2, "red_cube_2": 1, "blue_sphere": 1}
    assert all((scene / name).is_file() for name in summary["files"])

    rows = [json.loads(line) for line in (scene / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    assert "red_cube/fit/loss" in rows[0]
    assert "blue_sphere/prior/noise_level" in rows[1]
    # A chain of three steps for two groups of four views, in each of two rounds, for two different objects.
    assert summary["network_evaluations"] == 2 * 2 * 3 * 8


def test_files_that_can_hold_objects_apart_do(scene: Path) -> None:
    content = (scene / "scene.glb").read_bytes()
    document = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    assert [node["name"] for node in document["nodes"]] == ["red_cube", "red_cube_2", "blue_sphere"]
    whole = read_splat(scene / "scene.ply")
    # The reader may take the nodes in another order.
    read = read_splat(scene / "scene.glb").means
    assert torch.allclose(read.sort(0).values, whole.means.sort(0).values, atol=1e-5)


def test_one_object_can_be_shown_alone(scene: Path, tmp_path: Path) -> None:
    cameras, sheets = tmp_path / "cameras.json", []
    cameras.write_text(json.dumps([{"azimuth_deg": 0, "elevation_deg": 90, "distance": 3}]))
    for only in ([], ["--only", "blue_sphere"], ["--only", "blue_sphere", "--only", "red_cube"]):
        out = tmp_path / f"{len(only)}.png"
        arguments = ["render", str(scene / "scene.ply"), "--out", str(out), "--size-px", "32"]
        result = CliRunner().invoke(app, [*arguments, "--cameras", str(cameras), *only])
        assert result.exit_code == 0, result.output
        sheets.append(out.read_bytes())
    assert len(set(sheets)) == 3

    result = CliRunner().invoke(app, [*arguments, "--only", "green_cone", "--overwrite"])
    assert result.exit_code == 2
    assert "objects: red_cube, red_cube_2, blue_sphere" in result.output.replace("\n", " ")


def test_objects_of_an_earlier_scene_are_kept(scene: Path, tmp_path: Path) -> None:
    prompt = "a red cube to the right of a small blue sphere"
    out = tmp_path / "moved"
    arguments = ["generate", prompt, "--from", str(scene), "--out", str(out), "--no-critic"]
    result = CliRunner().invoke(app, [*arguments, "--export", "ply", "--quiet"])
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["kept"] == ["blue_sphere", "red_cube"]
    assert "network_evaluations" not in summary

    # The same Gaussians, elsewhere.
    before, after = (read_splat(one / "objects" / "blue_sphere.ply") for one in (scene, out))
    assert torch.allclose(before.sh, after.sh)
    spread = [one.means - one.means.mean(0) for one in (before, after)]
    ratio = spread[1].norm() / spread[0].norm()
    assert torch.allclose(spread[0] * ratio, spread[1], atol=1e-4)
    boxes = {name: read_splat(out / "objects" / f"{name}.ply").means for name in summary["kept"]}
    assert boxes["red_cube"][:, 1].mean() > boxes["blue_sphere"][:, 1].mean(), "right is +y"

    nothing = CliRunner().invoke(app, [*arguments[:2], "--from", str(tmp_path)])
    assert nothing.exit_code == 2
    assert "holds no scene of objects" in nothing.output.replace("\n", " ")


def test_an_object_of_a_scene_is_what_a_run_of_its_own_makes(scene: Path, tmp_path: Path) -> None:
    alone = generate(config(tmp_path / "alone", "a blue sphere"), quiet=True)
    data = json.loads((scene / "scene.json").read_text())
    (pose,) = data["objects"][2]["things"]
    moved = alone.gaussians.means * pose["scale"] + torch.tensor(pose["translation"])

    placed = read_splat(scene / "objects" / "blue_sphere.ply")
    assert len(placed) == len(alone.gaussians)
    assert torch.allclose(placed.means, moved, atol=1e-4)
    assert torch.allclose(placed.sh, alone.gaussians.sh, atol=1e-3)


def test_a_scene_that_was_cut_off_is_continued_as_if_it_had_not_been(
    scene: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(scene, cut)
    with pytest.raises(CheckpointError, match="Use more --steps"):
        generate_scene(config(cut), find_layout(config(cut)), resume=True, quiet=True)

    # After the first step only, which the last checkpoint but one holds.
    (cut / "checkpoint.previous.safetensors").replace(cut / "checkpoint.safetensors")
    (cut / "summary.json").unlink()
    (cut / "scene.ply").unlink()
    assert is_scene(config(cut), resume=True)
    generate_scene(config(cut), find_layout(config(cut)), resume=True, quiet=True)
    assert (cut / "scene.ply").read_bytes() == (scene / "scene.ply").read_bytes()
    assert len((cut / "metrics.jsonl").read_text().splitlines()) == 2

    other = replace_path(config(cut), "train.seed", 1)
    with pytest.raises(CheckpointError, match="train.seed was 0, not 1"):
        generate_scene(other, find_layout(other), resume=True, quiet=True)
    (cut / "summary.json").unlink()
    with pytest.raises(CheckpointError, match="has the objects blue_sphere, red_cube, the layout"):
        generate_scene(
            config(cut), find_layout(config(cut, "two green cones")), resume=True, quiet=True
        )

    single = config(cut, "a red cube")
    generate(single, overwrite=True, quiet=True)
    assert not [name for name in ("objects", "scene.json", "layout.json") if (cut / name).exists()]


@pytest.mark.parametrize(
    ("prompt", "scene_wanted"),
    [
        ("a red cube", False),
        ("a red cube on top of a blue sphere", False),
        ("a corgi", False),
        ("two red cubes", True),
        ("a small red cube", True),
        ("a red cube behind a blue sphere and a green cone", True),
    ],
)
def test_what_the_models_know_as_a_whole_is_no_scene(
    prompt: str, scene_wanted: bool, tmp_path: Path
) -> None:
    assert is_scene(config(tmp_path, prompt)) is scene_wanted
    assert not is_scene(preset("mvdream", prompt)), "large models get any prompt as a whole"


def test_refusals_come_before_anything_is_written(tmp_path: Path) -> None:
    layout, out = tmp_path / "layout.json", tmp_path / "run"
    layout.write_text(
        json.dumps({"prompt": "a dog", "objects": [{"name": "a", "prompt": "a dog"}]})
    )
    for arguments, says in (
        (["two red cubes", "--seeds", "2"], "--seeds and --view"),
        (["two red cubes", "--ask", "Is there a red cube?"], "asked about each of them alone"),
        (["a cat", "--layout", str(layout)], "is 'a dog', not 'a cat'"),
        (["--layout", str(layout)], "unknown words ['dog']"),
        (["--layout", str(tmp_path / "none.json")], "Cannot read the layout"),
        ([], "The prompt is empty"),
    ):
        result = CliRunner().invoke(app, ["generate", *arguments, "--out", str(out)])
        assert result.exit_code == 2, result.output
        assert says in result.output.replace("\n", " ")
        assert not out.exists()

    unknown = config(out, "a dog")
    with pytest.raises(PromptError):
        find_layout(unknown)

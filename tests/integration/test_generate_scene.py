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
from vlm3d_gs.evaluate.runs import find_runs
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.pipeline import generate

PROMPT = "two red cubes, a small red cube on top of a blue sphere"


def config(out: Path, prompt: str = PROMPT) -> Config:
    values = {"train.steps": 2, "scene.n_init": 200, "critic.enabled": False}
    values |= {"export.formats": "ply", "train.preview_every": 0, "out": out}
    return apply_settings(preset("mini", prompt), values)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scene") / "run"
    made = config(out)
    generate_scene(made, find_layout(made), quiet=True)
    return out


def test_equal_objects_are_made_once_and_stand_where_the_layout_says(scene: Path) -> None:
    assert sorted(path.name for path in (scene / "parts").iterdir()) == ["blue_sphere", "red_cube"]
    assert find_runs(scene) == [scene], "the runs of the objects are not counted as runs"

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
        made = read_splat(scene / row["run"] / "scene.ply")
        pose = row["things"][0]
        moved = made.means * pose["scale"] + torch.tensor(pose["translation"])
        assert torch.allclose(own.means[: len(made)], moved, atol=1e-5)
    assert first == len(whole)
    assert data["objects"][1]["things"][0]["scale"] < data["objects"][0]["things"][0]["scale"]

    summary = json.loads((scene / "summary.json").read_text())
    assert summary["finished"]
    assert summary["objects"] == {"red_cube": 2, "red_cube_2": 1, "blue_sphere": 1}
    assert all((scene / name).is_file() for name in summary["files"])


def test_a_scene_that_was_cut_off_is_continued_as_if_it_had_not_been(
    scene: Path, tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    shutil.copytree(scene, cut)
    with pytest.raises(CheckpointError, match="is done"):
        generate_scene(config(cut), find_layout(config(cut)), resume=True, quiet=True)

    kept = (cut / "parts" / "red_cube" / "scene.ply").stat().st_mtime_ns
    shutil.rmtree(cut / "parts" / "blue_sphere")
    (cut / "summary.json").unlink()
    (cut / "scene.ply").unlink()
    assert is_scene(config(cut), resume=True)
    generate_scene(config(cut), find_layout(config(cut)), resume=True, quiet=True)
    assert (cut / "scene.ply").read_bytes() == (scene / "scene.ply").read_bytes()
    assert (cut / "parts" / "red_cube" / "scene.ply").stat().st_mtime_ns == kept

    other = replace_path(config(cut), "train.seed", 1)
    with pytest.raises(CheckpointError, match="train.seed was 0, not 1"):
        generate_scene(other, find_layout(other), resume=True, quiet=True)

    single = replace_path(config(cut, "a red cube"), "train.checkpoint_every", 0.5)
    generate(single, overwrite=True, quiet=True)
    assert not [
        name for name in ("parts", "objects", "scene.json", "layout.json") if (cut / name).exists()
    ]


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
        (["two red cubes", "--ask", "Are they red?"], "asked about each of them alone"),
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

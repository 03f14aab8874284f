"""The main job with the embedded models, short: files, repeatability, resuming, refusals."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import trimesh
from typer.testing import CliRunner

from vlm3d_gs.cli import app
from vlm3d_gs.config import apply_settings, replace_path
from vlm3d_gs.config.presets import preset
from vlm3d_gs.config.recipes import apply_recipe
from vlm3d_gs.core.errors import CheckpointError, ConfigError, ExportError, PromptError
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.pipeline import generate

PROMPT = "a red cube on top of a blue sphere"


def config(out: Path, steps: int = 6, **values: object):  # type: ignore[no-untyped-def]
    return apply_settings(
        preset("mini", PROMPT),
        {
            "out": out,
            "train.steps": steps,
            "scene.n_init": 300,
            "critic.every": 2,
            "export.formats": "ply",
            **values,
        },
    )


def rows(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_command_line_makes_a_whole_run_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = ["--set", "scene.n_init=300", "--set", "export.turntable_s=0.5"]
    result = CliRunner().invoke(
        app,
        ["generate", PROMPT, "--out", str(out), "--steps", "5", "--critic-every", "2", *settings],
    )
    assert result.exit_code == 0, result.output
    names = {path.name for path in out.iterdir()}
    assert {
        "scene.ply",
        "turntable.mp4",
        "sheet.png",
        "config.json",
        "metrics.jsonl",
        "summary.json",
    } <= names
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == 5
    assert summary["finished"]
    assert summary["versions"]["torch"] == version("torch")
    assert len(read_splat(out / "scene.ply")) == summary["gaussians"]
    asked = [row for row in rows(out) if "critic/semantic" in row]
    assert [row["step"] for row in asked] == [1, 3, 5], "every second step"
    assert {"critic/semantic", "critic/relation", "critic/geometric"} <= set(asked[0])
    assert all("fit/loss" in row for row in rows(out)), "these steps are all in the first round"
    assert "prior/score" in rows(out)[0]
    assert summary["network_evaluations"] == 3 * (3 * 4 + 4), (
        "three chains of one group, one of the other"
    )
    assert summary["critic_looks"] > 3


@pytest.mark.parametrize(
    "runaway",
    [
        {"optim.means_lr": 1},
        {"densify.method": "mcmc", "densify.noise": 1e6, "scene.n_init": 100},
    ],
)
def test_a_run_whose_gaussians_fly_away_ends_as_any_other(
    tmp_path: Path, runaway: dict[str, object]
) -> None:
    settings = config(tmp_path / "run", 12, **runaway)
    generate(replace_path(settings, "critic.enabled", value=False), quiet=True)
    assert len(read_splat(tmp_path / "run" / "scene.ply")) > 0


def test_a_run_by_distillation_alone(tmp_path: Path) -> None:
    settings = replace_path(apply_recipe(config(tmp_path / "run"), "sds"), "train.steps", 4)
    generate(settings, quiet=True)
    assert all("prior/loss" in row and "fit/loss" not in row for row in rows(tmp_path / "run"))


def test_a_run_ends_by_distillation_with_the_reward(tmp_path: Path) -> None:
    generate(config(tmp_path / "run", steps=10, **{"reconstruct.until": 0.5}), quiet=True)
    found = rows(tmp_path / "run")
    # Its last part alternates, and ends with a fit.
    fits = [True] * 5 + [True, False, True, False, True]
    assert ["fit/loss" in row for row in found] == fits
    assert ["prior/loss" in row for row in found] == [not fit for fit in fits]
    assert any("critic/reward" in row for row in found[5:])


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate(config(tmp_path / name, **{"train.seed": seed}), quiet=True)
        files.append((tmp_path / name / "scene.ply").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_a_resumed_run_equals_an_uncut_one(tmp_path: Path) -> None:
    """Schedules follow the fraction of the whole run, so the cut run is stopped, not shortened."""
    whole, cut = (
        config(tmp_path / "whole"),
        config(tmp_path / "cut", **{"train.checkpoint_every": 0.5}),
    )
    generate(whole, quiet=True)
    generate(cut, quiet=True, until=3)
    generate(cut, resume=True, quiet=True)
    assert (tmp_path / "whole/scene.ply").read_bytes() == (tmp_path / "cut/scene.ply").read_bytes()
    assert [row["step"] for row in rows(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]


def test_without_critic_nothing_is_asked(tmp_path: Path) -> None:
    generate(config(tmp_path / "run", **{"critic.enabled": False}), quiet=True)
    assert not any(key.startswith("critic/") for row in rows(tmp_path / "run") for key in row)


def test_a_run_can_end_in_a_mesh(tmp_path: Path) -> None:
    solid = config(
        tmp_path / "solid",
        1,
        **{"export.formats": "mesh,ply", "scene.opacity": 0.9, "scene.n_init": 2000},
    )
    made = generate(solid, quiet=True)
    assert [path.name for path in made.files] == ["scene.ply", "mesh.glb"]
    mesh = trimesh.load(made.files[1], force="mesh", process=False)
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    assert mesh.is_watertight
    assert mesh.volume > 0


def test_where_no_mesh_can_be_made_the_rest_is_there(tmp_path: Path) -> None:
    faint = config(tmp_path, 1, **{"export.formats": "mesh,ply", "scene.opacity": 0.03})
    with pytest.raises(ExportError, match="There is no mesh to make"):
        generate(faint, quiet=True)
    assert json.loads((tmp_path / "summary.json").read_text())["files"] == ["scene.ply"]
    assert not (tmp_path / "mesh.glb").exists()


def test_refusals_leave_everything_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(PromptError, match="corgi"):
        generate(apply_settings(preset("mini", "a corgi"), {"out": out}), quiet=True)
    assert not out.exists()
    generate(config(out, 2), quiet=True)
    before = (out / "scene.ply").read_bytes()
    with pytest.raises(ConfigError, match="--overwrite"):
        generate(config(out, 2), quiet=True)
    with pytest.raises(ConfigError, match="not a diffusion pipeline"):
        generate(config(out, 2, **{"prior.model": str(tmp_path)}), overwrite=True, quiet=True)
    with pytest.raises(CheckpointError, match=r"had other settings: train.seed was 0, not 5"):
        generate(config(out, 9, **{"train.seed": 5}), resume=True, quiet=True)
    assert (out / "scene.ply").read_bytes() == before

"""Assets that carry how they were made: written, shown, checked by judging again, and not believed blindly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scenes import splats_for
from vlm3d_gs.cli import app
from vlm3d_gs.config import to_dict
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.formats.gltf.extras import read_extras, write_extras
from vlm3d_gs.runs.proof import PROOF, read_proof, write_proof

PROMPT = "a red cube"


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, [*words])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    for name in ("scene.ply", "scene.glb"):
        write_splat(splats_for(PROMPT), folder / name)
    content = {"config": to_dict(preset("mini", PROMPT)), "commit": "abc"}
    (folder / "config.json").write_text(json.dumps(content, default=str))
    (folder / "scene.json").write_text('{"layout": 1}')
    code, said = run("verify", str(folder), "--write")
    assert code == 0, said
    assert said.count("holds") == 5
    return folder


def test_the_proof_is_beside_the_splat_and_in_it(proven: Path) -> None:
    content = json.loads((proven / "scene.json").read_text())
    assert content["layout"] == 1
    proof = content[PROOF]
    assert (proof["prompt"], proof["seed"]) == (PROMPT, 0)
    assert {model["role"]: model["licence"] for model in proof["models"]} == {
        "prior": "Apache-2.0",
        "critic": "Apache-2.0",
    }
    assert all(len(model["weights"]) == 64 for model in proof["models"])
    assert proof["verdicts"][0]["said"] == {"content_right": True, "clean": True}
    assert read_extras(proven / "scene.glb", PROOF) == proof
    assert len(read_splat(proven / "scene.glb")) == proof["splat"]["gaussians"]


def test_info_shows_it(proven: Path) -> None:
    for target in (proven, proven / "scene.glb"):
        code, said = run("info", str(target))
        assert code == 0, said
        assert "'a red cube', seed 0" in said
        assert "Apache-2.0" in said
    code, said = run("info", str(proven / "scene.glb"), "--json")
    assert json.loads(said)["proof"]["prompt"] == PROMPT
    assert "made by" not in run("info", str(proven / "scene.ply"))[1]


def test_another_scene_or_a_lie_is_found_out(proven: Path, tmp_path: Path) -> None:
    write_splat(splats_for("a blue cone"), tmp_path / "scene.ply")
    proof = read_proof(proven)
    assert proof is not None
    proof["models"][0]["weights"] = "0" * 64
    proof["models"][1]["id"] = "nobody/nothing"
    write_proof(tmp_path, proof)
    code, said = run("verify", str(tmp_path), "--json")
    assert code == 1
    checks = {one["what"]: one["holds"] for one in json.loads(said)}
    assert checks == {
        "scene.ply is unchanged": False,
        "weights of mini (prior)": False,
        "weights of mini-critic (critic)": None,
        "verdict of checker": False,
        "verdict of mini (held-out questions)": False,
    }


def test_what_has_no_proof_is_told_how_to_get_one(proven: Path, tmp_path: Path) -> None:
    write_splat(splats_for(PROMPT), tmp_path / "scene.glb")
    code, said = run("verify", str(tmp_path / "scene.glb"))
    assert code == 2
    assert "--write" in said
    code, said = run("verify", str(tmp_path / "scene.glb"), "--write")
    assert code == 2
    assert "name its folder" in said
    with pytest.raises(InputFileError, match="glTF|is a"):
        write_extras(proven / "scene.ply", PROOF, {})

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh
from typer.testing import CliRunner

from splat_files import random_splat
from vlm3d_gs.app.mesh_info import MeshInfo, mesh_info
from vlm3d_gs.cli import app
from vlm3d_gs.formats.convert import write_splat


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply", "stl"])
def test_a_mesh_is_told_from_a_splat_and_counted(suffix: str, tmp_path: Path) -> None:
    """trimesh writes them, as other programs would."""
    path = tmp_path / f"box.{suffix}"
    trimesh.creation.box().export(path)
    found = mesh_info(path)
    assert found is not None
    assert (found.faces, found.vertices) == (12, 36 if suffix == "stl" else 8)

    result = CliRunner().invoke(app, ["info", str(path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"box.{suffix}: a mesh, not a splat (.{suffix}): 12 faces")
    as_json = CliRunner().invoke(app, ["info", str(path), "--json"])
    assert json.loads(as_json.stdout)["kind"] == "mesh"


@pytest.mark.parametrize("suffix", ["glb", "ply", "spz", "compressed.ply"])
def test_splats_are_no_meshes(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scene.{suffix}"
    write_splat(random_splat(5, 0), path)
    assert mesh_info(path) is None
    assert CliRunner().invoke(app, ["info", str(path)]).exit_code == 0


@pytest.mark.parametrize("name", ["a.glb", "a.obj", "a.ply", "a.stl"])
def test_damage_is_left_to_the_readers_of_splats(name: str, tmp_path: Path) -> None:
    for content in (b"", b"glTF" + b"\xff" * 40, b"ply\nend_header\n", b"solid", b"\x00" * 200):
        (tmp_path / name).write_bytes(content)
        assert mesh_info(tmp_path / name) is None
    assert mesh_info(tmp_path / "missing.obj") is None
    assert str(MeshInfo("a.obj", "obj", 8, 12, True)).endswith(
        "12 faces, 8 vertices, with a texture"
    )

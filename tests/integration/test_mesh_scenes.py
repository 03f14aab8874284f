"""Meshes of whole mini scenes against the splat's own renders, and before readers nobody here wrote."""

from __future__ import annotations

import json
from pathlib import Path

import manifold3d
import numpy as np
import pytest
import trimesh

from mesh_views import draw
from node_programs import NodeTools
from scenes import scene_for, splats, splats_for
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.mesh import METHODS, MeshSettings, extract_mesh, write_mesh
from vlm3d_gs.mesh.extract import Method
from vlm3d_gs.mesh.solid import count_parts
from vlm3d_gs.render import render
from vlm3d_gs.show.framing import BACKGROUND

PROMPTS = (
    "a red cube on top of a blue sphere",
    "a green torus to the left of a yellow cone",
    "a purple cylinder",
)
SETTINGS = {"resolution": 96, "faces": 8000, "texture_px": 512}
MIN_IOU, MIN_PSNR = 0.95, 22.0
VIEWS = 12


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    return float(-10.0 * np.log10(np.mean((first - second) ** 2)))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_mesh_is_sound_and_looks_like_its_splat(prompt: str, method: Method) -> None:
    gaussians = splats_for(prompt)
    mesh = extract_mesh(gaussians, MeshSettings(method=method, **SETTINGS))
    solid, texture = mesh.solid, mesh.texture
    assert texture is not None

    witness = trimesh.Trimesh(solid.vertices, solid.faces, process=False)
    assert witness.is_watertight
    assert witness.is_winding_consistent
    assert witness.volume > 0
    assert np.isfinite(solid.vertices).all()
    made = manifold3d.Manifold(
        manifold3d.Mesh(solid.vertices.astype(np.float32), solid.faces.astype(np.uint32))
    )
    assert made.status() == manifold3d.Error.NoError
    parts = made.decompose()
    assert all(part.volume() > 0 for part in parts)  # no inner shells
    assert len(parts) <= 2
    assert len(solid.faces) <= SETTINGS["faces"]

    # None of these is a view that level or colours were taken from.
    azimuths = [360.0 * k / VIEWS + 7.0 for k in range(VIEWS)]
    elevations = [(15.0, -20.0, 40.0, 62.0)[k % 4] for k in range(VIEWS)]
    cameras = orbit(azimuths, elevations, 3.1, 40.0, 160, 160)
    positions = solid.vertices[texture.atlas.sources]
    color, mask = draw(positions, texture.atlas.faces, texture.atlas.uvs, texture.image, cameras)
    rendering = render(gaussians, cameras, background=BACKGROUND)
    solid_pixels = rendering.alpha[..., 0].numpy() >= 0.5
    ious = [
        (ours & theirs).sum() / (ours | theirs).sum()
        for ours, theirs in zip(mask, solid_pixels, strict=True)
    ]
    assert np.mean(ious) >= MIN_IOU
    assert min(ious) >= MIN_IOU - 0.01
    both = mask & solid_pixels  # where both show the object: background cannot flatter
    assert psnr(color[both], rendering.color.numpy()[both]) >= MIN_PSNR


@pytest.mark.slow
def test_decimation_leaves_no_slivers() -> None:
    gaussians = splats(scene_for(PROMPTS[0]), n=5000)
    mesh = extract_mesh(gaussians, MeshSettings(method="tsdf"), color="none")
    assert count_parts(mesh.solid) == 1  # it pinches off five without cleaning


def test_the_oracle_tells_a_wrong_mesh_from_a_right_one() -> None:
    gaussians = splats_for(PROMPTS[2])
    mesh = extract_mesh(gaussians, MeshSettings(resolution=32, faces=500, texture_px=64))
    assert mesh.texture is not None
    atlas = mesh.texture.atlas
    positions = mesh.solid.vertices[atlas.sources]
    cameras = orbit([7.0], [15.0], 3.1, 40.0, 96, 96)
    theirs = render(gaussians, cameras).alpha[..., 0].numpy() >= 0.5
    for scale, fits in ((1.0, True), (0.9, False), (1.1, False)):
        _, ours = draw(scale * positions, atlas.faces, atlas.uvs, mesh.texture.image, cameras)
        assert ((ours & theirs).sum() / (ours | theirs).sum() >= MIN_IOU) == fits


@pytest.mark.node
@pytest.mark.parametrize("method", METHODS)
def test_the_khronos_validator_finds_no_fault_in_a_glb(
    method: Method, tmp_path: Path, node_tools: NodeTools
) -> None:
    settings = MeshSettings(method=method, resolution=48, faces=1500, texture_px=128)
    write_mesh(extract_mesh(splats_for(PROMPTS[0]), settings), tmp_path / "a.glb")
    assert json.loads(node_tools.run("validate_glb.mjs", tmp_path / "a.glb")) == []

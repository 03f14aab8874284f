"""assembly.first_cloud: what a scene may start from, and parts of a scene that are refined."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from splat_files import random_splat
from vlm3d_gs.app.earlier import scene_parts
from vlm3d_gs.app.refine import refine_object
from vlm3d_gs.assembly.first_cloud import cloud_of_file, first_cloud, kind_of
from vlm3d_gs.config import SceneConfig
from vlm3d_gs.config.presets import preset
from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.core.gaussians import concatenate
from vlm3d_gs.core.seeding import generator
from vlm3d_gs.edit.transform import euler_rotation, transformed
from vlm3d_gs.formats.convert import write_splat

RED = (200, 30, 30, 255)


def box(path: Path) -> Path:
    """A red box of 2 x 4 x 6 around (10, 0, 0), as its file's own axes have it."""
    shape = trimesh.creation.box((2.0, 4.0, 6.0))
    shape.apply_translation((10.0, 0.0, 0.0))
    shape.visual.vertex_colors = np.tile(RED, (len(shape.vertices), 1))
    shape.export(path)
    return path


@pytest.mark.parametrize("suffix", [".obj", ".ply", ".glb", ".stl", ".off"])
def test_balls_lie_on_the_surface_of_a_mesh_in_its_colour(tmp_path: Path, suffix: str) -> None:
    cloud = cloud_of_file(box(tmp_path / f"box{suffix}"), 500)
    assert len(cloud) == 500

    # Files are y up and z towards the viewer, STL is z up as our world is.
    own = cloud.means if suffix == ".stl" else cloud.means[:, [1, 2, 0]]
    reach = (own - torch.tensor([10.0, 0.0, 0.0])).abs() / torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(reach.amax(1), torch.ones(500), rtol=0, atol=1e-4)
    assert reach.mean() < 0.8, "points are spread over the faces"
    if suffix not in (".stl", ".off"):
        expected = torch.tensor(RED[:3]) / 255.0
        torch.testing.assert_close(cloud.colors, expected.expand(500, 3), rtol=0, atol=0.01)


def test_a_texture_gives_the_colours(tmp_path: Path) -> None:
    from PIL import Image

    picture = Image.new("RGB", (64, 64), (0, 0, 255))
    picture.paste((0, 255, 0), (0, 0, 32, 64))  # green on the left
    flat = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]])
    flat.visual = trimesh.visual.TextureVisuals([[0, 0], [1, 0], [1, 1], [0, 1]], image=picture)
    flat.export(tmp_path / "flat.glb")

    cloud = cloud_of_file(tmp_path / "flat.glb", 400)
    right = cloud.means[:, 1]
    sure = (right - 0.5).abs() > 0.05
    assert (cloud.colors[sure, 2] > 0.5).equal(right[sure] > 0.5)


def test_points_and_splats_are_told_from_meshes(tmp_path: Path) -> None:
    trimesh.PointCloud(np.random.default_rng(0).random((30, 3))).export(tmp_path / "points.ply")
    for suffix in (".ply", ".compressed.ply", ".glb", ".spz"):
        write_splat(random_splat(20, 1), tmp_path / f"splat{suffix}")
        assert kind_of(tmp_path / f"splat{suffix}") == "splat"
    assert kind_of(tmp_path / "points.ply") == "points"
    assert kind_of(box(tmp_path / "mesh.ply")) == "mesh"
    assert len(cloud_of_file(tmp_path / "points.ply", 7)) == 30

    (tmp_path / "broken.obj").write_text("v 0 0 zero\nf 1 1 1\n")
    with pytest.raises(InputFileError, match=r"broken\.obj"):
        cloud_of_file(tmp_path / "broken.obj", 7)


def test_a_run_starts_from_a_file_inside_the_unit_ball(tmp_path: Path) -> None:
    path = box(tmp_path / "box.obj")
    scene = SceneConfig(init=str(path), n_init=300, max_gaussians=400, sh_degree=1)
    cloud = first_cloud(scene, generator(0, "first cloud"))
    assert len(cloud) == 300
    assert cloud.sh_degree == 1
    assert 0.5 < float(cloud.means.norm(dim=1).max()) < 1.1
    again = first_cloud(scene, generator(0, "first cloud"))
    assert again.means.equal(cloud.means)

    write_splat(random_splat(500, 0), tmp_path / "large.ply")
    for init, says in ((tmp_path / "large.ply", "--decimate 400"), ("bal", "'ball', 'shell' or")):
        with pytest.raises(ConfigError, match=says):
            first_cloud(
                SceneConfig(init=str(init), n_init=300, max_gaussians=400), generator(0, "a")
            )


def scene_folder(folder: Path) -> Path:
    """A finished scene of one sphere and two cones, as `app.scene` writes it."""
    poses = {"sphere": [(0.5, 0.0, (0.1, 0.2, 0.3))]}
    poses["cone"] = [(0.3, 0.0, (0.0, -0.5, 0.0)), (0.4, 90.0, (0.2, 0.5, 0.0))]
    rows = []
    (folder / "objects").mkdir(parents=True)
    for number, (name, places) in enumerate(poses.items()):
        own = random_splat(30, 0, seed=number)
        things = [
            transformed(
                own,
                scale=scale,
                rotation=euler_rotation((0.0, 0.0, turn)),
                translation=torch.tensor(moved),
            )
            for scale, turn, moved in places
        ]
        write_splat(concatenate(things), folder / "objects" / f"{name}.ply")
        plain = [
            {"scale": scale, "turn_deg": turn, "translation": moved}
            for scale, turn, moved in places
        ]
        file = f"objects/{name}.ply"
        rows.append({"name": name, "prompt": f"a red {name}", "file": file, "things": plain})
    (folder / "scene.json").write_text(json.dumps({"objects": rows}))
    (folder / "summary.json").write_text(json.dumps({"finished": True}))
    return folder


def test_what_an_object_becomes_it_becomes_at_every_place(tmp_path: Path) -> None:
    cone = scene_parts(scene_folder(tmp_path / "run"))["cone"]
    torch.testing.assert_close(
        cone.at_its_places(cone.own).means, cone.placed.means, rtol=0, atol=1e-5
    )

    # Twice as large in its own frame is twice as large in each place.
    larger = cone.own.changed({"means": cone.own.means * 2.0})
    spread = [
        cloud.means[30:].std(0)
        for cloud in (cone.at_its_places(larger), cone.at_its_places(cone.own))
    ]
    torch.testing.assert_close(spread[0], 2.0 * spread[1], rtol=1e-4, atol=0)


def test_objects_are_found_by_name(tmp_path: Path) -> None:
    run = scene_folder(tmp_path / "run")
    config = preset("mini", "a red cone")
    with pytest.raises(ConfigError, match="sphere, cone"):
        refine_object(run, "cube", config, tmp_path / "a.ply")

    rows = json.loads((run / "scene.json").read_text())
    rows["objects"][0]["things"][0]["scale"] = math.inf
    (run / "scene.json").write_text(json.dumps(rows))
    with pytest.raises(InputFileError, match="no pose"):
        refine_object(run, "cone", config, tmp_path / "a.ply")

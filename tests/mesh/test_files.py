from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from typer.testing import CliRunner

from scenes import splats_for
from vlm3d_gs.cli import app
from vlm3d_gs.core.errors import ConfigError, ExportError, InputFileError
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.mesh import Mesh, MeshSettings, extract_mesh, write_mesh, write_meshes
from vlm3d_gs.mesh.product import describe, make_mesh
from vlm3d_gs.mesh.writers import SUFFIXES, mesh_format

RUNNER = CliRunner()
QUICK = MeshSettings(resolution=48, faces=1500, texture_px=128)
PROMPT = "a red cube on top of a blue sphere"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_splat(splats_for(PROMPT), folder / "scene.ply")
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return extract_mesh(splats_for(PROMPT), QUICK)


@pytest.fixture(scope="module")
def written(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    for suffix in SUFFIXES:
        make_mesh(run, folder / f"pair{suffix}", QUICK)
    return folder


def loaded(path: Path) -> trimesh.Trimesh:
    read = trimesh.load(path, force="mesh", process=False)
    read.merge_vertices(merge_tex=True, merge_norm=True)
    return read


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_reads_back_closed_and_upright(written: Path, suffix: str) -> None:
    read = loaded(written / f"pair{suffix}")
    assert read.is_watertight
    assert read.is_winding_consistent
    assert read.volume > 0.05
    assert len(read.faces) <= QUICK.faces
    up = 2 if suffix == ".stl" else 1  # STL keeps z up, the others have y up
    extent = read.bounds[1] - read.bounds[0]
    assert int(np.argmax(extent)) == up


def test_objects_are_nodes_of_one_glb(mesh: Mesh, tmp_path: Path) -> None:
    higher = replace(
        mesh, solid=replace(mesh.solid, vertices=mesh.solid.vertices + np.array([0.0, 0.0, 2.0]))
    )
    write_meshes({"pair": mesh, "other_pair": higher}, tmp_path / "both.glb")
    scene = trimesh.load(tmp_path / "both.glb", force="scene")
    assert {*scene.graph.nodes_geometry} == {"pair", "other_pair"}

    write_mesh(mesh, tmp_path / "one.glb")
    alone = trimesh.load(tmp_path / "one.glb", force="mesh")
    low, high = scene.geometry["pair"], scene.geometry["other_pair"]
    assert np.array_equal(low.vertices, alone.vertices)
    assert np.array_equal(low.faces, high.faces)
    assert np.allclose(high.bounds - low.bounds, [0.0, 2.0, 0.0], atol=1e-6)
    assert np.array_equal(
        np.asarray(high.visual.material.baseColorTexture),
        np.asarray(alone.visual.material.baseColorTexture),
    )

    with pytest.raises(ExportError, match=r"Use \.glb"):
        write_meshes({"pair": mesh}, tmp_path / "both.stl")


def test_a_point_of_our_world_lands_where_the_conventions_say(mesh: Mesh, tmp_path: Path) -> None:
    for suffix, columns in ((".glb", [1, 2, 0]), (".obj", [1, 2, 0]), (".stl", [0, 1, 2])):
        write_mesh(mesh, tmp_path / f"a{suffix}")
        read = loaded(tmp_path / f"a{suffix}")
        ours = mesh.solid.vertices[:, columns]
        assert np.allclose(read.bounds, [ours.min(axis=0), ours.max(axis=0)], atol=1e-5)


def test_the_glb_has_a_matt_textured_material_and_unit_normals(written: Path) -> None:
    read = trimesh.load(written / "pair.glb", force="mesh", process=False)
    material = read.visual.material
    assert material.metallicFactor == 0.0
    assert material.roughnessFactor >= 0.9
    assert material.baseColorTexture.size == (QUICK.texture_px, QUICK.texture_px)
    normals = read.vertex_normals
    assert np.allclose(np.linalg.norm(normals, axis=-1), 1.0, atol=1e-5)
    centers = np.where(read.vertices[:, 1:2] > read.vertices[:, 1].mean(), 0.4, -0.4)
    outwards = read.vertices - centers * [0.0, 1.0, 0.0]
    assert ((normals * outwards).sum(axis=-1) > 0).mean() > 0.95


def colors_of(read: trimesh.Trimesh) -> np.ndarray:
    """Colours of the vertices, 0 to 1, from the texture (nearest texel) or as they are."""
    if read.visual.kind == "vertex":
        return read.visual.vertex_colors[:, :3] / 255.0
    material = read.visual.material
    picture = getattr(material, "baseColorTexture", None) or material.image
    image = np.asarray(picture.convert("RGB")) / 255.0
    side = image.shape[0]
    rows = np.clip(((1.0 - read.visual.uv[:, 1]) * side).astype(int), 0, side - 1)
    return image[rows, np.clip((read.visual.uv[:, 0] * side).astype(int), 0, side - 1)]


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_the_cube_is_red_and_the_sphere_below_is_blue(written: Path, suffix: str) -> None:
    read = trimesh.load(written / f"pair{suffix}", force="mesh", process=False)
    colors, height = np.asarray(colors_of(read)), read.vertices[:, 1]
    # The lid of the cube looks up: its shade is 0.72 + 0.28 * 0.915 of the palette's (0.86, 0.10, 0.10).
    lid = (height > height.max() - 0.02) & (read.vertex_normals[:, 1] > 0.95)
    assert np.allclose(np.median(colors[lid], axis=0), [0.84, 0.098, 0.098], atol=0.03)
    blue = colors[height < -0.3].mean(axis=0)
    assert np.allclose(blue / blue.max(), [0.136, 0.273, 1.0], atol=0.02)


def test_the_obj_comes_with_a_material_and_a_picture(written: Path) -> None:
    material = (written / "pair.mtl").read_text()
    assert "map_Kd pair.png" in material
    assert "Ks 0 0 0" in material
    with Image.open(written / "pair.png") as picture:
        assert picture.size == (QUICK.texture_px, QUICK.texture_px)
    assert "mtllib pair.mtl" in (written / "pair.obj").read_text()


def test_the_same_scene_gives_the_same_bytes(run: Path, written: Path, tmp_path: Path) -> None:
    for suffix in (".glb", ".stl"):
        make_mesh(run, tmp_path / f"pair{suffix}", QUICK)
        first, second = (folder / f"pair{suffix}" for folder in (written, tmp_path))
        assert first.read_bytes() == second.read_bytes()


def test_a_mesh_is_where_its_scene_is() -> None:
    scene = splats_for("a red cube")
    far = type(scene).from_parameters({**scene.parameters(), "means": scene.means + 7.0})
    here, there = (extract_mesh(item, QUICK, color="none") for item in (scene, far))
    assert np.allclose(
        here.solid.vertices.mean(axis=0) + 7.0, there.solid.vertices.mean(axis=0), atol=0.01
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"faces": 3}, "at least 4, got 3"),
        ({"resolution": 100_000}, "16 to 512 voxels, got 100000"),
        ({"resolution": 0}, "16 to 512"),
        ({"texture_px": 1_000_000}, "64 to 4096 px"),
        ({"min_part": -0.1}, "min_part must be 0 to 1"),
        ({"min_part": float("nan")}, "min_part must be 0 to 1"),
        ({"method": "poisson"}, "Available: density, tsdf"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MeshSettings(**changes)  # type: ignore[arg-type]


def test_bad_targets_are_refused_before_any_work(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"Known: \.glb, \.obj, \.ply, \.stl"):
        make_mesh(tmp_path / "nothing.ply", tmp_path / "a.fbx")
    with pytest.raises(ExportError, match="does not exist"):
        make_mesh(run, tmp_path / "no" / "a.glb")
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(ExportError, match=r"a\.png exists already.*--overwrite"):
        make_mesh(run, tmp_path / "a.obj")
    assert (tmp_path / "a.png").read_bytes() == b"mine"


def test_bad_sources_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "a.glb"
    with pytest.raises(InputFileError, match="There is no file"):
        make_mesh(tmp_path / "a.ply", out)
    with pytest.raises(InputFileError, match="not the folder of a run"):
        make_mesh(tmp_path, out)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputFileError, match=r"has no scene\.ply yet"):
        make_mesh(tmp_path, out)
    assert not out.exists()


def test_a_mesh_is_no_splat(written: Path, tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        with pytest.raises(InputFileError):
            make_mesh(written / f"pair{suffix}", tmp_path / "again.glb")


def test_any_splat_format_gives_the_same_shape(run: Path, written: Path, tmp_path: Path) -> None:
    write_splat(splats_for(PROMPT), tmp_path / "pair.spz")
    make_mesh(tmp_path / "pair.spz", tmp_path / "pair.stl", QUICK)
    ours, theirs = loaded(written / "pair.stl"), loaded(tmp_path / "pair.stl")
    assert ours.volume == pytest.approx(theirs.volume, rel=0.01)
    assert np.allclose(ours.bounds, theirs.bounds, atol=0.01)


def test_the_splat_itself_is_never_replaced(run: Path) -> None:
    before = (run / "scene.ply").read_bytes()
    for source in (run, run / "scene.ply"):
        with pytest.raises(ExportError, match="the splat itself"):
            make_mesh(source, run / "scene.ply", QUICK, overwrite=True)
    assert (run / "scene.ply").read_bytes() == before


def test_an_obj_that_fails_leaves_none_of_its_files(
    mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.mtl").write_text("mine")
    real = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.suffix == ".obj":
            raise OSError(28, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write_mesh(mesh, tmp_path / "a.obj")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mtl"]
    assert (tmp_path / "a.mtl").read_text() == "mine"


def test_a_mesh_without_the_colours_of_a_format_is_refused(mesh: Mesh, tmp_path: Path) -> None:
    bare = Mesh(mesh.solid, None, None, mesh.fit)
    with pytest.raises(ExportError, match="as 'texture'"):
        write_mesh(bare, tmp_path / "a.glb")
    with pytest.raises(ExportError, match="as 'vertices'"):
        write_mesh(bare, tmp_path / "a.ply")
    assert list(tmp_path.iterdir()) == []


def test_the_suffix_may_be_in_capitals() -> None:
    colors = [mesh_format(name).color for name in ("A.GLB", "a.Ply", "a.STL")]
    assert colors == ["texture", "vertices", "none"]


def test_the_command_writes_and_reports(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.stl"
    arguments = ["mesh", str(run), "-o", str(out), "--resolution", "32", "--faces", "500"]
    result = RUNNER.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert f"written to {out}: " in result.output
    assert "silhouettes match 9" in result.output
    assert len(loaded(out).faces) <= 500
    again = RUNNER.invoke(app, arguments)
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    assert RUNNER.invoke(app, [*arguments, "--overwrite"]).exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "poisson"], "'density', 'tsdf'"),
        (["--faces", "2"], "at least 4"),
        (["--backend", "vulkan"], "'auto', 'cpu', 'gsplat', 'reference'"),
        (["--device", "tpu"], "must be auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:"], "must be auto, cpu, cuda or cuda:N"),
    ],
)
def test_the_command_says_what_is_wrong(
    run: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = RUNNER.invoke(app, ["mesh", str(run), "-o", str(tmp_path / "a.stl"), *options])
    assert result.exit_code == 2
    assert message in result.output


def test_the_report_counts_the_parts(run: Path, tmp_path: Path) -> None:
    line = describe(make_mesh(run, tmp_path / "a.stl", QUICK))
    assert "1 part," in line or "2 parts," in line

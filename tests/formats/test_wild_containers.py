"""Containers as people have them: SOG in folders and of version 1, glTF of all kinds, USD, point clouds."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from splat_files import random_splat
from vlm3d_gs.cli import app
from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.harmonics import eval_sh
from vlm3d_gs.core.notices import noticing
from vlm3d_gs.core.rotations import quat_to_rotmat
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.convert import convert, load_arrays, read_splat, write_splat
from vlm3d_gs.formats.options import SplatOptions
from vlm3d_gs.formats.ply.splat import save_ply
from vlm3d_gs.formats.stream import SplatStream
from vlm3d_gs.formats.transforms import transformed
from vlm3d_gs.formats.world import to_arrays

RUNNER = CliRunner()
Said = list[str]


@pytest.fixture
def said() -> Iterator[Said]:
    """What is said to the person while the test runs."""
    lines: Said = []
    with noticing(lines.append):
        yield lines


def unzipped(source: Path, folder: Path) -> dict[str, Any]:
    with zipfile.ZipFile(source) as archive:
        archive.extractall(folder)
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    return meta


def test_an_unzipped_sog_is_read_by_its_folder_or_its_json(tmp_path: Path) -> None:
    write_splat(random_splat(90, 2), tmp_path / "a.sog")
    meta = unzipped(tmp_path / "a.sog", tmp_path / "a")
    expected = read_splat(tmp_path / "a.sog").parameters()
    for source in (tmp_path / "a", tmp_path / "a" / "meta.json"):
        got = read_splat(source).parameters()
        assert all(torch.equal(value, expected[name]) for name, value in got.items())
    text = json.dumps({**meta, "sh0": {"codebook": [0] * 256, "files": ["../a.sog"]}})
    (tmp_path / "a" / "meta.json").write_text(text)
    with pytest.raises(InputFileError, match="not beside it"):
        read_splat(tmp_path / "a")


def test_version_1_of_sog_holds_shares_of_ranges(tmp_path: Path) -> None:
    """Made from a file of version 2 by hand: its bytes mean linear shares now, opacities logits."""
    write_splat(random_splat(90, 1), tmp_path / "a.sog")
    meta = unzipped(tmp_path / "a.sog", tmp_path / "a")
    old = load_arrays(tmp_path / "a.sog")
    first = {
        "means": {**meta["means"], "shape": [90, 3]},
        "quats": meta["quats"],
        "scales": {"mins": [-7, -6, -5], "maxs": [-2, -1, 0], "files": ["scales.webp"]},
        "sh0": {"mins": [-1, -1, -2, -4], "maxs": [1, 2, 1, 4], "files": ["sh0.webp"]},
        "shN": {"mins": -0.5, "maxs": 0.5, "files": meta["shN"]["files"]},
    }
    (tmp_path / "a" / "meta.json").write_text(json.dumps(first))
    got = load_arrays(tmp_path / "a")
    np.testing.assert_array_equal(got.means, old.means)
    np.testing.assert_array_equal(got.quats, old.quats)
    codes = np.asarray(Image.open(tmp_path / "a" / "scales.webp").convert("RGB")).reshape(-1, 3)
    expected = np.array([-7, -6, -5]) + 5.0 * (codes[:90] / 255)
    np.testing.assert_allclose(got.log_scales, expected, atol=1e-6)
    alpha = np.asarray(Image.open(tmp_path / "a" / "sh0.webp")).reshape(-1, 4)[:90, 3]
    np.testing.assert_allclose(got.opacity_logits, -4 + 8.0 * (alpha / 255), atol=1e-6)
    assert got.sh.shape == (90, 4, 3)
    assert 0.3 < float(np.abs(got.sh[:, 1:]).max()) <= 0.5
    with zipfile.ZipFile(tmp_path / "b.sog", "w") as archive:
        for path in (tmp_path / "a").iterdir():
            archive.write(path, path.name)
    np.testing.assert_array_equal(load_arrays(tmp_path / "b.sog").sh, got.sh)


@pytest.mark.parametrize(
    "linear",
    [
        np.diag([2.0, 2.0, 2.0]),
        np.diag([1.0, -1.0, 1.0]),
        np.diag([3.0, 0.5, 1.0]),
        np.array([[0.0, -2, 0], [2, 0, 0], [0, 0, 2]]),
        np.array([[1.0, 0.7, 0], [0, 1, 0.2], [0, 0, -2]]),
    ],
)
def test_any_transform_moves_shapes_and_colours(linear: np.ndarray) -> None:
    arrays = to_arrays(random_splat(50, 2), "rub")
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, [1, -2, 3]
    moved = transformed(arrays, matrix, Path("a.glb"))
    np.testing.assert_allclose(moved.means, arrays.means @ linear.T + [1, -2, 3], atol=1e-5)
    before, after = (covariances(splat) for splat in (arrays, moved))
    np.testing.assert_allclose(after, linear @ before @ linear.T, rtol=1e-4, atol=1e-6)
    rigid = np.allclose(linear @ linear.T, np.eye(3) * (linear @ linear.T)[0, 0])
    assert len(moved.remarks) == (not rigid)
    if rigid:
        directions = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))
        turned = directions @ torch.from_numpy(linear).float().T
        again = eval_sh(torch.from_numpy(moved.sh), turned / turned.norm(dim=1, keepdim=True))
        unit = directions / directions.norm(dim=1, keepdim=True)
        seen = eval_sh(torch.from_numpy(arrays.sh), unit)
        torch.testing.assert_close(again, seen, rtol=0, atol=1e-5)


def covariances(arrays: SplatArrays) -> np.ndarray:
    turns = quat_to_rotmat(torch.from_numpy(arrays.quats)).double().numpy()
    axes = turns * np.exp(arrays.log_scales.astype(np.float64))[:, None]
    result: np.ndarray = axes @ axes.transpose(0, 2, 1)
    return result


def taken_apart(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def test_gltf_as_text_with_its_buffer_beside_or_inside(tmp_path: Path) -> None:
    write_splat(random_splat(30, 1), tmp_path / "a.glb")
    expected = read_splat(tmp_path / "a.glb").parameters()
    document, buffer = taken_apart(tmp_path / "a.glb")
    (tmp_path / "my scan.bin").write_bytes(buffer)
    inside = "data:application/octet-stream;base64," + base64.b64encode(buffer).decode()
    for uri in ("my%20scan.bin", inside):
        document["buffers"][0]["uri"] = uri
        (tmp_path / "a.gltf").write_text("\n " + json.dumps(document, indent=1))
        got = read_splat(tmp_path / "a.gltf").parameters()
        assert all(torch.equal(value, expected[name]) for name, value in got.items())
    document["buffers"][0]["uri"] = "../secret.bin"
    (tmp_path / "a.gltf").write_text(json.dumps(document))
    with pytest.raises(InputFileError, match="not in its folder"):
        read_splat(tmp_path / "a.gltf")


@pytest.mark.parametrize("bounds", ["plain", "drafted", "none"])
def test_spz_inside_gltf(tmp_path: Path, bounds: str) -> None:
    scene = random_splat(40, 1)
    write_splat(scene, tmp_path / "a.spz", SplatOptions(spz_version=2))
    blob = (tmp_path / "a.spz").read_bytes()
    plain = load_arrays(tmp_path / "a.spz").means  # right, up, back
    drafted = plain * np.float32([-1, 1, -1])
    means = plain if bounds == "plain" else drafted
    accessor: dict[str, Any] = {"componentType": 5126, "count": 40, "type": "VEC3"}
    if bounds != "none":
        accessor |= {"min": means.min(0).tolist(), "max": means.max(0).tolist()}
    name = "KHR_gaussian_splatting_compression_spz_2"
    document = {
        "asset": {"version": "2.0"},
        "extensionsUsed": ["KHR_gaussian_splatting", name],
        "extensionsRequired": ["KHR_gaussian_splatting", name],
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [
            {
                "primitives": [
                    {
                        "mode": 0,
                        "attributes": {"POSITION": 0},
                        "extensions": {
                            "KHR_gaussian_splatting": {"extensions": {name: {"bufferView": 0}}}
                        },
                    }
                ]
            }
        ],
        "accessors": [accessor],
        "bufferViews": [{"buffer": 0, "byteLength": len(blob)}],
        "buffers": [{"byteLength": len(blob), "uri": "a.spz"}],
    }
    (tmp_path / "a.gltf").write_text(json.dumps(document))
    got = load_arrays(tmp_path / "a.gltf")
    np.testing.assert_allclose(got.means, means, atol=1e-6)
    assert got.sh.shape == (40, 4, 3)


def test_words_of_gltf_are_obeyed_or_named(tmp_path: Path, said: Said) -> None:
    write_splat(random_splat(30, 0), tmp_path / "a.glb")
    document, buffer = taken_apart(tmp_path / "a.glb")
    (tmp_path / "a.bin").write_bytes(buffer)
    document["buffers"][0]["uri"] = "a.bin"
    extension = document["meshes"][0]["primitives"][0]["extensions"]["KHR_gaussian_splatting"]
    extension |= {"colorSpace": "lin_rec709_display", "projection": "orthographic"}
    (tmp_path / "a.gltf").write_text(json.dumps(document))
    linear = read_splat(tmp_path / "a.glb").sh[:, 0].double() * SH_C0 + 0.5
    got = read_splat(tmp_path / "a.gltf").sh[:, 0].double() * SH_C0 + 0.5
    torch.testing.assert_close(((got + 0.055) / 1.055) ** 2.4, linear, rtol=0, atol=2e-3)
    assert "projection orthographic" in said[0]
    assert "linear colours" in said[0]
    document["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    (tmp_path / "a.gltf").write_text(json.dumps(document))
    with pytest.raises(InputFileError, match="requires KHR_draco_mesh_compression"):
        read_splat(tmp_path / "a.gltf")


def test_usd_with_z_up_several_prims_and_transforms(tmp_path: Path) -> None:
    usd = pytest.importorskip("pxr.Usd", reason="usd-core is not installed")
    from pxr import Gf, UsdGeom

    scene = random_splat(20, 1)
    write_splat(scene, tmp_path / "a.usda")
    plain = load_arrays(tmp_path / "a.usda")
    stage = usd.Stage.CreateNew(str(tmp_path / "b.usda"))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    for name, shift in (("/World/Left", -5.0), ("/World/Right", 5.0), ("/World/Hidden", 0.0)):
        place = UsdGeom.Xform.Define(stage, name)
        place.AddTranslateOp().Set(Gf.Vec3d(shift, 0, 0))
        place.AddScaleOp().Set(Gf.Vec3f(2, 2, 2))
        stage.OverridePrim(f"{name}/Splat").GetReferences().AddReference("./a.usda", "/Splat")
    UsdGeom.Imageable(stage.GetPrimAtPath("/World/Hidden")).MakeInvisible()
    stage.Save()
    got = load_arrays(tmp_path / "b.usda")
    assert (len(got), got.frame) == (40, "rub")
    left = 2 * plain.means[:, [0, 2, 1]] * np.float32([1, 1, -1]) - np.float32([5, 0, 0])
    np.testing.assert_allclose(got.means[:20], left, atol=1e-5)
    np.testing.assert_allclose(got.means[20:] - got.means[:20], [[10, 0, 0]] * 20, atol=1e-5)
    np.testing.assert_allclose(got.log_scales[:20], plain.log_scales + np.log(2), atol=1e-5)


def test_usdz_is_written_and_holds_what_the_file_says(tmp_path: Path) -> None:
    pytest.importorskip("pxr.Usd", reason="usd-core is not installed")
    scene = replace(to_arrays(random_splat(20, 1), "rdf"), comments=("mine",))
    save_ply(SplatStream.of_arrays(scene), tmp_path / "a.ply")
    convert(tmp_path / "a.ply", tmp_path / "a.usdz")
    assert zipfile.ZipFile(tmp_path / "a.usdz").namelist() == ["scene.usdc"]
    assert load_arrays(tmp_path / "a.usdz").comments == ("mine",)
    expected, got = read_splat(tmp_path / "a.ply"), read_splat(tmp_path / "a.usdz")
    torch.testing.assert_close(got.means, expected.means)


def test_a_point_cloud_becomes_balls(tmp_path: Path, said: Said) -> None:
    grid = np.stack(np.meshgrid(*[np.arange(4) * 0.1] * 3, indexing="ij"), -1).reshape(-1, 3)
    points = np.concatenate([grid, [[50.0, 0, 0]]])
    rows = "\n".join(f"{x:g} {y:g} {z:g} 255 0 128" for x, y, z in points)
    header = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n"
    header += "".join(f"property float {name}\n" for name in "xyz")
    header += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    (tmp_path / "a.ply").write_text(f"{header}end_header\n{rows}\n")
    with pytest.raises(InputFileError, match="--as-points"):
        read_splat(tmp_path / "a.ply")
    got = read_splat(tmp_path / "a.ply", as_points=True)
    torch.testing.assert_close(got.scales[:64], torch.full((64, 3), 0.1))
    assert float(got.scales[64].max()) <= 0.4 + 1e-6  # the stray point does not cover the scene
    torch.testing.assert_close(got.sh[0, 0] * SH_C0 + 0.5, torch.tensor([1.0, 0, 128 / 255]))
    out = RUNNER.invoke(
        app, ["convert", str(tmp_path / "a.ply"), str(tmp_path / "b.spz"), "--as-points"]
    )
    assert out.exit_code == 0, out.output


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    write_splat(random_splat(3, 0), tmp_path / "disk" / "a.ply")
    for name in ("a.ply", "new.ply"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
        write_splat(random_splat(5, 0), tmp_path / name)
        assert (tmp_path / name).is_symlink()
        assert len(read_splat(tmp_path / "disk" / name)) == 5

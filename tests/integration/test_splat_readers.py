"""What other people's programs find in our splat files, and we in theirs, column by column."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

import node_programs
from node_programs import NodeTools
from splat_files import CASES, PLAIN, Case, assert_same_splat, golden_ksplat, random_splat
from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.rotations import quat_to_rotmat
from vlm3d_gs.formats.arrays import SplatArrays
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.formats.gltf.reader import load_glb
from vlm3d_gs.formats.options import Frame, SplatOptions
from vlm3d_gs.formats.quantize import alpha_bytes, sigmoid
from vlm3d_gs.formats.world import to_arrays, to_gaussians

SCENE = random_splat(400, 3)
OURS = [
    case for case in CASES if case.suffix in (".ply", ".compressed.ply", ".splat", ".spz", ".sog")
]
"""Formats that splat-transform reads. Version 3.7 takes .spz files as they are, whatever their axes."""
THEIRS = [
    case
    for case in OURS
    if case.suffix != ".splat" and case.options in (PLAIN, SplatOptions(spz_version=4))
]
"""Formats that it writes."""
KNOWN_FINDINGS = {"MESH_PRIMITIVE_INVALID_ATTRIBUTE", "UNSUPPORTED_EXTENSION"}
"""The validator knows no attribute with a colon (KhronosGroup/glTF-Validator issue 252)."""


def written(tmp_path: Path, case: Case) -> Path:
    path = tmp_path / f"ours{case.suffix}"
    write_splat(SCENE, path, case.options)
    return path


def from_csv(path: Path, frame: Frame = "rdf") -> Gaussians:
    """What splat-transform's table holds, in the axes of the file that it was made from."""
    with path.open() as stream:
        rows = list(csv.DictReader(stream))

    def columns(*names: str) -> Any:
        return np.array([[float(row[name]) for name in names] for row in rows], np.float32)

    count = sum(name.startswith("f_rest_") for name in rows[0])
    sh = columns("f_dc_0", "f_dc_1", "f_dc_2")[:, None]
    if count:
        rest = columns(*(f"f_rest_{index}" for index in range(count)))
        sh = np.concatenate([sh, rest.reshape(len(rows), 3, -1).transpose(0, 2, 1)], axis=1)
    arrays = SplatArrays(
        means=columns("x", "y", "z"),
        log_scales=columns("scale_0", "scale_1", "scale_2"),
        quats=columns("rot_0", "rot_1", "rot_2", "rot_3"),
        opacity_logits=columns("opacity")[:, 0],
        sh=sh,
        frame=frame,
    )
    return to_gaussians(arrays, path)


@pytest.mark.node
@pytest.mark.parametrize("case", OURS, ids=lambda case: case.name)
def test_splat_transform_reads_ours(tmp_path: Path, node_tools: NodeTools, case: Case) -> None:
    node_tools.splat_transform(written(tmp_path, case), tmp_path / "theirs.csv")
    assert_same_splat(from_csv(tmp_path / "theirs.csv", case.frame), SCENE, case)


@pytest.mark.node
@pytest.mark.parametrize("case", THEIRS, ids=lambda case: case.name)
def test_we_read_what_splat_transform_writes(
    tmp_path: Path, node_tools: NodeTools, case: Case
) -> None:
    write_splat(SCENE, tmp_path / "ours.ply")
    target = tmp_path / f"theirs{case.suffix}"
    version = ["--spz-version", str(case.options.spz_version)] if case.suffix == ".spz" else []
    node_tools.splat_transform(tmp_path / "ours.ply", target, *version)
    got = read_splat(target, frame="rdf")  # it writes .spz in the axes of the PLY and says nothing
    # What they themselves read from their file is what we read from it ...
    node_tools.splat_transform(target, tmp_path / "again.csv")
    exact = Case(case.suffix, case.options, *[2e-5] * 6)
    assert_same_splat(got, from_csv(tmp_path / "again.csv"), exact)
    # ... and it is the scene. In .sog they round opacities and positions down, and let several
    # Gaussians of this small scene share harmonics.
    loose = {"means": 6e-5, "opacities": 1 / 255 + 1e-5, "rest": 1.0}
    assert_same_splat(got, SCENE, replace(case, **loose) if case.suffix == ".sog" else case)


@pytest.mark.node
@pytest.mark.parametrize("level", range(3))
def test_splat_transform_finds_the_same_in_a_ksplat(
    tmp_path: Path, node_tools: NodeTools, level: int
) -> None:
    path = golden_ksplat(tmp_path, level)
    node_tools.splat_transform(path, tmp_path / "theirs.csv")
    exact = Case(".ksplat", SplatOptions(frame="rdf"), *[2e-5] * 6)
    assert_same_splat(read_splat(path), from_csv(tmp_path / "theirs.csv"), exact)


@pytest.mark.node
def test_we_read_the_glb_of_splat_transform(tmp_path: Path, node_tools: NodeTools) -> None:
    """It turns the PLY half around z: upright as ours, but seen from behind."""
    write_splat(SCENE, tmp_path / "ours.ply")
    node_tools.splat_transform(tmp_path / "ours.ply", tmp_path / "theirs.glb")
    got, expected = load_glb(tmp_path / "theirs.glb"), to_arrays(SCENE, "rdf")
    np.testing.assert_allclose(got.means, expected.means * [-1, -1, 1], atol=1e-6)
    np.testing.assert_allclose(got.log_scales, expected.log_scales, atol=1e-5)
    np.testing.assert_allclose(
        sigmoid(got.opacity_logits), sigmoid(expected.opacity_logits), atol=1e-6
    )
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    turns = half @ quat_to_rotmat(torch.from_numpy(expected.quats))
    torch.testing.assert_close(
        quat_to_rotmat(torch.from_numpy(got.quats)), turns, rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(got.sh[:, 1:4], expected.sh[:, 1:4] * [[[-1], [1], [-1]]], atol=1e-6)


@pytest.fixture
def glb(tmp_path: Path) -> Path:
    write_splat(SCENE, tmp_path / "ours.glb")
    return tmp_path / "ours.glb"


@pytest.mark.node
def test_three_loads_our_glb(glb: Path, node_tools: NodeTools) -> None:
    found = json.loads(node_tools.run("read_glb.mjs", glb))
    expected = to_arrays(SCENE, "rub")

    def column(name: str) -> Any:
        values = found["attributes"][name]
        return np.array(values["values"], np.float32).reshape(-1, values["width"])

    prefix = "khr_gaussian_splatting:"
    np.testing.assert_array_equal(column("position"), expected.means)
    np.testing.assert_allclose(column(prefix + "scale"), np.exp(expected.log_scales), rtol=1e-6)
    np.testing.assert_array_equal(column(prefix + "rotation"), expected.quats[:, [1, 2, 3, 0]])
    assert np.abs(np.linalg.norm(column(prefix + "rotation"), axis=1) - 1).max() < 1e-6
    opacities = sigmoid(expected.opacity_logits)
    np.testing.assert_allclose(column(prefix + "opacity")[:, 0], opacities, atol=1e-6)
    for index in range(16):
        degree = math.isqrt(index)
        name = f"{prefix}sh_degree_{degree}_coef_{index - degree * degree}"
        np.testing.assert_array_equal(column(name), expected.sh[:, index])
    # COLOR_0 is linear light: back in sRGB it is the colour that the splat shows.
    linear = column("color")[:, :3].astype(np.float64)
    srgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(srgb, np.clip(expected.sh[:, 0] * SH_C0 + 0.5, 0, 1), atol=2e-4)

    splat = found["splat"]
    assert splat["count"] == len(SCENE)
    np.testing.assert_array_equal(np.array(splat["centers"]).reshape(-1, 3), expected.means)
    turns = quat_to_rotmat(torch.from_numpy(expected.quats)) * torch.from_numpy(
        np.exp(expected.log_scales)
    ).unsqueeze(1)
    covariances = (turns @ turns.mT).numpy()[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    got = np.array(splat["covariances"]).reshape(-1, 6)
    np.testing.assert_allclose(got, covariances, atol=1e-6)
    alphas = np.array(splat["colors"]).reshape(-1, 4)[:, 3].astype(int)
    assert np.abs(alphas - alpha_bytes(expected.opacity_logits)).max() <= 1


def test_trimesh_sees_our_glb_as_points(glb: Path) -> None:
    (cloud,) = trimesh.load_scene(glb).geometry.values()
    np.testing.assert_allclose(cloud.vertices, to_arrays(SCENE, "rub").means, atol=1e-6)


@pytest.mark.node
def test_the_gltf_validator_finds_only_what_it_does_not_know(
    glb: Path, node_tools: NodeTools
) -> None:
    messages = json.loads(node_tools.run("validate_glb.mjs", glb))
    assert {message["code"] for message in messages} == KNOWN_FINDINGS
    for message in messages:
        if message["code"] == "MESH_PRIMITIVE_INVALID_ATTRIBUTE":
            assert "KHR_gaussian_splatting:" in message["pointer"]


def test_without_npm_the_reason_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package-lock.json").write_text("{}")
    monkeypatch.setattr(node_programs, "NODE_FOLDER", tmp_path)
    monkeypatch.setattr(node_programs.shutil, "which", lambda _: None)
    with pytest.raises(pytest.skip.Exception, match="there is no npm"):
        node_programs.installed_tools()


@pytest.mark.parametrize(
    "case", [case for case in OURS if case.suffix not in (".splat", ".sog")], ids=lambda c: c.name
)
def test_gsply_reads_ours(tmp_path: Path, case: Case) -> None:
    gsply = pytest.importorskip("gsply", reason="gsply is not installed")
    path = written(tmp_path, case)
    data = gsply.spz.read_spz(path) if case.suffix == ".spz" else gsply.plyread(path)
    arrays = SplatArrays(
        means=np.array(data.means),
        log_scales=np.array(data.scales),
        quats=np.array(data.quats),
        opacity_logits=np.array(data.opacities),
        sh=np.concatenate([np.array(data.sh0)[:, None], np.array(data.shN)], axis=1),
        frame=case.frame,
    )
    assert_same_splat(to_gaussians(arrays, path), SCENE, case)


@pytest.mark.parametrize("version", [3, 4])
def test_we_read_the_spz_of_gsply(tmp_path: Path, version: int) -> None:
    gsply = pytest.importorskip("gsply", reason="gsply is not installed")
    write_splat(SCENE, tmp_path / "ours.ply")
    data = gsply.plyread(tmp_path / "ours.ply")
    gsply.spz.write_spz(tmp_path / "theirs.spz", data, version=version)
    case = next(
        case
        for case in OURS
        if case.options == SplatOptions(spz_version=version) and case.suffix == ".spz"  # type: ignore[arg-type]
    )
    got = read_splat(tmp_path / "theirs.spz", frame="rdf")
    assert_same_splat(got, SCENE, case)

"""Splat PLY and frames: layout, axes, exact inverse, hostile files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from plyfile import PlyData

from vlm3d_gs.core.errors import ConfigError, ExportError, InputFileError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.harmonics import eval_sh
from vlm3d_gs.core.rotations import quat_to_rotmat
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.formats.frames import WORLD_TO_RDF, WORLD_TO_RUB, sh_rotation
from vlm3d_gs.formats.options import AXES, Frame, SplatOptions
from vlm3d_gs.formats.ply.splat import load_ply
from vlm3d_gs.formats.world import rotate_gaussians

NAMES_SH1 = (
    "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 f_rest_0 f_rest_1 f_rest_2 f_rest_3 f_rest_4 f_rest_5 "
    "f_rest_6 f_rest_7 f_rest_8 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
).split()


def random_scene(n: int, coefficients: int, generator: torch.Generator) -> Gaussians:
    return Gaussians(
        means=torch.randn(n, 3, generator=generator),
        log_scales=torch.randn(n, 3, generator=generator) - 3,
        quats=torch.randn(n, 4, generator=generator) * 2,
        opacity_logits=torch.randn(n, generator=generator),
        sh=torch.randn(n, coefficients, 3, generator=generator),
    )


def random_directions(n: int, generator: torch.Generator) -> torch.Tensor:
    directions = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return directions / directions.norm(dim=-1, keepdim=True)


def patched(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    return path


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
@pytest.mark.parametrize("frame", list(AXES))
def test_reading_inverts_writing(
    tmp_path: Path, generator: torch.Generator, coefficients: int, frame: Frame
) -> None:
    scene = random_scene(50, coefficients, generator)
    write_splat(scene, tmp_path / "a.ply", SplatOptions(frame=frame))
    back = read_splat(tmp_path / "a.ply")
    assert torch.equal(back.means, scene.means)
    assert torch.equal(back.log_scales, scene.log_scales)
    assert torch.equal(back.opacity_logits, scene.opacity_logits)
    torch.testing.assert_close(back.sh, scene.sh, rtol=1e-5, atol=2e-6)
    turns = quat_to_rotmat(scene.quats), quat_to_rotmat(back.quats)
    torch.testing.assert_close(*turns, rtol=0, atol=2e-6)
    torch.testing.assert_close(back.quats.norm(dim=-1), torch.ones(50))


def test_layout_is_the_one_that_viewers_load(tmp_path: Path, generator: torch.Generator) -> None:
    scene = random_scene(7, 4, generator)
    write_splat(scene, tmp_path / "a.ply", SplatOptions(frame="world"))
    data = PlyData.read(str(tmp_path / "a.ply"))
    assert data.header.splitlines()[1] == "format binary_little_endian 1.0"
    vertex = data["vertex"]
    assert [item.name for item in vertex.properties] == NAMES_SH1
    assert {item.val_dtype for item in vertex.properties} == {"f4"}
    np.testing.assert_array_equal(vertex["nx"], 0.0)
    # channel-major: f_rest_3 is the first green coefficient of degree 1
    np.testing.assert_array_equal(vertex["f_rest_3"], scene.sh[:, 1, 1].numpy())
    np.testing.assert_array_equal(vertex["f_rest_2"], scene.sh[:, 3, 0].numpy())
    np.testing.assert_array_equal(vertex["opacity"], scene.opacity_logits.numpy())
    unit = scene.quats / scene.quats.norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(vertex["rot_0"], unit[:, 0].numpy(), atol=1e-7)


def test_file_frame_is_right_down_away(tmp_path: Path, generator: torch.Generator) -> None:
    scene = random_scene(5, 1, generator)
    write_splat(scene, tmp_path / "a.ply")
    vertex = PlyData.read(str(tmp_path / "a.ply"))["vertex"]
    x, y, z = scene.means.T.numpy()
    np.testing.assert_array_equal(vertex["x"], y)
    np.testing.assert_array_equal(vertex["y"], -z)
    np.testing.assert_array_equal(vertex["z"], -x)
    quats = torch.from_numpy(np.stack([vertex[f"rot_{k}"] for k in range(4)], axis=1))
    expected = torch.tensor(WORLD_TO_RDF) @ quat_to_rotmat(scene.quats)
    torch.testing.assert_close(quat_to_rotmat(quats), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("matrix", [WORLD_TO_RDF, WORLD_TO_RUB, "random"])
def test_turned_harmonics_are_the_turned_function(
    generator: torch.Generator, matrix: object
) -> None:
    if matrix == "random":
        quat = torch.randn(4, generator=generator, dtype=torch.float64)
        rotation = quat_to_rotmat(quat)
    else:
        rotation = torch.tensor(matrix, dtype=torch.float64)
    coefficients = torch.randn(20, 16, 3, generator=generator, dtype=torch.float64)
    directions = random_directions(20, generator)
    mixing = torch.from_numpy(sh_rotation(rotation.numpy(), 3))
    turned = torch.einsum("jk,nkc->njc", mixing, coefficients)
    before = eval_sh(coefficients, directions)
    after = eval_sh(turned, directions @ rotation.T)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)


def test_mirrors_are_refused(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="rotation"):
        rotate_gaussians(random_scene(2, 1, generator), torch.diag(torch.tensor([1.0, 1.0, -1.0])))


def test_padding_adds_zero_coefficients(tmp_path: Path, generator: torch.Generator) -> None:
    scene = random_scene(6, 4, generator)
    write_splat(scene, tmp_path / "a.ply", SplatOptions(pad_sh3=True))
    back = read_splat(tmp_path / "a.ply")
    assert back.sh.shape == (6, 16, 3)
    torch.testing.assert_close(back.sh[:, :4], scene.sh, rtol=1e-5, atol=2e-6)
    assert back.sh[:, 4:].abs().max() == 0


def test_same_scene_same_bytes(tmp_path: Path, generator: torch.Generator) -> None:
    scene = random_scene(40, 16, generator)
    write_splat(scene, tmp_path / "a.ply")
    write_splat(scene, tmp_path / "b.ply")
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()


def test_zero_quaternion_becomes_no_turn(tmp_path: Path, generator: torch.Generator) -> None:
    scene = random_scene(2, 1, generator)
    scene.quats.zero_()
    write_splat(scene, tmp_path / "a.ply", SplatOptions(frame="world"))
    assert read_splat(tmp_path / "a.ply", frame="world").quats.tolist() == [[1, 0, 0, 0]] * 2


def test_nothing_and_nan_are_not_written(tmp_path: Path, generator: torch.Generator) -> None:
    scene = random_scene(3, 1, generator)
    with pytest.raises(ExportError, match="empty"):
        write_splat(scene.select(torch.zeros(3, dtype=torch.bool)), tmp_path / "a.ply")
    scene.log_scales[1, 2] = math.inf
    with pytest.raises(ExportError, match="1 values of log_scales"):
        write_splat(scene, tmp_path / "a.ply")
    assert list(tmp_path.iterdir()) == []


def test_a_splat_of_another_program_is_read(tmp_path: Path) -> None:
    """Big endian, doubles, shuffled, without normals, with a comment and an extra column."""
    names = "scale_0 x y z extra opacity rot_3 rot_0 rot_1 rot_2 f_dc_2 f_dc_1 f_dc_0".split()
    names += ["scale_1", "scale_2"]
    header = "ply\nformat binary_big_endian 1.0\ncomment hello\nelement vertex 1\n"
    header += "".join(f"property double {name}\n" for name in names) + "end_header\n"
    values = dict.fromkeys(names, 0.25) | {"rot_0": 2.0, "rot_1": 0, "rot_2": 0, "rot_3": 0, "x": 3}
    row = np.array([values[name] for name in names], dtype=">f8").tobytes()
    (tmp_path / "a.ply").write_bytes(header.encode() + row)
    scene = read_splat(tmp_path / "a.ply", frame="world")
    assert scene.means.tolist() == [[3.0, 0.25, 0.25]]
    assert scene.quats.tolist() == [[1.0, 0.0, 0.0, 0.0]]
    assert scene.sh.shape == (1, 1, 3)


class TestHostileFiles:
    """Every bad file ends in one readable error, before memory is spent on its claims."""

    @pytest.fixture
    def good(self, tmp_path: Path, generator: torch.Generator) -> Path:
        write_splat(random_scene(10, 4, generator), tmp_path / "a.ply")
        return tmp_path / "a.ply"

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(InputFileError, match="no file"):
            load_ply(tmp_path / "none.ply")

    @pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"ply", b"<html>", b"ply\nformat x"])
    def test_no_ply(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.ply").write_bytes(content)
        with pytest.raises(InputFileError, match="not a PLY"):
            load_ply(tmp_path / "a.ply")

    def test_truncated(self, good: Path) -> None:
        good.write_bytes(good.read_bytes()[:-30])
        with pytest.raises(InputFileError, match="truncated"):
            load_ply(good)

    def test_huge_count(self, good: Path) -> None:
        patched(good, b"element vertex 10", b"element vertex 999999999999999999999999")
        with pytest.raises(InputFileError, match="truncated"):
            load_ply(good)

    @pytest.mark.parametrize("count", [b"-4", b"1e3", b"ten", b"1 2"])
    def test_bad_count(self, good: Path, count: bytes) -> None:
        patched(good, b"element vertex 10", b"element vertex " + count)
        with pytest.raises(InputFileError):
            load_ply(good)

    def test_list_property(self, good: Path) -> None:
        patched(good, b"property float nx", b"property list uint float nx")
        with pytest.raises(InputFileError, match="lists"):
            load_ply(good)

    def test_unknown_type(self, good: Path) -> None:
        patched(good, b"property float nx", b"property quad nx")
        with pytest.raises(InputFileError, match="header"):
            load_ply(good)

    def test_other_f_rest_count(self, good: Path) -> None:
        patched(good, b"property float f_rest_8", b"property float unknown_")
        with pytest.raises(InputFileError, match="8 f_rest"):
            load_ply(good)

    def test_point_cloud(self, good: Path) -> None:
        patched(good, b"property float opacity", b"property float quality")
        with pytest.raises(InputFileError, match="lacks opacity"):
            load_ply(good)

    def test_mesh(self, good: Path) -> None:
        patched(good, b"end_header", b"element face 0\nproperty list uchar int i\nend_header")
        patched(good, b"property float scale_0", b"property float quality")
        with pytest.raises(InputFileError, match="A mesh cannot"):
            load_ply(good)

    def test_not_finite(self, good: Path) -> None:
        data = good.read_bytes()
        good.write_bytes(data[:-4] + np.array([np.nan], "<f4").tobytes())
        with pytest.raises(InputFileError, match="NaN"):
            read_splat(good)

    def test_damaged_header_line(self, good: Path) -> None:
        patched(good, b"binary_little_endian", b"binary_middle_endian")
        with pytest.raises(InputFileError):
            load_ply(good)

"""Camera files and the render command: cameras see what they should, wrong files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from scenes import splats_for
from vlm3d_gs.cli import app
from vlm3d_gs.core.cameras import orbit
from vlm3d_gs.core.errors import ConfigError, ExportError, InputFileError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import load_png
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.render import render
from vlm3d_gs.show.camera_file import read_cameras, write_stills
from vlm3d_gs.show.pictures import color_of

EYE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3], [0, 0, 0, 1]]
K = [[50, 0, 30], [0, 60, 20], [0, 0, 1]]


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    return splats_for("a red cube behind a cyan sphere")


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "cameras.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_orbit_entry_is_that_orbit_and_defaults_are_the_products(tmp_path: Path) -> None:
    entries = [
        {"azimuth_deg": 30, "elevation_deg": -10, "distance": 2, "fov_deg": 50, "width": 40},
        {"azimuth_deg": 90},
    ]
    first, second = read_cameras(written(tmp_path, entries), 48)
    expected = orbit(30, -10, 2, 50, 40, 48)
    torch.testing.assert_close(first.viewmats, expected.viewmats)
    torch.testing.assert_close(first.Ks, expected.Ks)
    assert (first.width, first.height) == (40, 48)
    torch.testing.assert_close(second.viewmats, orbit(90, 15, 3.1, 40, 48, 48).viewmats)


def test_an_orbit_written_as_matrices_is_the_same_camera(tmp_path: Path) -> None:
    camera = orbit(200.0, 35.0, 2.5, 45.0, 64, 48)
    entry = {"viewmat": camera.viewmats[0].tolist(), "K": camera.Ks[0].tolist()}
    (back,) = read_cameras(written(tmp_path, [{**entry, "width": 64, "height": 48}]))
    torch.testing.assert_close(back.viewmats, camera.viewmats)
    torch.testing.assert_close(back.Ks, camera.Ks)
    torch.testing.assert_close(back.azimuths_deg % 360, camera.azimuths_deg)
    torch.testing.assert_close(back.elevations_deg, camera.elevations_deg)
    torch.testing.assert_close(back.distances, camera.distances)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Cannot read cameras"),
        ("[" * 100_000, "Cannot read cameras"),
        ({"azimuth_deg": 1}, "list of 1 to 10000 cameras"),
        ([], "list of 1 to 10000 cameras"),
        ([{"azimuth_deg": 1}, 7], "camera 1: should be an object"),
        ([{"azimuth": 1}], "camera 0: unknown 'azimuth'. Known: azimuth_deg"),
        ([{"elevation_deg": 1}], "lacks 'azimuth_deg'"),
        ([{"azimuth_deg": "x"}], "azimuth_deg should be a number, is 'x'"),
        ('[{"azimuth_deg": NaN}]', "azimuth_deg should be a number"),
        (
            [{"azimuth_deg": 1, "elevation_deg": 91}],
            "camera 0: .*elevations_deg must be in -90..90",
        ),
        ([{"azimuth_deg": 1, "fov_deg": 180}], "fov_deg must be above 0"),
        (
            [{"azimuth_deg": 1, "width": 10**6}],
            "width should be a whole number of pixels, 1 to 8192",
        ),
        ([{"viewmat": EYE, "K": K, "width": 8}], "height should be a whole number"),
        ([{"viewmat": EYE, "width": 8, "height": 8}], "lacks 'K'"),
        ([{"viewmat": EYE[:3], "K": K, "width": 8, "height": 8}], "4 rows of 4 finite numbers"),
        (
            [{"viewmat": [[2, 0, 0, 0], *EYE[1:]], "K": K, "width": 8, "height": 8}],
            "not a rotation",
        ),
        ([{"viewmat": EYE, "K": [[0, 0, 1]] * 3, "width": 8, "height": 8}], "positive focal"),
        (
            [{"viewmat": EYE, "K": K, "width": 8, "height": 8, "azimuth_deg": 1}],
            "unknown 'azimuth_deg'",
        ),
    ],
)
def test_an_entry_that_is_no_camera_is_reported_with_its_number(
    tmp_path: Path, content: Any, message: str
) -> None:
    with pytest.raises(InputFileError, match=message):
        read_cameras(written(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="Cannot read cameras"):
        read_cameras(tmp_path / "nothing.json")


def test_render_writes_what_the_cameras_see(scene: Gaussians, tmp_path: Path) -> None:
    write_splat(scene, tmp_path / "scene.ply")
    cameras = written(tmp_path, [{"azimuth_deg": 40}, {"azimuth_deg": 40, "height": 20}])
    arguments = ["render", str(tmp_path / "scene.ply"), "--cameras", str(cameras)]
    arguments += ["--out", str(tmp_path / "stills"), "--size-px", "40", "--background", "#ff0000"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    files = sorted((tmp_path / "stills").iterdir())
    assert [path.name for path in files] == ["0000.png", "0001.png"]
    assert load_png(files[1]).shape == (20, 40, 3)
    camera = orbit(40.0, 15.0, 3.1, 40.0, 40, 40)
    red = (1.0, 0.0, 0.0)
    expected = render(read_splat(tmp_path / "scene.ply"), camera, background=red).color[0]
    torch.testing.assert_close(
        load_png(files[0]), expected.clamp(0, 1), atol=0.5 / 255 + 1e-6, rtol=0
    )


def test_one_camera_may_go_to_one_file_and_several_may_not(
    scene: Gaussians, tmp_path: Path
) -> None:
    cameras = read_cameras(written(tmp_path, [{"azimuth_deg": 0}, {"azimuth_deg": 90}]), 24)
    (path,) = write_stills(scene, cameras[:1], tmp_path / "one.png")
    assert load_png(path).shape == (24, 24, 3)
    with pytest.raises(ExportError, match="need a folder for their pictures, got two.png"):
        write_stills(scene, cameras, tmp_path / "two.png")
    with pytest.raises(ExportError, match="Cannot write .*where"):
        write_stills(scene, cameras, tmp_path / "no" / "where")


def test_backgrounds_are_words_hex_or_numbers() -> None:
    assert color_of("White") == (1.0, 1.0, 1.0)
    assert color_of("#336699") == pytest.approx((0.2, 0.4, 0.6))
    assert color_of("0, .5,1.0") == (0.0, 0.5, 1.0)
    for wrong in ("red", "#12345", "1,2,3", "1,1", "nan,0,0", "1e-1,0,0", ""):
        with pytest.raises(ConfigError, match="A background must be white, grey, black"):
            color_of(wrong)


def test_depth_is_shown_beside_a_turntable_and_not_beside_stills(
    scene: Gaussians, tmp_path: Path
) -> None:
    write_splat(scene, tmp_path / "scene.ply")
    start = ["render", str(tmp_path / "scene.ply"), "--out", str(tmp_path / "turn.png")]
    start += ["--size-px", "32", "--overwrite"]
    result = CliRunner().invoke(app, [*start, "--beside", "depth", "--background", "black"])
    assert result.exit_code == 0, result.output
    first = load_png(tmp_path / "turn.png")[:32, :64]
    left, right = first[:, :32], first[:, 32:]
    assert float((right[..., 0] - right[..., 2]).abs().max()) < 0.01  # grey
    assert float((left[..., 0] - left[..., 2]).abs().max()) > 0.2  # red and cyan
    covered = [(part.amax(-1) > 0.1) for part in (left, right)]
    assert float((covered[0] == covered[1]).float().mean()) > 0.95
    result = CliRunner().invoke(app, [*start, "--beside", "height"])
    assert (result.exit_code, "is not one of 'depth', 'normal'" in result.stderr) == (2, True)
    cameras = written(tmp_path, [{"azimuth_deg": 0}])
    result = CliRunner().invoke(app, [*start, "--beside", "depth", "--cameras", str(cameras)])
    assert (result.exit_code, "is for turntables" in result.stderr) == (2, True)

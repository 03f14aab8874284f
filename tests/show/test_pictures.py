"""Turntables, sheets and framing: videos, grids, labelled sheets, any scene in view."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from scenes import splats_for
from vlm3d_gs.core.cameras import turntable_cameras
from vlm3d_gs.core.errors import ConfigError, ExportError
from vlm3d_gs.core.gaussians import Gaussians, concatenate
from vlm3d_gs.core.images import WHITE, load_png
from vlm3d_gs.formats.convert import read_splat, write_splat
from vlm3d_gs.show import framing
from vlm3d_gs.show.framing import framed, render_frames
from vlm3d_gs.show.sheet import write_preview, write_sheet
from vlm3d_gs.show.turntable import GRID_COLUMNS, GRID_FRAMES, render_turntable


@pytest.fixture(scope="module")
def scene() -> Gaussians:
    """The cyan sphere covers part of the red cube only from the front."""
    return splats_for("a red cube behind a cyan sphere")


def red_share(picture: np.ndarray) -> float:
    """Share of the pixels that are plainly red."""
    pixels = picture.astype(np.float32)
    return float(((pixels[..., 0] > 100) & (pixels[..., 2] < 90)).mean())


def test_mp4_has_the_requested_duration_and_size_and_turns(
    scene: Gaussians, tmp_path: Path
) -> None:
    path = tmp_path / "turn.mp4"
    render_turntable(scene, path, seconds=1.5, fps=8, size_px=65)
    assert list(tmp_path.iterdir()) == [path]
    with av.open(str(path)) as container:
        (stream,) = container.streams.video
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (66, 66)  # rounded up to even
        assert (stream.average_rate, float(container.duration / av.time_base)) == (8, 1.5)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 12
    front, back = red_share(frames[0]), red_share(frames[6])
    assert back > 1.5 * front  # frame 0 is the front view, frame 6 the back view
    np.testing.assert_allclose(frames[0][2, 2] / 255, framing.BACKGROUND, atol=0.02)


def test_gif_loops_through_all_frames(scene: Gaussians, tmp_path: Path) -> None:
    render_turntable(scene, tmp_path / "turn.GIF", seconds=0.5, fps=10, size_px=48)
    with Image.open(tmp_path / "turn.GIF") as picture:
        assert picture.n_frames == 5
        assert picture.info["loop"] == 0
        assert picture.info["duration"] == 100
        assert picture.size == (48, 48)


def test_png_is_a_grid_of_stills(scene: Gaussians, tmp_path: Path) -> None:
    render_turntable(scene, tmp_path / "turn.png", size_px=40, background=(0.0, 0.0, 0.0))
    rows = GRID_FRAMES // GRID_COLUMNS
    picture = load_png(tmp_path / "turn.png")
    assert picture.shape == (rows * 42 - 2, GRID_COLUMNS * 42 - 2, 3)
    assert picture[0, 0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["turn.webm", "turn", "turn.ply"])
def test_unknown_suffix_is_refused_before_rendering(
    scene: Gaussians, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ExportError, match=r"\.mp4, \.gif, \.webp, \.png"):
        render_turntable(scene, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"seconds": 0.0}, {"fps": 0}, {"size_px": 2}])
def test_settings_out_of_range_are_refused(
    scene: Gaussians, tmp_path: Path, wrong: dict[str, float]
) -> None:
    with pytest.raises(ConfigError, match="turntable needs"):
        render_turntable(scene, tmp_path / "turn.gif", **wrong)


def test_an_empty_scene_is_refused(scene: Gaussians, tmp_path: Path) -> None:
    nothing = scene.select(torch.zeros(len(scene), dtype=torch.bool))
    for write in (render_turntable, write_sheet, write_preview):
        with pytest.raises(ExportError, match="no Gaussians"):
            write(nothing, tmp_path / "a.png")


def test_sheet_shows_front_and_back_where_the_labels_say(scene: Gaussians, tmp_path: Path) -> None:
    write_sheet(scene, tmp_path / "sheet.png", size_px=64)
    picture = (load_png(tmp_path / "sheet.png").numpy() * 255).round()
    assert picture.shape == (2 * 66 - 2, 4 * 66 - 2, 3)
    front, right, back, left = (picture[:64, k * 66 : k * 66 + 64] for k in range(4))
    assert red_share(back) > 1.5 * red_share(front)
    # The red cube is at smaller x: on the right half of what the camera at +y sees.
    columns = np.arange(64)
    for view, side in ((right, 1), (left, -1)):
        red = (view[..., 0] > 100) & (view[..., 2] < 90)
        assert side * (float((red * columns).sum() / red.sum()) - 31.5) > 3
    write_sheet(scene, tmp_path / "again.png", size_px=64)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "sheet.png").read_bytes()


def test_preview_is_the_sheets_first_row(scene: Gaussians, tmp_path: Path) -> None:
    write_preview(scene, tmp_path / "preview.png", size_px=64)
    write_sheet(scene, tmp_path / "sheet.png", size_px=64)
    first_row = load_png(tmp_path / "sheet.png")[:64]
    assert torch.equal(load_png(tmp_path / "preview.png"), first_row)


def moved(scene: Gaussians, size: float, place: float) -> Gaussians:
    return Gaussians.from_parameters(
        {
            **scene.parameters(),
            "means": scene.means * size + place,
            "log_scales": scene.log_scales + np.log(size),
        }
    )


@pytest.mark.parametrize(("size", "place"), [(1e-3, 0.0), (0.2, 0.4), (40.0, 100.0), (2e3, -1e4)])
def test_a_scene_of_any_size_anywhere_fills_the_picture_alike(
    scene: Gaussians, size: float, place: float
) -> None:
    expected, close = framed(scene), framed(moved(scene, size, place))
    torch.testing.assert_close(close.means, expected.means, rtol=0, atol=2e-3)
    torch.testing.assert_close(close.log_scales, expected.log_scales, rtol=0, atol=1e-3)
    reach = expected.means.norm(dim=-1) + 2 * expected.scales.amax(dim=-1)
    assert 0.9 < float(reach.quantile(0.99)) <= 1.01


def test_floaters_do_not_decide(scene: Gaussians) -> None:
    """One part in twenty, opaque and far on one side."""
    rows = torch.arange(len(scene) // 20)
    floaters = moved(scene.select(rows), 5.0, 30.0)
    floaters.opacity_logits.fill_(5.0)
    center, radius = framing.bounds(scene)
    center_with, radius_with = framing.bounds(concatenate([scene, floaters]))
    assert radius_with == pytest.approx(radius, rel=0.03)
    assert float((center_with - center).norm()) < 0.03 * radius


def test_a_run_keeps_its_scale_unless_it_leaves_its_place(scene: Gaussians) -> None:
    assert framed(scene, own=True) is scene
    assert framed(moved(scene, 0.5, 0.0), own=True).means.abs().max() <= 0.5
    assert framed(moved(scene, 4.0, 0.0), own=True).means.norm(dim=-1).quantile(0.9) < 1


@pytest.mark.parametrize("n", [1, 5])
def test_gaussians_in_one_place_far_away_are_brought_to_a_sensible_size(n: int) -> None:
    place = {
        "means": torch.full((n, 3), 1e6),
        "log_scales": torch.full((n, 3), -2.0),
        "quats": torch.ones(n, 4),
        "opacity_logits": torch.ones(n),
        "sh": torch.zeros(n, 1, 3),
    }
    close = framed(Gaussians(**place))
    torch.testing.assert_close(close.means, torch.zeros(n, 3))
    half = torch.full((n, 3), 0.5).log()  # two standard deviations are what is seen
    torch.testing.assert_close(close.log_scales, half, atol=1e-5, rtol=0)


def test_frames_do_not_depend_on_the_chunks(
    scene: Gaussians, monkeypatch: pytest.MonkeyPatch
) -> None:
    cameras = turntable_cameras(5, 10.0, 3.0, 40.0, 32, 32)
    whole = torch.stack(list(render_frames(scene, cameras, WHITE, "cpu")))
    monkeypatch.setattr(framing, "CHUNK_PIXELS", 2 * 32 * 32)
    chunked = torch.stack(list(render_frames(scene, cameras, WHITE, "cpu")))
    torch.testing.assert_close(chunked, whole)


def test_a_sheet_has_four_views_a_row(scene: Gaussians, tmp_path: Path) -> None:
    write_sheet(scene, tmp_path / "sheet.png")
    assert load_png(tmp_path / "sheet.png").shape[1] == 4 * 258 - 2


def test_ply_round_trip_renders_the_same(scene: Gaussians, tmp_path: Path) -> None:
    write_splat(scene, tmp_path / "scene.ply")
    cameras = turntable_cameras(3, 10.0, 3.0, 40.0, 48, 48)
    before = torch.stack(list(render_frames(scene, cameras, WHITE, "cpu")))
    back = read_splat(tmp_path / "scene.ply")
    after = torch.stack(list(render_frames(back, cameras, WHITE, "cpu")))
    torch.testing.assert_close(after, before, rtol=0, atol=2e-5)

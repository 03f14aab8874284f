"""Films: the previews in order, with their steps, and the final scene; videos as WebP."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from scenes import splats_for
from vlm3d_gs.cli import app
from vlm3d_gs.core.errors import ConfigError, ExportError, InputFileError
from vlm3d_gs.core.images import save_png
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.show.film import BAR_PX, CAPTION_PX, HOLD, write_film
from vlm3d_gs.show.turntable import render_turntable
from vlm3d_gs.show.video import write_video

SHADES = {5: 0.2, 10: 0.5, 100: 0.8}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 200 steps with three flat previews of different greys, and its scene."""
    folder = tmp_path / "run"
    (folder / "previews").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"config": {"train": {"steps": 200}}}))
    (folder / "summary.json").write_text(json.dumps({"steps": 200}))
    for step, shade in SHADES.items():
        save_png(torch.full((32, 134, 3), shade), folder / "previews" / f"step_{step}.png")
    (folder / "previews" / "notes.png").write_bytes(b"not a preview")
    write_splat(splats_for("a red cube"), folder / "scene.ply")
    return folder


def frames(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    height = (32 + BAR_PX + CAPTION_PX) // 2 * 2
    return np.stack(shown).reshape(-1, height, 134, 3) / 255.0


def test_a_film_shows_the_previews_in_order_and_then_the_scene(run: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["film", str(run), "-o", str(tmp_path / "film.mp4")])
    assert result.exit_code == 0, result.output
    assert "4 pictures" in result.stdout
    shown = frames(tmp_path / "film.mp4")
    assert len(shown) == 3 + HOLD
    greys = shown[:3, 4:28].mean(axis=(1, 2, 3))
    np.testing.assert_allclose(greys, list(SHADES.values()), atol=0.03)
    red = shown[-1, :32, :, 0] - shown[-1, :32, :, 2]
    assert float(red.max()) > 0.3
    bars = shown[:, 33:36]
    blue = ((bars[..., 2] - bars[..., 0]) > 0.3).mean(axis=(1, 2))
    np.testing.assert_allclose(blue[:4], [5 / 200, 10 / 200, 100 / 200, 1.0], atol=0.05)
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", ["film.gif", "film.webp"])
def test_animations_loop_and_have_the_duration_asked_for(
    run: Path, tmp_path: Path, name: str
) -> None:
    write_film(run, tmp_path / name, seconds=3.5)
    with Image.open(tmp_path / name) as picture:
        assert picture.info["loop"] == 0
        durations = []
        for index in range(picture.n_frames):
            picture.seek(index)
            picture.load()
            durations.append(picture.info["duration"])
    assert sum(durations) == pytest.approx(3500, abs=20)


def test_a_run_without_previews_names_the_setting_that_makes_them(
    run: Path, tmp_path: Path
) -> None:
    for path in (run / "previews").iterdir():
        path.unlink()
    with pytest.raises(InputFileError, match="train.preview_every=0.025"):
        write_film(run, tmp_path / "film.mp4")
    with pytest.raises(InputFileError, match=r"no config\.json"):
        write_film(tmp_path, tmp_path / "film.mp4")


def test_wrong_names_lengths_and_broken_previews_leave_no_file(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"\.mp4, \.gif, \.webp"):
        write_film(run, tmp_path / "film.avi")
    for seconds in (0.0, float("nan"), 1e9):
        with pytest.raises(ConfigError, match="0.05 to 3600 seconds"):
            write_film(run, tmp_path / "film.mp4", seconds=seconds)
    (run / "previews" / "step_10.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    with pytest.raises(InputFileError, match=r"step_10\.png is not a readable PNG file"):
        write_film(run, tmp_path / "film.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_turntable_may_be_webp(tmp_path: Path) -> None:
    render_turntable(
        splats_for("a red cube"), tmp_path / "turn.webp", seconds=0.5, fps=10, size_px=48
    )
    with Image.open(tmp_path / "turn.webp") as picture:
        assert (picture.format, picture.n_frames, picture.size) == ("WEBP", 5, (48, 48))
        assert picture.info["loop"] == 0


def test_video_of_odd_sides_loses_the_last_pixel_only(tmp_path: Path) -> None:
    picture = torch.zeros(17, 19, 3)
    picture[:, 9:] = 1.0
    write_video(iter([picture] * 3), tmp_path / "odd.mp4", 10)
    with av.open(str(tmp_path / "odd.mp4")) as container:
        (stream,) = container.streams.video
        assert (stream.width, stream.height) == (18, 16)

"""One turn around the object: a video, an animated GIF, or a grid of stills."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import torch
from PIL import Image
from torch import Tensor

from vlm3d_gs.cameras import turntable_cameras
from vlm3d_gs.errors import ConfigError, ExportError
from vlm3d_gs.export.framing import BACKGROUND, DISTANCE, FOV_DEG, framed, render_frames
from vlm3d_gs.files import atomic_path
from vlm3d_gs.images import Color, save_png, tile_grid, to_uint8
from vlm3d_gs.render import Backend
from vlm3d_gs.scene import Gaussians

SUFFIXES = (".mp4", ".gif", ".png")
GRID_FRAMES, GRID_COLUMNS = 12, 4
"""A PNG shows this many evenly spaced stills, in rows of so many."""
VIDEO_QUALITY = 8
"""imageio-ffmpeg's scale, 1 to 10."""


def render_turntable(
    gaussians: Gaussians,
    path: str | Path,
    *,
    seconds: float = 4.0,
    fps: int = 24,
    size_px: int = 256,
    elevation_deg: float = 15.0,
    background: Color = BACKGROUND,
    backend: Backend = "auto",
) -> None:
    """Write a turntable; the suffix chooses the kind.

    `.mp4` is H.264 in yuv420p, `.gif` loops for ever, `.png` is a grid of `GRID_FRAMES` stills.
    The turn starts at the front and grows in azimuth. Scenes larger than the unit ball are scaled.

    Args:
        gaussians: the scene.
        path: the file, ending in one of `SUFFIXES`; replaced if it exists.
        seconds: length of the whole turn, above 0; no matter for `.png`.
        fps: frames a second, at least 1; GIF rounds a frame's time to 10 ms.
        size_px: side of the square frames, at least 16; rounded up to even for `.mp4`.
        elevation_deg: height of the camera, -90 to 90.
        background: colour behind the object.
        backend: as in `render.render`.

    Raises:
        ExportError: another suffix, no Gaussians, or the folder does not exist.
        ConfigError: a length, rate or size out of range.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SUFFIXES:
        raise ExportError(
            f"Cannot write a turntable to {target.name!r}: the name must end in one of "
            f"{', '.join(SUFFIXES)}."
        )
    if len(gaussians) == 0:
        raise ExportError("There is nothing to show: the scene has no Gaussians.")
    if not seconds > 0 or fps < 1 or size_px < 16:
        raise ConfigError(
            f"A turntable needs seconds > 0, fps >= 1 and size_px >= 16, got seconds={seconds}, "
            f"fps={fps}, size_px={size_px}."
        )
    count = GRID_FRAMES if suffix == ".png" else max(1, round(seconds * fps))
    side = size_px + size_px % 2 if suffix == ".mp4" else size_px
    cameras = turntable_cameras(count, elevation_deg, DISTANCE, FOV_DEG, side, side)
    frames = render_frames(framed(gaussians), cameras, background, backend)
    with atomic_path(target) as temporary:
        if suffix == ".mp4":
            _write_mp4(frames, temporary, side, fps)
        elif suffix == ".gif":
            _write_gif(frames, temporary, fps)
        else:
            save_png(tile_grid(torch.stack(list(frames)), GRID_COLUMNS, fill=background), temporary)


def _write_mp4(frames: Iterator[Tensor], path: Path, side: int, fps: int) -> None:
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (side, side),
        fps=fps,
        quality=VIDEO_QUALITY,
        codec="libx264",
        pix_fmt_in="rgb24",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        output_params=["-movflags", "+faststart"],
    )
    try:
        writer.send(None)
        for frame in frames:
            writer.send(to_uint8(frame).tobytes())
    except OSError as error:
        raise ExportError(f"The video encoder failed while writing {path.name}: {error}") from error
    finally:
        writer.close()


def _write_gif(frames: Iterator[Tensor], path: Path, fps: int) -> None:
    pictures = [Image.fromarray(to_uint8(frame)).quantize(128) for frame in frames]
    pictures[0].save(
        path,
        format="GIF",
        save_all=True,
        append_images=pictures[1:],
        duration=max(20, round(100 / fps) * 10),
        loop=0,
    )

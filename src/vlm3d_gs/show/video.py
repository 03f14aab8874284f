"""Frames to files that move: H.264 video, and animated GIF and WebP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import torch
from PIL import Image
from torch import Tensor

from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.images import to_uint8

MOVING = (".mp4", ".gif", ".webp")
VIDEO_QUALITY = 8
"""imageio-ffmpeg's scale, 1 to 10."""
WEBP_QUALITY = 85


def write_moving(frames: Iterator[Tensor], path: Path, fps: float) -> None:
    """Write frames as a moving picture; the suffix chooses the kind.

    `.mp4` is H.264 in yuv420p (an odd side is cut by its last pixel), `.gif` and `.webp` loop for ever.

    Args:
        frames: at least one [H, W, 3], all of one size, 0 to 1.
        path: where to write; replaced if it exists.
        fps: frames a second; GIF rounds a frame's time to 10 ms, and knows none below 20 ms.

    Raises:
        ExportError: the suffix is none of `MOVING`, or the encoder fails.
    """
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        _write_mp4(frames, path, fps)
    elif suffix == ".gif":
        duration = max(20, round(100 / fps) * 10)
        pictures = [Image.fromarray(to_uint8(frame)).quantize(128) for frame in frames]
        _save(pictures, path, "GIF", duration=duration)
    elif suffix == ".webp":
        pictures = [Image.fromarray(to_uint8(frame)) for frame in frames]
        _save(pictures, path, "WEBP", duration=round(1000 / fps), quality=WEBP_QUALITY, method=4)
    else:
        raise ExportError(
            f"Cannot write a moving picture to {path.name!r}: the name must end in one of "
            f"{', '.join(MOVING)}."
        )


def _save(pictures: list[Image.Image], path: Path, kind: str, **settings: int) -> None:
    pictures[0].save(
        path, format=kind, save_all=True, append_images=pictures[1:], loop=0, **settings
    )


def _write_mp4(frames: Iterator[Tensor], path: Path, fps: float) -> None:
    first = next(frames)
    height, width = (side - side % 2 for side in first.shape[:2])
    writer = imageio_ffmpeg.write_frames(
        str(path),
        (width, height),
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
        writer.send(_cut(first, height, width))
        for frame in frames:
            writer.send(_cut(frame, height, width))
    except OSError as error:
        raise ExportError(f"The video encoder failed while writing {path.name}: {error}") from error
    finally:
        writer.close()


def _cut(frame: Tensor, height: int, width: int) -> bytes:
    return to_uint8(frame[:height, :width].to(torch.float32)).tobytes()

"""Encoding frames as video: H.264, and animated GIF and WebP."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.images import to_uint8

VIDEO_SUFFIXES = (".mp4", ".gif", ".webp")
CONSTANT_RATE_FACTOR = 10
"""x264's scale, 0 (lossless) to 51; 10 shows no difference to the eye."""
WEBP_QUALITY = 85


def write_video(frames: Iterator[Tensor], path: Path, fps: float) -> None:
    """Write frames as a video; the suffix chooses the format.

    `.mp4` is H.264 in yuv420p (an odd side loses its last pixel), `.gif` and `.webp` loop forever.

    Args:
        frames: at least one [H, W, 3], all of one size, 0 to 1.
        path: where to write; replaced if it exists.
        fps: frames per second; GIF rounds the duration of a frame to 10 ms, at least 20 ms.

    Raises:
        ExportError: the suffix is not in `VIDEO_SUFFIXES`, or the encoder fails.
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
            f"Cannot write a video to {path.name!r}: the name must end in one of "
            f"{', '.join(VIDEO_SUFFIXES)}."
        )


def _save(pictures: list[Image.Image], path: Path, kind: str, **settings: int) -> None:
    pictures[0].save(
        path, format=kind, save_all=True, append_images=pictures[1:], loop=0, **settings
    )


def _write_mp4(frames: Iterator[Tensor], path: Path, fps: float) -> None:
    """Stream frames to the encoder one by one, so that memory does not grow with the length."""
    import av

    first = next(frames)
    # yuv420p halves the colour in both directions, so both sides must be even.
    height, width = (side - side % 2 for side in first.shape[:2])

    try:
        with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": str(CONSTANT_RATE_FACTOR)}

            for frame in chain([first], frames):
                pixels = to_uint8(frame[:height, :width].to(torch.float32))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    except OSError:
        # The encoder's errors of the file system are Python's own kinds, too: the caller knows the cure.
        raise
    except av.FFmpegError as error:
        raise ExportError(f"The video encoder failed while writing {path.name}: {error}") from error

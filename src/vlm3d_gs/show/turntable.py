"""One turn around the object: a video, an animated GIF or WebP, or a grid of stills."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vlm3d_gs.core.cameras import Cameras, turntable_cameras
from vlm3d_gs.core.errors import ConfigError, ExportError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import Color, save_png, tile_grid
from vlm3d_gs.render import Backend, render
from vlm3d_gs.show.framing import BACKGROUND, DISTANCE, FOV_DEG, framed, render_frames
from vlm3d_gs.show.surfaces import BESIDE, Beside, surface_pictures
from vlm3d_gs.show.video import VIDEO_SUFFIXES, write_video

SUFFIXES = (*VIDEO_SUFFIXES, ".png")
MOST_SECONDS, MOST_FPS, MOST_PX = 3600.0, 120, 4096
"""Longest turn, most frames per second and largest side of a frame."""
MOST_ANIMATED = 2**29
"""Pixels of all frames of a GIF or WebP, which are held until the end: 1.5 GB."""
GRID_FRAMES, GRID_COLUMNS = 12, 4
"""Evenly spaced stills in a PNG, and how many are in a row."""
REACH_QUANTILE = 0.98
"""Share of the Gaussians that lie within the depth range of a depth image."""


def render_turntable(
    gaussians: Gaussians,
    path: str | Path,
    *,
    seconds: float = 4.0,
    fps: int = 24,
    size_px: int = 256,
    elevation_deg: float = 15.0,
    background: Color = BACKGROUND,
    beside: Beside | None = None,
    backend: Backend = "auto",
) -> None:
    """Write a turntable; the suffix chooses the format.

    `.mp4` is H.264 in yuv420p, `.gif` and `.webp` loop forever, `.png` is a grid of `GRID_FRAMES` stills.
    The turn starts at the front and increases in azimuth. Scenes larger than the unit ball are scaled.

    Args:
        gaussians: the scene.
        path: the file, ending in one of `SUFFIXES`; replaced if it exists.
        seconds: duration of the turn, above 0; ignored for `.png`.
        fps: frames per second, at least 1; GIF rounds the duration of a frame to 10 ms.
        size_px: side of the square frames, at least 16; rounded up to even for `.mp4`.
        elevation_deg: elevation of the camera, -90 to 90.
        background: colour behind the object.
        beside: what is shown to the right of each frame, at the same size: depth (near is bright)
            or normals (in the camera's axes: red right, green up, blue towards it).
        backend: as in `render.render`.

    Raises:
        ExportError: another suffix, no Gaussians, or the folder does not exist.
        ConfigError: a duration, rate or size out of range, or an unknown `beside`.
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
    if not (0 < seconds <= MOST_SECONDS and 1 <= fps <= MOST_FPS and 16 <= size_px <= MOST_PX):
        raise ConfigError(
            f"A turntable needs seconds > 0 (at most {MOST_SECONDS:g}), fps >= 1 (at most {MOST_FPS}) and "
            f"size_px >= 16 (at most {MOST_PX}), got seconds={seconds}, fps={fps}, size_px={size_px}."
        )
    if beside is not None and beside not in BESIDE:
        raise ConfigError(f"beside must be one of {', '.join(BESIDE)}, got {beside!r}.")

    count = GRID_FRAMES if suffix == ".png" else max(1, round(seconds * fps))
    side = size_px + size_px % 2 if suffix == ".mp4" else size_px
    if suffix in (".gif", ".webp") and count * side**2 > MOST_ANIMATED:
        raise ConfigError(
            f"A {suffix} is encoded as a whole, and {count} frames of {side} x {side} pixels are too many. "
            "Lower seconds or size_px, or write .mp4."
        )
    cameras = turntable_cameras(count, elevation_deg, DISTANCE, FOV_DEG, side, side)

    # Frames are generated as they are encoded, so memory does not grow with the duration.
    scene = framed(gaussians)
    if beside is None:
        frames = render_frames(scene, cameras, background, backend)
    else:
        frames = _pairs(scene, cameras, background, beside, backend)

    with atomic_path(target) as temporary:
        if suffix == ".png":
            save_png(tile_grid(torch.stack(list(frames)), GRID_COLUMNS, fill=background), temporary)
        else:
            write_video(frames, temporary, fps)


def _pairs(
    gaussians: Gaussians, cameras: Cameras, background: Color, beside: Beside, backend: Backend
) -> Iterator[Tensor]:
    """Yield frames with a render and its depth or normals side by side, [H, 2 W, 3] on the host."""
    reach = gaussians.means.detach().norm(dim=-1).sort().values
    radius = float(reach[int(REACH_QUANTILE * (len(reach) - 1))].clamp(0.01, 1.0))
    depths = (DISTANCE - radius, DISTANCE + radius)

    for index in range(len(cameras)):
        camera = cameras.select([index]).to(gaussians.device)
        with torch.no_grad():
            rendering = render(gaussians, camera, backend=backend, background=background)
            shape = surface_pictures(rendering, camera, beside, background, depths)
        yield torch.cat([rendering.color, shape], dim=2)[0].cpu()

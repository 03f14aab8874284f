"""Pictures of a splat file: a turntable, or stills from the cameras of a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians, concatenate
from vlm3d_gs.core.images import Color
from vlm3d_gs.formats.convert import read_as
from vlm3d_gs.formats.options import ReadOptions
from vlm3d_gs.runs.objects import object_files
from vlm3d_gs.show.camera_file import read_cameras, write_stills
from vlm3d_gs.show.framing import BACKGROUND
from vlm3d_gs.show.surfaces import BESIDE, Beside
from vlm3d_gs.show.turntable import render_turntable

NAMED = {"white": (1.0, 1.0, 1.0), "grey": BACKGROUND, "black": (0.0, 0.0, 0.0)}


def render_pictures(
    splat: Path,
    out: Path,
    *,
    seconds: float = 4.0,
    size_px: int = 256,
    elevation_deg: float = 15.0,
    background: str | None = None,
    beside: str | None = None,
    cameras: Path | None = None,
    only: Sequence[str] = (),
    reading: ReadOptions | None = None,
) -> list[Path]:
    """Render a splat file.

    Args:
        splat: the file.
        out: the turntable (see `turntable.SUFFIXES`); with `cameras` a folder, or a .png.
        seconds: duration of the turn.
        size_px: side of the pictures, unless a camera has its own size.
        elevation_deg: elevation of the turntable's camera.
        background: as `color_of` reads it; None is the products' grey.
        beside: depth or normal, shown beside each frame of a turntable.
        cameras: a camera file; see `camera_file`.
        only: names of objects of the scene that the file belongs to, which are shown without the others; empty for
            all that the file holds.
        reading: how to read the splat; None for the defaults.

    Returns:
        The files written.

    Raises:
        ConfigError: a setting out of range, `beside` together with `cameras`, or an object that the scene lacks.
        InputFileError: the splat or the cameras cannot be read.
        ExportError: the output cannot be written.
    """
    color = BACKGROUND if background is None else color_of(background)

    if cameras is not None:
        if beside is not None:
            raise ConfigError("--beside is for turntables. Drop it, or drop --cameras.")
        views = read_cameras(cameras, size_px)
        return write_stills(_read(splat, only, reading), views, out, background=color)

    render_turntable(
        _read(splat, only, reading),
        out,
        seconds=seconds,
        size_px=size_px,
        elevation_deg=elevation_deg,
        background=color,
        beside=_beside(beside),
    )
    return [out]


def _read(splat: Path, only: Sequence[str], reading: ReadOptions | None) -> Gaussians:
    """Return what a file holds, or some objects of its scene."""
    if not only:
        return read_as(splat, reading)
    return concatenate([read_as(file, reading) for file in object_files(splat, only)])


def color_of(text: str) -> Color:
    """Return the colour of a name, #rrggbb, or three numbers from 0 to 1.

    Raises:
        ConfigError: it is none of these.

    Example:
        >>> color_of("#ff8000")[0], color_of("0,0.5,1")
        (1.0, (0.0, 0.5, 1.0))
    """
    word = text.strip().lower()
    if word in NAMED:
        return NAMED[word]

    if re.fullmatch(r"#[0-9a-f]{6}", word):
        red, green, blue = (int(word[at : at + 2], 16) / 255 for at in (1, 3, 5))
        return red, green, blue

    numbers = word.split(",")
    if len(numbers) == 3 and all(re.fullmatch(r"\s*\d*\.?\d+\s*", text) for text in numbers):
        red, green, blue = (float(text) for text in numbers)
        if max(red, green, blue) <= 1.0:
            return red, green, blue

    raise ConfigError(
        f"A background must be {', '.join(NAMED)}, #rrggbb, or r,g,b from 0 to 1, got {text!r}."
    )


def _beside(name: str | None) -> Beside | None:
    for known in BESIDE:
        if name == known:
            return known
    if name is None:
        return None
    raise ConfigError(f"--beside must be {' or '.join(BESIDE)}, got {name!r}.")

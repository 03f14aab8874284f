"""Which pictures of a splat file are wanted: one turn around it, or stills through given cameras."""

from __future__ import annotations

import re
from pathlib import Path

from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.images import Color
from vlm3d_gs.formats.convert import read_splat
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
) -> list[Path]:
    """Render a splat file.

    Args:
        splat: the file.
        out: a turntable's file (see `turntable.SUFFIXES`); with `cameras` a folder, or a .png.
        seconds: length of the turn.
        size_px: side of the pictures, where a camera does not say its size.
        elevation_deg: height of the turning camera.
        background: as `color_of` reads it; None is the products' grey.
        beside: depth or normal, beside a turntable's picture.
        cameras: a camera file; see `camera_file`.

    Returns:
        The files written.

    Raises:
        ConfigError: a setting out of range, or `beside` together with `cameras`.
        InputFileError: splat or cameras cannot be read.
        ExportError: it cannot be written there.
    """
    shade = BACKGROUND if background is None else color_of(background)
    if cameras is not None:
        if beside is not None:
            raise ConfigError("--beside belongs to a turntable; leave it away with --cameras.")
        views = read_cameras(cameras, size_px)
        return write_stills(read_splat(splat), views, out, background=shade)
    render_turntable(
        read_splat(splat),
        out,
        seconds=seconds,
        size_px=size_px,
        elevation_deg=elevation_deg,
        background=shade,
        beside=_beside(beside),
    )
    return [out]


def color_of(text: str) -> Color:
    """Return the colour that a word, #rrggbb, or three numbers from 0 to 1 stand for.

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
    parts = word.split(",")
    if len(parts) == 3 and all(re.fullmatch(r"\s*\d*\.?\d+\s*", part) for part in parts):
        red, green, blue = (float(part) for part in parts)
        if max(red, green, blue) <= 1.0:
            return red, green, blue
    raise ConfigError(
        f"A background is {', '.join(NAMED)}, #rrggbb, or r,g,b from 0 to 1; got {text!r}."
    )


def _beside(name: str | None) -> Beside | None:
    for known in BESIDE:
        if name == known:
            return known
    if name is None:
        return None
    raise ConfigError(f"--beside must be {' or '.join(BESIDE)}, got {name!r}.")

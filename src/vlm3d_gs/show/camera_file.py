"""Cameras from a JSON file, and stills rendered from them.

The file is a list. An entry is a position on an orbit, or a complete pinhole camera:

    [{"azimuth_deg": 30, "elevation_deg": 15, "distance": 3.1, "fov_deg": 40},
     {"viewmat": [[...], [...], [...], [0, 0, 0, 1]], "K": [[fx, 0, cx], [0, fy, cy], [0, 0, 1]],
      "width": 640, "height": 480}]

Angles are in degrees, lengths in world units, `fov_deg` is vertical; `elevation_deg`, `distance` and
`fov_deg` default to those of the product cameras. `viewmat` maps world to camera with OpenCV axes,
`K` is in pixels. `width` and `height` are optional on an orbit and required with `K`.
docs/CONVENTIONS.md describes the axes. A scene is rendered in our world frame without framing.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from vlm3d_gs.core.cameras import Cameras, orbit
from vlm3d_gs.core.errors import ExportError, InputFileError
from vlm3d_gs.core.files import writing
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import Color, save_png
from vlm3d_gs.render import Backend
from vlm3d_gs.show.framing import BACKGROUND, DISTANCE, FOV_DEG, render_frames

ORBIT = {"azimuth_deg", "elevation_deg", "distance", "fov_deg"}
PINHOLE = {"viewmat", "K"}
SIZE = {"width", "height"}
ELEVATION_DEG = 15.0
MAX_PX = 8192
"""Longest side of a picture."""
MAX_CAMERAS = 10_000


def read_cameras(path: str | Path, size_px: int = 512) -> list[Cameras]:
    """Read a camera file.

    Args:
        path: the JSON file.
        size_px: side of the pictures of entries without a size.

    Returns:
        Batches of one camera each, in the order of the file, since sizes may differ.

    Raises:
        InputFileError: no such file, not JSON, or an entry that is not a camera; the message has
            its number, counted from 0.
    """
    source = Path(path)
    try:
        entries = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputFileError(f"Cannot read cameras from {source}: {error}") from error

    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_CAMERAS:
        raise InputFileError(
            f"{source} should hold a list of 1 to {MAX_CAMERAS} cameras, such as "
            '[{"azimuth_deg": 30, "elevation_deg": 15}].'
        )

    cameras = []
    for index, entry in enumerate(entries):
        try:
            cameras.append(_camera(entry, size_px))
        except InputFileError as error:
            raise InputFileError(f"{source}, camera {index}: {error}") from error
        except ValueError as error:  # from `orbit`, for a value out of range
            raise InputFileError(f"{source}, camera {index}: {error}") from error
    return cameras


def write_stills(
    gaussians: Gaussians,
    cameras: list[Cameras],
    out: str | Path,
    *,
    background: Color = BACKGROUND,
    backend: Backend = "auto",
) -> list[Path]:
    """Render each camera to a PNG.

    Args:
        gaussians: the scene, rendered without framing.
        cameras: as `read_cameras` returns them.
        out: a .png for one camera; else a folder, created if needed, for 0000.png, 0001.png, ...
        background: colour behind the scene.
        backend: as in `render.render`.

    Returns:
        The files, one per camera.

    Raises:
        ExportError: several cameras and a single .png, or the folder cannot be created.
    """
    target = Path(out)
    if target.suffix.lower() == ".png":
        if len(cameras) != 1:
            raise ExportError(
                f"{len(cameras)} cameras need a folder for their pictures, got {target.name}. Name a folder."
            )
        paths = [target]
    else:
        with writing(target):
            target.mkdir(exist_ok=True)
        paths = [target / f"{index:04d}.png" for index in range(len(cameras))]

    for path, camera in zip(paths, cameras, strict=True):
        (frame,) = render_frames(gaussians, camera, background, backend)
        save_png(frame, path)
    return paths


def _camera(entry: Any, size_px: int) -> Cameras:
    """Return the camera of an entry; the caller adds file and number to the error."""
    if not isinstance(entry, dict):
        raise InputFileError(f"should be an object, is {entry!r:.60}.")

    known = (PINHOLE if PINHOLE & set(entry) else ORBIT) | SIZE
    unknown = sorted(set(entry) - known)
    if unknown:
        raise InputFileError(
            f"unknown {', '.join(map(repr, unknown))}. Known: {', '.join(sorted(known))}."
        )

    if PINHOLE & set(entry):
        return _pinhole(entry)

    width, height = (_side(entry, name, size_px) for name in ("width", "height"))
    return orbit(
        _number(entry, "azimuth_deg", None),
        _number(entry, "elevation_deg", ELEVATION_DEG),
        _number(entry, "distance", DISTANCE),
        _number(entry, "fov_deg", FOV_DEG),
        width,
        height,
    )


def _pinhole(entry: dict[str, Any]) -> Cameras:
    """Return a camera from `viewmat` and `K`; its orbit angles follow from where it is."""
    viewmat, K = _matrix(entry, "viewmat", 4), _matrix(entry, "K", 3)
    width, height = _side(entry, "width", None), _side(entry, "height", None)

    rotation = viewmat[:3, :3]
    identity = torch.eye(3, dtype=rotation.dtype)
    proper = torch.allclose(rotation @ rotation.T, identity, atol=1e-3)
    if not proper or float(torch.linalg.det(rotation)) < 0 or viewmat[3].tolist() != [0, 0, 0, 1]:
        raise InputFileError(
            "viewmat is not a rotation with a translation: its rows should be orthonormal and "
            "right-handed, the last one 0 0 0 1."
        )
    if float(K[0, 0]) <= 0 or float(K[1, 1]) <= 0:
        raise InputFileError("K needs positive focal lengths, in pixels.")

    eye = -rotation.T @ viewmat[:3, 3]
    distance = eye.norm()
    azimuth = torch.rad2deg(torch.atan2(eye[1], eye[0]))
    elevation = torch.rad2deg(torch.asin((eye[2] / distance.clamp_min(1e-12)).clamp(-1, 1)))
    orbit_position = (azimuth[None], elevation[None], distance[None])
    return Cameras(viewmat[None], K[None], width, height, *orbit_position).to(dtype=torch.float32)


def _matrix(entry: dict[str, Any], name: str, side: int) -> torch.Tensor:
    if name not in entry:
        raise InputFileError(f"lacks {name!r}.")

    rows = entry[name]
    square = isinstance(rows, list) and len(rows) == side
    square = square and all(isinstance(row, list) and len(row) == side for row in rows)
    if not square or not all(_finite(value) for row in rows for value in row):
        raise InputFileError(f"{name} should be {side} rows of {side} finite numbers.")
    return torch.tensor(rows, dtype=torch.float64)


def _number(entry: dict[str, Any], name: str, default: float | None) -> float:
    value: Any = entry.get(name, default)
    if not _finite(value):
        raise InputFileError(
            f"lacks {name!r}."
            if name not in entry
            else f"{name} should be a number, is {value!r:.60}."
        )
    return float(value)


def _side(entry: dict[str, Any], name: str, default: int | None) -> int:
    value = entry.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_PX:
        raise InputFileError(
            f"{name} should be a whole number of pixels, 1 to {MAX_PX}, is {value!r:.60}."
        )
    return value


def _finite(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < 1e30
        and math.isfinite(value)
    )

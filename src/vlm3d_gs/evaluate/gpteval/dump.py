"""The pictures that GPTEval3D wants of a method: 120 views a scene, in colour and as normals.

Its loader reads `methods/NAME/PROMPT_ID/SEED/rgb_0.png ... rgb_119.png` and as many `normal_*.png`, takes every name in
NAME that does not begin with a dot for a number, and only ever opens SEED 0. So seeds are numbered from 0 in each
prompt, and what they were is kept in a hidden file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vlm3d_gs.core.cameras import Cameras, turntable_cameras
from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.core.files import TEMPORARY, make_folder, writing
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.core.images import WHITE, Color
from vlm3d_gs.evaluate.gpteval.scanlines import color_scanlines, normal_scanlines, png
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.render import Backend, Rendering, render
from vlm3d_gs.show.framing import DISTANCE, FOV_DEG, framed

VIEWS = 120
"""Views of a scene, evenly spaced; the first is the front."""
SIZE_PX = 512
"""Side of a picture."""
ELEVATION_DEG = 15.0
"""Elevation of all views, as in threestudio's test set, which GPTEval3D asks for."""
BACKGROUND: Color = WHITE
PROOF = ".vlm3d-gs.json"
"""What a folder of pictures was made of; hidden, since GPTEval3D's loader takes other names for numbers."""
CHUNK = 8
"""Views rendered in one call."""
ENCODERS = 4
"""Threads that compress pictures while the next ones are rendered."""


@dataclass(frozen=True, slots=True)
class Source:
    """A scene to be shown, and where its pictures belong."""

    splat: Path
    """The file."""
    prompt_id: int
    """Index of its prompt in prompts.json."""
    number: int
    """Its number among the scenes of the prompt, from 0."""
    seed: int | None
    """The seed it was made with, for the record."""


def dump_method(
    sources: Sequence[Source],
    folder: str | Path,
    *,
    size_px: int = SIZE_PX,
    backend: Backend = "auto",
    on_scene: Callable[[Source, bool], None] | None = None,
) -> int:
    """Write the pictures of all scenes of a method; those that are there already are kept.

    Args:
        sources: what to show.
        folder: of the method, made if missing.
        size_px: side of the pictures.
        backend: as in `render.render`.
        on_scene: called after each scene, with whether it had to be rendered.

    Returns:
        Number of pictures written.

    Raises:
        ConfigError: a size out of range.
        InputFileError: a splat cannot be read.
        WriteError: the file system refuses.
    """
    if not 16 <= size_px <= 2048:
        raise ConfigError(f"Pictures must have a side of 16 to 2048 px, got {size_px}.")
    written = 0
    for source in sources:
        place = Path(folder) / str(source.prompt_id) / str(source.number)
        proof = {
            "splat": source.splat.name,
            "sha256": sha256(_bytes(source.splat)).hexdigest(),
            "seed": source.seed,
            "size_px": size_px,
            "views": VIEWS,
        }
        fresh = not _is_there(place, proof)
        if fresh:
            dump_scene(read_splat(source.splat), place, proof, size_px=size_px, backend=backend)
            written += 2 * VIEWS
        if on_scene is not None:
            on_scene(source, fresh)
    return written


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputFileError(f"Cannot read {path}: {error}") from error


def _is_there(place: Path, proof: dict[str, Any]) -> bool:
    try:
        found: object = json.loads((place / PROOF).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return found == proof


def dump_scene(
    gaussians: Gaussians,
    place: Path,
    proof: dict[str, Any],
    *,
    size_px: int = SIZE_PX,
    backend: Backend = "auto",
) -> None:
    """Write the pictures of one scene, all of them or none; an earlier folder is replaced.

    Args:
        gaussians: at least one; scenes that are larger or elsewhere are moved into view.
        place: the folder of the pictures.
        proof: what they are made of.
        size_px: side of the pictures.
        backend: as in `render.render`.

    Raises:
        InputFileError: no Gaussians.
        WriteError: the file system refuses.
    """
    if len(gaussians) == 0:
        raise InputFileError(f"There is nothing to show in {place}: the scene has no Gaussians.")
    unfinished = place.with_name(f"{TEMPORARY}{place.name}")
    with writing(place):
        shutil.rmtree(unfinished, ignore_errors=True)
        make_folder(unfinished)
        try:
            _write_pictures(framed(gaussians, own=True), unfinished, size_px, backend)
            (unfinished / PROOF).write_text(json.dumps(proof, indent=1) + "\n", encoding="utf-8")
            if place.exists():
                shutil.rmtree(place)
            unfinished.rename(place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _write_pictures(gaussians: Gaussians, folder: Path, size_px: int, backend: Backend) -> None:
    """Render in chunks, and compress one chunk while the next is rendered."""
    cameras = turntable_cameras(VIEWS, ELEVATION_DEG, DISTANCE, FOV_DEG, size_px, size_px)
    waiting: list[Future[None]] = []
    with ThreadPoolExecutor(ENCODERS) as threads:
        for start, views, rendering in _renderings(gaussians, cameras, backend):
            for done in waiting:
                done.result()
            waiting = [
                threads.submit(_write_view, rendering, views, index, folder, start + index)
                for index in range(len(views))
            ]
        for done in waiting:
            done.result()


def _renderings(
    gaussians: Gaussians, cameras: Cameras, backend: Backend
) -> Iterator[tuple[int, Cameras, Rendering]]:
    for start in range(0, len(cameras), CHUNK):
        views = cameras.select(slice(start, start + CHUNK))
        with torch.no_grad():
            found = render(
                gaussians, views.to(gaussians.device), backend=backend, background=BACKGROUND
            )
        yield start, views, found


def _write_view(
    rendering: Rendering, views: Cameras, index: int, folder: Path, number: int
) -> None:
    color, depth, alpha = (
        np.ascontiguousarray(plane[index].detach().cpu().float().numpy())
        for plane in (rendering.color, rendering.depth, rendering.alpha)
    )
    height, width = color.shape[:2]
    lines = np.empty((height, 1 + 3 * width), np.uint8)
    color_scanlines(color, lines)
    (folder / f"rgb_{number}.png").write_bytes(png(lines))

    backdrop = np.array(BACKGROUND, np.float32)
    normal_scanlines(depth[..., 0], alpha[..., 0], views.Ks[index].numpy(), backdrop, lines)
    (folder / f"normal_{number}.png").write_bytes(png(lines))

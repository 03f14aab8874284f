"""What a run leaves in its folder: the splat in the formats that were asked for, films, pictures, a page."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from vlm3d_gs.config import Config, ExportFormat
from vlm3d_gs.core.errors import ConfigError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.registry import write_splat
from vlm3d_gs.runs.record import read_record
from vlm3d_gs.show.page import write_page
from vlm3d_gs.show.sheet import write_sheet
from vlm3d_gs.show.turntable import render_turntable

SPLATS = ("ply", "compressed.ply", "splat", "spz", "sog", "glb", "usdc")
FILMS = ("mp4", "gif", "webp")


def product_name(kind: str) -> str:
    """Return the file name of a product in a run's folder.

    Raises:
        ConfigError: unknown product; the known ones are listed.
    """
    if kind in SPLATS:
        return f"scene.{kind}"
    if kind in FILMS:
        return f"turntable.{kind}"
    if kind == "sheet":
        return "sheet.png"
    if kind == "html":
        return "scene.html"
    if kind == "mesh":
        return "mesh.glb"
    raise ConfigError(
        f"Unknown product {kind!r} in export.formats. Available: {', '.join(get_args(ExportFormat))}."
    )


def write_products(gaussians: Gaussians, config: Config) -> tuple[Path, ...]:
    """Write what `export.formats` asks for into the run folder, all but the mesh; return the files."""
    export, backend = config.export, config.render.backend
    files = []
    for kind in export.formats:
        path = config.out / product_name(kind)
        if kind == "mesh":
            continue  # `mesh` stands above this area; the pipeline asks it
        if kind in SPLATS:
            write_splat(gaussians, path)
        elif kind in FILMS:
            render_turntable(
                gaussians,
                path,
                seconds=export.turntable_s,
                fps=export.turntable_fps,
                size_px=export.turntable_px,
                elevation_deg=export.elevation_deg,
                backend=backend,
            )
        elif kind == "sheet":
            write_sheet(gaussians, path, backend=backend)
        else:
            write_page(gaussians, path, name=config.prompt, record=read_record(config.out))
        files.append(path)
    return tuple(files)

"""Writes what a run leaves in its folder: splats, turntables, the sheet, the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vlm3d_gs.config import Config
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.core.errors import ConfigError, ExportError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.runs.record import read_record
from vlm3d_gs.show.page import write_page
from vlm3d_gs.show.sheet import write_sheet
from vlm3d_gs.show.turntable import render_turntable


def write_products(
    gaussians: Gaussians, config: Config, announce: Callable[[str], None]
) -> tuple[tuple[Path, ...], str]:
    """Write what `export.formats` names into the run folder: splats first, the mesh last.

    Args:
        gaussians: the scene.
        config: the run; its folder must exist.
        announce: called with a line as soon as a splat is there, since films take longer.

    Returns:
        The files, and why the mesh could not be made, empty if it was: a sound scene may have no closed surface.

    Raises:
        ExportError: another product cannot be written.
    """
    files = []
    quick_first = sorted(config.export.formats, key=lambda name: PRODUCTS[name].kind != "splat")
    for name in quick_first:
        kind = PRODUCTS[name].kind
        if kind != "mesh":
            path = config.out / PRODUCTS[name].file
            _write(gaussians, path, kind, config)
            files.append(path)
            if kind == "splat":
                announce(f"{path} is there")

    if "mesh" not in config.export.formats:
        return tuple(files), ""

    from vlm3d_gs.mesh import extract_mesh, write_mesh

    path = config.out / PRODUCTS["mesh"].file
    try:
        write_mesh(extract_mesh(gaussians, backend=config.render.backend), path)
    except (ExportError, ConfigError) as error:
        return tuple(files), str(error)
    return (*files, path), ""


def _write(gaussians: Gaussians, path: Path, kind: str, config: Config) -> None:
    export, backend = config.export, config.render.backend

    if kind == "splat":
        write_splat(gaussians, path)
    elif kind == "turntable":
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

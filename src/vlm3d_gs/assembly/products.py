"""Writes what a run leaves in its folder: splats, turntables, the sheet, the page."""

from __future__ import annotations

from pathlib import Path

from vlm3d_gs.config import Config
from vlm3d_gs.config.products import PRODUCTS
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.runs.record import read_record
from vlm3d_gs.show.page import write_page
from vlm3d_gs.show.sheet import write_sheet
from vlm3d_gs.show.turntable import render_turntable


def write_products(gaussians: Gaussians, config: Config) -> tuple[Path, ...]:
    """Write what `export.formats` names into the run folder, except the mesh; return the files.

    The mesh may fail on a sound scene, so the pipeline makes it last.
    """
    export, backend = config.export, config.render.backend
    files = []
    for name in export.formats:
        product = PRODUCTS[name]
        path = config.out / product.file
        if product.kind == "mesh":
            continue

        if product.kind == "splat":
            write_splat(gaussians, path)
        elif product.kind == "turntable":
            render_turntable(
                gaussians,
                path,
                seconds=export.turntable_s,
                fps=export.turntable_fps,
                size_px=export.turntable_px,
                elevation_deg=export.elevation_deg,
                backend=backend,
            )
        elif product.kind == "sheet":
            write_sheet(gaussians, path, backend=backend)
        else:
            write_page(gaussians, path, name=config.prompt, record=read_record(config.out))
        files.append(path)
    return tuple(files)

"""Writes what a run leaves in its folder: splats, turntables, the sheet, the page."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from vlm3d_gs.config import Config
from vlm3d_gs.config.products import PRODUCTS, Product
from vlm3d_gs.core.errors import Vlm3dGsError, WriteError
from vlm3d_gs.core.files import make_folder
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.formats.convert import write_splat
from vlm3d_gs.runs.record import read_record
from vlm3d_gs.show.page import write_page
from vlm3d_gs.show.sheet import write_sheet
from vlm3d_gs.show.turntable import render_turntable


@dataclass
class Written:
    """What became of the products."""

    files: list[Path] = field(default_factory=list)
    """Those that are there, elsewhere if need be."""
    failures: list[Vlm3dGsError] = field(default_factory=list)
    """Why others are not, or not in the run's folder."""
    elsewhere: Path | None = None
    """Folder of what could not be written into the run's; None if nothing had to."""


def write_products(
    gaussians: Gaussians, config: Config, announce: Callable[[str], None]
) -> Written:
    """Write what `export.formats` names into the run folder: splats first, the mesh last.

    Each is written whatever becomes of the others, and in a temporary folder where the run's takes it no longer.

    Args:
        gaussians: the scene.
        config: the run.
        announce: called with a line as soon as a splat is there, since films take longer.
    """
    written = Written()
    unforeseen: list[Exception] = []

    rows = [PRODUCTS[name] for name in config.export.formats]
    for row in sorted(rows, key=lambda row: (row.kind == "mesh", row.kind != "splat")):
        try:
            path = _write_somewhere(gaussians, row, config, written)
        except Vlm3dGsError as error:
            written.failures.append(error)
        except Exception as error:
            # A mistake of ours: the other products are written before anybody hears of it.
            unforeseen.append(error)
        else:
            written.files.append(path)
            if row.kind == "splat":
                announce(f"{path} is there")

    if unforeseen:
        raise unforeseen[0]
    return written


def _write_somewhere(gaussians: Gaussians, row: Product, config: Config, written: Written) -> Path:
    """Write a product into the run's folder, or else into a temporary one; return the file."""
    try:
        make_folder(config.out)
        _write(gaussians, config.out / row.file, row.kind, config)
        return config.out / row.file
    except WriteError as error:
        refused = error

    for place in (tempfile.gettempdir(), Path.cwd(), Path.home()):
        made = None
        try:
            if written.elsewhere is None:
                made = Path(tempfile.mkdtemp(prefix="vlm3d-gs-", dir=place))
            folder = written.elsewhere or made
            assert folder is not None
            _write(gaussians, folder / row.file, row.kind, config)
        except OSError:
            if made is not None:
                made.rmdir()
            continue

        written.elsewhere = folder
        written.failures.append(refused)
        return folder / row.file

    raise WriteError(str(refused)) from refused


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
    elif kind == "mesh":
        from vlm3d_gs.mesh import extract_mesh, write_mesh

        write_mesh(extract_mesh(gaussians, backend=backend), path)
    else:
        write_page(gaussians, path, name=config.prompt, record=read_record(config.out))

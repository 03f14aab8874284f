"""From a run or a splat file to a mesh file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.formats.convert import read_as
from vlm3d_gs.formats.options import ReadOptions
from vlm3d_gs.mesh.extract import MeshSettings, extract_mesh
from vlm3d_gs.mesh.solid import count_parts
from vlm3d_gs.mesh.writers import files_of, mesh_format, write_mesh
from vlm3d_gs.render import Backend
from vlm3d_gs.runs.record import find_splat


@dataclass(frozen=True, slots=True)
class MeshReport:
    """What was written."""

    files: tuple[Path, ...]
    """The mesh first, then its companions."""
    faces: int
    """Triangles."""
    parts: int
    """Separate surfaces."""
    silhouette_iou: float
    """Intersection over union of the surface's silhouettes and those of the renders, before decimation."""
    seconds: float
    """Wall-clock time."""


def make_mesh(
    source: str | Path,
    out: str | Path,
    settings: MeshSettings | None = None,
    *,
    overwrite: bool = False,
    reading: ReadOptions | None = None,
    device: torch.device | str = "cpu",
    backend: Backend = "auto",
) -> MeshReport:
    """Make the mesh of a run or a splat file.

    Args:
        source: a run's folder, or a splat file of any format.
        out: the mesh file; its suffix chooses the format.
        settings: None for the defaults.
        overwrite: replace files that exist.
        reading: how to read the splat; None for the defaults.
        device: where density or depth is computed.
        backend: as in `render.render`.

    Raises:
        ExportError: unknown suffix, a file exists or is the splat itself, its folder does not exist, or the
            scene is not solid.
        InputFileError: there is no splat, or it cannot be read.
        ConfigError: a setting that the scene does not allow.
    """
    started = time.monotonic()
    color = mesh_format(out).color
    _check_target(Path(out), overwrite)
    splat, _ = find_splat(Path(source))
    _check_not_source(splat, out)

    gaussians = read_as(splat, reading).to(device)
    mesh = extract_mesh(gaussians, settings, color=color, backend=backend)
    write_mesh(mesh, out)

    return MeshReport(
        files=files_of(out),
        faces=len(mesh.solid.faces),
        parts=count_parts(mesh.solid),
        silhouette_iou=mesh.fit.iou,
        seconds=time.monotonic() - started,
    )


def describe(report: MeshReport) -> str:
    """Return the report as one line of text."""
    parts = "1 part" if report.parts == 1 else f"{report.parts} parts"
    names = ", ".join(str(file) for file in report.files)
    return (
        f"written to {names}: {report.faces} faces, {parts}, "
        f"silhouettes match {report.silhouette_iou:.1%}, {report.seconds:.1f} s"
    )


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.parent.is_dir():
        raise ExportError(
            f"Cannot write {out}: the folder {out.parent} does not exist. Create it first."
        )
    present = [file for file in files_of(out) if file.exists()]
    if present and not overwrite:
        raise ExportError(
            f"{', '.join(str(file) for file in present)} exists already. Give another name, or --overwrite."
        )


def _check_not_source(splat: Path, out: str | Path) -> None:
    if any(file.exists() and file.samefile(splat) for file in files_of(out)):
        raise ExportError(
            f"{splat} is the splat itself; a mesh there would replace it. Give another name."
        )

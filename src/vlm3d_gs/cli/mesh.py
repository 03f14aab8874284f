"""`vlm3d-gs mesh`: a splat in, a closed textured mesh out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vlm3d_gs.cli.options import AsPoints, FrameOfSplat, OverwriteFile, RunOrSplat
from vlm3d_gs.config import Backend
from vlm3d_gs.formats.options import ReadOptions


def mesh(
    source: RunOrSplat,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="What to write: .glb, .obj, .ply (vertex colours) or .stl. Default: RUN/mesh.glb or "
            "SPLAT-mesh.glb.",
        ),
    ] = None,
    method: Annotated[
        Literal["density", "tsdf"],
        typer.Option(help="Source of the surface: density of the Gaussians, or rendered depth."),
    ] = "density",
    resolution: Annotated[int, typer.Option(help="Voxels along the longest side.")] = 128,
    faces: Annotated[int, typer.Option(help="Largest number of triangles.")] = 20_000,
    texture_px: Annotated[int, typer.Option(help="Side of the texture.")] = 1024,
    min_part: Annotated[
        float,
        typer.Option(
            help="Drop parts smaller than this fraction of the largest; 1 keeps only that."
        ),
    ] = 0.02,
    backend: Annotated[Backend, typer.Option(help="Renderer.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    overwrite: OverwriteFile = False,
    frame: FrameOfSplat = None,
    as_points: AsPoints = False,
) -> None:
    """Extract a mesh from a splat: the outer surface, closed, with the splat's colours."""
    from vlm3d_gs.assembly.device import choose_device
    from vlm3d_gs.mesh.extract import MeshSettings
    from vlm3d_gs.mesh.product import describe, make_mesh
    from vlm3d_gs.render import choose_backend
    from vlm3d_gs.runs.record import default_output

    where = choose_device(device)
    settings = MeshSettings(method, resolution, faces, texture_px, min_part)
    report = make_mesh(
        source,
        out or default_output(source, "mesh.glb"),
        settings,
        overwrite=overwrite,
        reading=ReadOptions(frame, as_points),
        device=where,
        backend=choose_backend(backend, where),
    )
    typer.echo(describe(report))

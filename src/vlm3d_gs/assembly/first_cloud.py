"""What a scene starts from: a cloud that is drawn, or what a file holds: a splat, points, or a mesh."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from vlm3d_gs.config import SceneConfig
from vlm3d_gs.core.errors import ConfigError, InputFileError
from vlm3d_gs.core.gaussians import Gaussians, with_sh_degree
from vlm3d_gs.core.initialize import ball, shell
from vlm3d_gs.formats.convert import read_as
from vlm3d_gs.formats.options import Frame, ReadOptions
from vlm3d_gs.formats.ply.header import read_header
from vlm3d_gs.formats.ply.points import as_balls
from vlm3d_gs.formats.world import to_gaussians
from vlm3d_gs.show.framing import framed

Kind = Literal["splat", "points", "mesh"]
DRAWN = {"ball": ball, "shell": shell}
SPLAT_COLUMNS = {"scale_0", "f_dc_0", "packed_position"}
"""Any of these in the vertices of a PLY makes it a splat."""
MESHES = (".obj", ".stl", ".off")
EXTENSION = b"KHR_gaussian_splatting"


def first_cloud(scene: SceneConfig, random: torch.Generator) -> Gaussians:
    """Return the Gaussians that a run starts from, inside the unit ball.

    Raises:
        ConfigError: `scene.init` is no way to draw and no file, or it holds more than `scene.max_gaussians`.
        InputFileError: as `cloud_of_file`.
    """
    if scene.init in DRAWN:
        return DRAWN[scene.init](
            scene.n_init,
            scene.radius,
            random,
            opacity=scene.opacity,
            color_noise=0.05,
            sh_degree=scene.sh_degree,
        )

    path = Path(scene.init)
    if not path.exists():
        raise ConfigError(
            f"scene.init must be 'ball', 'shell' or a file with a splat, points or a mesh, got {scene.init!r}."
        )
    seed = int(torch.randint(2**31, (1,), generator=random))
    cloud = framed(cloud_of_file(path, scene.n_init, seed), own=True)
    if len(cloud) > scene.max_gaussians:
        raise ConfigError(
            f"{path} holds {len(cloud)} Gaussians, and scene.max_gaussians is {scene.max_gaussians}. Raise it, or thin "
            f"the file out first: vlm3d-gs convert {path} fewer.ply --decimate {scene.max_gaussians}"
        )
    return with_sh_degree(cloud, max(cloud.sh_degree, scene.sh_degree))


def cloud_of_file(
    path: Path, count: int, seed: int = 0, reading: ReadOptions | None = None
) -> Gaussians:
    """Return what a file holds as Gaussians of our world, where and as large as it is there.

    Args:
        path: a splat of any format; a point cloud as PLY, of which each point becomes a ball; or a mesh as OBJ, STL,
            OFF, PLY with faces, or glTF, on whose surface balls are placed.
        count: Gaussians of a mesh.
        seed: of where they are placed.
        reading: how to read it; None for what the file or the custom of its format says. Meshes are y up, STL is z up.

    Raises:
        InputFileError: it cannot be read as any of these.
    """
    options = reading or ReadOptions()
    kind = kind_of(path)
    if kind == "splat":
        return read_as(path, options)
    if kind == "points":
        return read_as(path, replace(options, as_points=True))

    # Trimesh, for meshes alone.
    from vlm3d_gs.assembly.surfaces import surface_points

    usual: Frame = "world" if path.suffix.lower() == ".stl" else "rub"
    positions, colors = surface_points(path, count, seed)
    return to_gaussians(as_balls(positions, colors, options.frame or usual), path)


def kind_of(path: Path) -> Kind:
    """Return what a file holds, as far as its name and its beginning tell; a splat if nothing else is known.

    Raises:
        InputFileError: it cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in MESHES:
        return "mesh"
    if suffix in (".glb", ".gltf"):
        return "splat" if EXTENSION in _gltf_text(path) else "mesh"
    if suffix != ".ply" or not path.is_file():
        return "splat"

    tables = {table.name: table for table in read_header(path).tables}
    if "vertex" not in tables or SPLAT_COLUMNS & {*tables["vertex"].names}:
        return "splat"
    return "mesh" if "face" in tables and tables["face"].count > 0 else "points"


def _gltf_text(path: Path) -> bytes:
    """Return the document of a glTF file."""
    try:
        with path.open("rb") as stream:
            head = stream.read(20)
            if head[:4] != b"glTF" or len(head) < 20:
                return head + stream.read()
            return stream.read(struct.unpack("<I", head[12:16])[0])
    except OSError as error:
        raise InputFileError(f"{path} cannot be read: {error}") from error

"""Tells a mesh from a splat, and counts what is in it, so that `info` on the wrong kind of file helps.

Only headers and counts: nothing here draws or converts a mesh. The formats are those that `vlm3d-gs mesh` writes.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GLB_MAGIC, JSON_CHUNK = b"glTF", b"JSON"
MOST_HEADER = 2**26
"""Bytes of a header that are read."""
TRIANGLES = 4
"""The mode of glTF's primitives that are triangles; also what an absent mode means."""
SPLAT_EXTENSION = "KHR_gaussian_splatting"
STL_HEADER, STL_TRIANGLE = 80, 50
"""Bytes before the count, and of each triangle."""


@dataclass(frozen=True, slots=True)
class MeshInfo:
    """What a mesh file holds."""

    file: str
    """Its name."""
    format: str
    """glb, obj, ply or stl."""
    vertices: int
    """As stored; those at seams are there several times."""
    faces: int
    """Triangles, or polygons."""
    textured: bool
    """Whether it has a texture."""

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for JSON."""
        return {"kind": "mesh", **asdict(self)}

    def __str__(self) -> str:
        texture = "with a texture" if self.textured else "without a texture"
        return (
            f"{self.file}: a mesh, not a splat (.{self.format}): {self.faces:,} faces, {self.vertices:,} vertices, "
            f"{texture}"
        )


def mesh_info(path: Path) -> MeshInfo | None:
    """Return what a mesh file holds; None if the file is a splat, or no file that is known here."""
    readers = {".glb": _glb, ".obj": _obj, ".ply": _ply, ".stl": _stl}
    reader = readers.get(path.suffix.lower())
    if reader is None or not path.is_file():
        return None
    try:
        found = reader(path)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error):
        return None  # damaged: whoever reads splats says what is wrong with it
    if found is None:
        return None
    vertices, faces, textured = found
    return MeshInfo(path.name, path.suffix[1:].lower(), vertices, faces, textured)


def _glb(path: Path) -> tuple[int, int, bool] | None:
    with path.open("rb") as stream:
        magic, _, _, length, kind = struct.unpack("<4sII I4s", stream.read(20))
        if (magic, kind) != (GLB_MAGIC, JSON_CHUNK) or length > MOST_HEADER:
            return None
        document = json.loads(stream.read(length))

    accessors, vertices, faces = document.get("accessors", []), 0, 0
    for primitive in _primitives(document):
        if SPLAT_EXTENSION in primitive.get("extensions", {}):
            return None
        if primitive.get("mode", TRIANGLES) == TRIANGLES:
            positions = accessors[primitive["attributes"]["POSITION"]]["count"]
            corners = (
                accessors[primitive["indices"]]["count"] if "indices" in primitive else positions
            )
            vertices, faces = vertices + positions, faces + corners // 3
    return (vertices, faces, bool(document.get("images"))) if faces else None


def _primitives(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for mesh in document.get("meshes", []):
        yield from mesh["primitives"]


def _obj(path: Path) -> tuple[int, int, bool] | None:
    vertices = faces = 0
    textured = False
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            vertices += line.startswith("v ")
            faces += line.startswith("f ")
            textured |= line.startswith("mtllib ")
    return (vertices, faces, textured) if vertices else None


def _ply(path: Path) -> tuple[int, int, bool] | None:
    with path.open("rb") as stream:
        header = stream.read(2**16).partition(b"end_header")[0].decode("ascii", "replace")
    if not header.startswith("ply"):
        return None
    counts = dict(re.findall(r"^element (\w+) (\d+)\s*$", header, re.M))
    is_splat = re.search(r"^property \w+ (opacity|scale_0|packed_scale)\s*$", header, re.M)
    faces = int(counts.get("face", 0))
    return None if is_splat or not faces else (int(counts["vertex"]), faces, False)


def _stl(path: Path) -> tuple[int, int, bool] | None:
    with path.open("rb") as stream:
        head = stream.read(STL_HEADER + 4)
    if path.stat().st_size >= STL_HEADER + 4:
        (faces,) = struct.unpack("<I", head[STL_HEADER:])
        if path.stat().st_size == STL_HEADER + 4 + STL_TRIANGLE * faces:
            return 3 * faces, faces, False
    if not head.startswith(b"solid"):
        return None
    faces = path.read_text(encoding="ascii", errors="replace").count("endfacet")
    return (3 * faces, faces, False) if faces else None

"""Mesh files: GLB and OBJ with a texture, PLY with vertex colours, STL with the shape alone.

GLB, OBJ and PLY have x right, y up, z towards the viewer, as the front camera sees the object; STL keeps z
up, as printers expect. Colours are sRGB as displayed, as glTF defines its base colour texture.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from plyfile import PlyData, PlyElement

from vlm3d_gs import __version__
from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.core.images import to_uint8
from vlm3d_gs.formats.frames import WORLD_TO_RUB
from vlm3d_gs.mesh.extract import Mesh, MeshColor
from vlm3d_gs.mesh.grid import F32, F64

ROUGHNESS = 1.0
"""The texture contains the light already; a matt surface adds least to it."""

GLB_MAGIC, GLB_VERSION, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
FLOAT, UINT = 5126, 5125
VERTEX_BUFFER, INDEX_BUFFER = 34962, 34963
LINEAR, LINEAR_MIPMAP, CLAMP = 9729, 9987, 33071


@dataclass(frozen=True, slots=True)
class MeshFormat:
    """One row of the table of mesh formats."""

    color: MeshColor
    """What its files are coloured with."""
    write: Callable[[Mesh, Path], None]
    """Writes a mesh that has these colours."""
    companions: tuple[str, ...] = ()
    """Suffixes of further files of the same name that it writes."""


def mesh_format(path: str | Path) -> MeshFormat:
    """Return the format that a file name asks for.

    Raises:
        ExportError: unknown suffix; the known ones are listed.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise ExportError(
            f"Cannot write a mesh to {Path(path).name!r}: unknown suffix {suffix!r}. "
            f"Known: {', '.join(SUFFIXES)}."
        )
    return FORMATS[suffix]


def files_of(path: str | Path) -> tuple[Path, ...]:
    """Return all files that writing a mesh to a path creates: OBJ has a material and an image too."""
    target = Path(path)
    return (target, *(target.with_suffix(suffix) for suffix in mesh_format(path).companions))


def write_mesh(mesh: Mesh, path: str | Path) -> None:
    """Write a mesh, each file whole or not at all; the suffix chooses the format.

    Args:
        mesh: with the colours that the format holds (see `mesh_format`).
        path: the file, ending in one of `SUFFIXES`; replaced if it exists.

    Raises:
        ExportError: unknown suffix, the mesh lacks the colours, or the folder does not exist.
    """
    target, row = Path(path), mesh_format(path)
    if row.color == "texture" and mesh.texture is None:
        raise ExportError(f"{target.name} needs a mesh with a texture; extract it as 'texture'.")
    if row.color == "vertices" and mesh.vertex_colors is None:
        raise ExportError(
            f"{target.name} needs a mesh with vertex colours; extract it as 'vertices'."
        )
    row.write(mesh, target)


def _rub(vectors: F64) -> F32:
    """Return vectors of our world in the axes of glTF."""
    return np.ascontiguousarray(vectors @ np.asarray(WORLD_TO_RUB).T, np.float32)


def _png(image: F32) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(torch.from_numpy(image))).save(buffer, format="PNG")
    return buffer.getvalue()


def _write_bytes(data: bytes, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_meshes(meshes: Mapping[str, Mesh], path: str | Path) -> None:
    """Write several meshes with textures into one .glb, a node for each under its name, whole or not at all.

    Args:
        meshes: at least one, in place.
        path: the file; replaced if it exists.

    Raises:
        ExportError: another suffix, a mesh without texture, or the folder does not exist.
    """
    if Path(path).suffix.lower() != ".glb":
        raise ExportError(
            f"Objects are kept apart in .glb alone, not in {Path(path).name!r}. Use .glb."
        )
    if any(mesh.texture is None for mesh in meshes.values()):
        raise ExportError(
            f"{Path(path).name} needs meshes with textures; extract them as 'texture'."
        )
    _write_bytes(_glb(meshes), Path(path))


def _write_glb(mesh: Mesh, path: Path) -> None:
    """Write a binary glTF 2.0 of one node, one mesh, one material."""
    _write_bytes(_glb({"object": mesh}), path)


def _glb(meshes: Mapping[str, Mesh]) -> bytes:
    """Return a binary glTF 2.0 with a node, a mesh and a material for each."""
    blobs: list[tuple[bytes, int | None]] = []
    parts: dict[str, list[Any]] = {name: [] for name in _LISTS}
    for number, (name, mesh) in enumerate(meshes.items()):
        found, accessors = _glb_part(mesh, len(blobs))
        first = len(parts["accessors"])
        image = len(blobs) + len(found) - 1
        blobs += found
        parts["accessors"] += accessors
        parts["nodes"].append({"mesh": number, "name": name})
        parts["meshes"].append({"primitives": [_primitive(first, number)], "name": name})
        parts["materials"].append(_material(number))
        parts["textures"].append({"sampler": 0, "source": number})
        parts["images"].append({"bufferView": image, "mimeType": "image/png"})

    body, views = _buffer(blobs)
    document = {
        **_DOCUMENT,
        "scenes": [{"nodes": list(range(len(meshes)))}],
        **parts,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }

    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)  # chunks are aligned to four bytes
    head = struct.pack("<III", GLB_MAGIC, GLB_VERSION, 12 + 8 + len(text) + 8 + len(body))
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text
    return head + chunks + struct.pack("<II", len(body), BINARY_CHUNK) + body


def _glb_part(
    mesh: Mesh, first: int
) -> tuple[list[tuple[bytes, int | None]], list[dict[str, Any]]]:
    """Return the bytes of a mesh, its picture last, and the accessors of those from view `first` on."""
    assert mesh.texture is not None
    atlas = mesh.texture.atlas
    positions = _rub(mesh.solid.vertices[atlas.sources])
    normals = _rub(mesh.solid.vertex_normals[atlas.sources])
    uvs = np.stack([atlas.uvs[:, 0], 1.0 - atlas.uvs[:, 1]], axis=-1).astype(np.float32)

    blobs: list[tuple[bytes, int | None]] = [
        (positions.tobytes(), VERTEX_BUFFER),
        (normals.tobytes(), VERTEX_BUFFER),
        (uvs.tobytes(), VERTEX_BUFFER),
        (atlas.faces.astype("<u4").tobytes(), INDEX_BUFFER),
        (_png(mesh.texture.image), None),
    ]
    count = len(atlas.sources)
    accessors: list[dict[str, Any]] = [
        {"bufferView": first, "componentType": FLOAT, "count": count, "type": "VEC3"},
        {"bufferView": first + 1, "componentType": FLOAT, "count": count, "type": "VEC3"},
        {"bufferView": first + 2, "componentType": FLOAT, "count": count, "type": "VEC2"},
        {
            "bufferView": first + 3,
            "componentType": UINT,
            "count": atlas.faces.size,
            "type": "SCALAR",
        },
    ]
    accessors[0] |= {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
    return blobs, accessors


def _buffer(blobs: list[tuple[bytes, int | None]]) -> tuple[bytes, list[dict[str, Any]]]:
    """Return blobs joined into one buffer, aligned to four bytes, and a view of each.

    Args:
        blobs: bytes, and what the graphics card uses them for; None for images.
    """
    body, views = bytearray(), []
    for data, target in blobs:
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(body), "byteLength": len(data)}
        views.append(view if target is None else {**view, "target": target})
        body += data + bytes(-len(data) % 4)
    return bytes(body), views


def _primitive(first: int, material: int) -> dict[str, Any]:
    """Return the triangles of accessors from `first` on."""
    return {
        "attributes": {"POSITION": first, "NORMAL": first + 1, "TEXCOORD_0": first + 2},
        "indices": first + 3,
        "material": material,
    }


def _material(texture: int) -> dict[str, Any]:
    name = "baked" if texture == 0 else f"baked {texture + 1}"
    return {
        "name": name,
        "pbrMetallicRoughness": {
            "baseColorTexture": {"index": texture},
            "metallicFactor": 0.0,
            "roughnessFactor": ROUGHNESS,
        },
    }


_LISTS = ("accessors", "nodes", "meshes", "materials", "textures", "images")
"""What a document has a list of, with items of each mesh."""
_DOCUMENT = {
    "asset": {"version": "2.0", "generator": f"vlm3d-gs {__version__}"},
    "scene": 0,
    "samplers": [{"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP, "wrapS": CLAMP, "wrapT": CLAMP}],
}
"""All of the document that is the same for every mesh."""


def _write_obj(mesh: Mesh, path: Path) -> None:
    """Write OBJ, MTL and PNG, all or none.

    Positions and normals are shared across seams, so the surface stays closed.
    """
    assert mesh.texture is not None
    _, material, picture = files_of(path)
    atlas = mesh.texture.atlas

    lines = [
        f"# vlm3d-gs {__version__}: x right, y up, z towards the viewer",
        f"mtllib {material.name}",
    ]
    lines += [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in _rub(mesh.solid.vertices).tolist()]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in atlas.uvs.tolist()]
    normals = _rub(mesh.solid.vertex_normals)
    lines += [f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in normals.tolist()]

    lines.append("usemtl baked")
    sources = atlas.sources[atlas.faces] + 1
    for vertices, uvs in zip(sources.tolist(), (atlas.faces + 1).tolist(), strict=True):
        words = [f"{v}/{t}/{v}" for v, t in zip(vertices, uvs, strict=True)]
        lines.append(f"f {' '.join(words)}")

    # Pm and Pr are metalness and roughness for readers that know them; Ks 0 says the same to the others.
    text = f"newmtl baked\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nPm 0\nPr {ROUGHNESS:g}\nillum 1\nmap_Kd {picture.name}\n"
    with atomic_path(path) as shape, atomic_path(material) as look, atomic_path(picture) as image:
        image.write_bytes(_png(mesh.texture.image))
        look.write_bytes(text.encode())
        shape.write_bytes(("\n".join(lines) + "\n").encode())


def _write_ply(mesh: Mesh, path: Path) -> None:
    """Write a binary PLY with normals and vertex colours."""
    assert mesh.vertex_colors is not None
    coordinates = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    channels = [(name, "u1") for name in ("red", "green", "blue")]
    vertices = np.empty(len(mesh.solid.vertices), [*coordinates, *channels])
    shape = np.concatenate([_rub(mesh.solid.vertices), _rub(mesh.solid.vertex_normals)], axis=-1)
    for k, (name, _) in enumerate(coordinates):
        vertices[name] = shape[:, k]
    colors = to_uint8(torch.from_numpy(mesh.vertex_colors))
    for k, (name, _) in enumerate(channels):
        vertices[name] = colors[:, k]

    faces = np.empty(len(mesh.solid.faces), [("vertex_indices", "<i4", (3,))])
    faces["vertex_indices"] = mesh.solid.faces

    elements = [PlyElement.describe(vertices, "vertex"), PlyElement.describe(faces, "face")]
    comments = ["axes: x right, y up, z towards the viewer; colours sRGB"]
    with atomic_path(path) as temporary:
        PlyData(elements, text=False, byte_order="<", comments=comments).write(str(temporary))


def _write_stl(mesh: Mesh, path: Path) -> None:
    """Write a binary STL, z up."""
    layout = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    rows: NDArray[np.void] = np.zeros(len(mesh.solid.faces), layout)
    normals = mesh.solid.face_normals
    rows["normal"] = normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-30)
    rows["corners"] = mesh.solid.vertices[mesh.solid.faces]
    head = f"vlm3d-gs {__version__}, z up".encode().ljust(80)
    _write_bytes(head + struct.pack("<I", len(rows)) + rows.tobytes(), path)


FORMATS = {
    ".glb": MeshFormat("texture", _write_glb),
    ".obj": MeshFormat("texture", _write_obj, companions=(".mtl", ".png")),
    ".ply": MeshFormat("vertices", _write_ply),
    ".stl": MeshFormat("none", _write_stl),
}
"""The table of mesh formats, by suffix."""
SUFFIXES = tuple(FORMATS)

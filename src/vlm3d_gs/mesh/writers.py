"""Mesh files: GLB and OBJ with a texture, PLY with a colour a corner, STL with the shape alone.

GLB, OBJ and PLY have x right, y up, z towards the viewer, as the front camera sees the object; STL keeps z
up, as printers expect. Colours are sRGB as displayed; glTF's base colour texture is too.
"""

from __future__ import annotations

import io
import json
import struct
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
from vlm3d_gs.mesh.atlas import Texture
from vlm3d_gs.mesh.extract import Mesh, Paint
from vlm3d_gs.mesh.grid import F32, F64

SUFFIXES = (".glb", ".obj", ".ply", ".stl")
ROUGHNESS = 1.0
"""Light is in the texture already; a matt surface adds least to it."""

GLB_MAGIC, GLB_VERSION, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
FLOAT, UINT = 5126, 5125
VERTEX_BUFFER, INDEX_BUFFER = 34962, 34963
LINEAR, LINEAR_MIPMAP, CLAMP = 9729, 9987, 33071


def paint_of(path: str | Path) -> Paint:
    """Return which colours the format of a file holds.

    Raises:
        ExportError: unknown suffix; the known ones are listed.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".glb", ".obj"):
        return "texture"
    if suffix == ".ply":
        return "corners"
    if suffix == ".stl":
        return "none"
    raise ExportError(
        f"Cannot write a mesh to {Path(path).name!r}: unknown suffix {suffix!r}. "
        f"Known: {', '.join(SUFFIXES)}."
    )


def files_of(path: str | Path) -> tuple[Path, ...]:
    """Return all files that writing a mesh to a path makes; OBJ comes with a material and a picture."""
    target = Path(path)
    if target.suffix.lower() == ".obj":
        return target, target.with_suffix(".mtl"), target.with_suffix(".png")
    return (target,)


def write_mesh(mesh: Mesh, path: str | Path) -> None:
    """Write a mesh, each file whole or not at all; the suffix chooses the format.

    Args:
        mesh: with the colours that the format holds (see `paint_of`).
        path: the file, ending in one of `SUFFIXES`; replaced if it exists.

    Raises:
        ExportError: unknown suffix, the mesh lacks the colours, or the folder does not exist.
    """
    target, kind = Path(path), paint_of(path)
    if kind == "texture":
        if mesh.texture is None:
            raise ExportError(
                f"{target.name} needs a mesh with a texture; extract it as 'texture'."
            )
        if target.suffix.lower() == ".obj":
            _write_obj(mesh, mesh.texture, target)
        else:
            _write_bytes(_glb(mesh, mesh.texture), target)
    elif kind == "corners":
        if mesh.colors is None:
            raise ExportError(
                f"{target.name} needs colours of the corners; extract it as 'corners'."
            )
        _write_ply(mesh, mesh.colors, target)
    else:
        _write_bytes(_stl(mesh), target)


def _turned(vectors: F64) -> F32:
    """Return vectors of our world in the frame of glTF."""
    return np.ascontiguousarray(vectors @ np.asarray(WORLD_TO_RUB).T, np.float32)


def _png(image: F32) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(torch.from_numpy(image))).save(buffer, format="PNG")
    return buffer.getvalue()


def _write_bytes(data: bytes, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def _glb(mesh: Mesh, texture: Texture) -> bytes:
    """Return a binary glTF 2.0 of one node, one mesh, one material."""
    flat = texture.flat
    places = _turned(mesh.solid.vertices[flat.sources])
    uvs = np.stack([flat.uvs[:, 0], 1.0 - flat.uvs[:, 1]], axis=-1).astype(np.float32)
    blobs = [
        (places.tobytes(), VERTEX_BUFFER),
        (_turned(mesh.solid.vertex_normals[flat.sources]).tobytes(), VERTEX_BUFFER),
        (uvs.tobytes(), VERTEX_BUFFER),
        (flat.faces.astype("<u4").tobytes(), INDEX_BUFFER),
        (_png(texture.image), None),
    ]
    body, views = bytearray(), []
    for data, target in blobs:
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(body), "byteLength": len(data)}
        views.append(view if target is None else {**view, "target": target})
        body += data + bytes(-len(data) % 4)
    count = len(flat.sources)
    accessors: list[dict[str, Any]] = [
        {"bufferView": 0, "componentType": FLOAT, "count": count, "type": "VEC3"},
        {"bufferView": 1, "componentType": FLOAT, "count": count, "type": "VEC3"},
        {"bufferView": 2, "componentType": FLOAT, "count": count, "type": "VEC2"},
        {"bufferView": 3, "componentType": UINT, "count": flat.faces.size, "type": "SCALAR"},
    ]
    accessors[0] |= {"min": places.min(axis=0).tolist(), "max": places.max(axis=0).tolist()}
    document = {
        "asset": {"version": "2.0", "generator": f"vlm3d-gs {__version__}"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"primitives": [_PRIMITIVE], "name": "object"}],
        "materials": [_MATERIAL],
        "textures": [{"sampler": 0, "source": 0}],
        "samplers": [
            {"magFilter": LINEAR, "minFilter": LINEAR_MIPMAP, "wrapS": CLAMP, "wrapT": CLAMP}
        ],
        "images": [{"bufferView": 4, "mimeType": "image/png"}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<III", GLB_MAGIC, GLB_VERSION, 12 + 8 + len(text) + 8 + len(body))
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text
    return head + chunks + struct.pack("<II", len(body), BINARY_CHUNK) + bytes(body)


_PRIMITIVE = {
    "attributes": {"POSITION": 0, "NORMAL": 1, "TEXCOORD_0": 2},
    "indices": 3,
    "material": 0,
}
_MATERIAL = {
    "name": "baked",
    "pbrMetallicRoughness": {
        "baseColorTexture": {"index": 0},
        "metallicFactor": 0.0,
        "roughnessFactor": ROUGHNESS,
    },
}


def _write_obj(mesh: Mesh, texture: Texture, path: Path) -> None:
    """Write OBJ, MTL and PNG, all or none; places and normals are shared across seams, so it stays closed."""
    _, material, picture = files_of(path)
    flat = texture.flat
    lines = [
        f"# vlm3d-gs {__version__}: x right, y up, z towards the viewer",
        f"mtllib {material.name}",
    ]
    lines += [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in _turned(mesh.solid.vertices).tolist()]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in flat.uvs.tolist()]
    lines += [
        f"vn {x:.5f} {y:.5f} {z:.5f}" for x, y, z in _turned(mesh.solid.vertex_normals).tolist()
    ]
    lines.append("usemtl baked")
    sources = flat.sources[flat.faces] + 1
    for corners, spots in zip(sources.tolist(), (flat.faces + 1).tolist(), strict=True):
        words = [f"{v}/{t}/{v}" for v, t in zip(corners, spots, strict=True)]
        lines.append(f"f {' '.join(words)}")
    # Pm and Pr are metalness and roughness for readers that know them; Ks 0 says the same to the others.
    text = f"newmtl baked\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nPm 0\nPr {ROUGHNESS:g}\nillum 1\nmap_Kd {picture.name}\n"
    with atomic_path(path) as shape, atomic_path(material) as look, atomic_path(picture) as image:
        image.write_bytes(_png(texture.image))
        look.write_bytes(text.encode())
        shape.write_bytes(("\n".join(lines) + "\n").encode())


def _write_ply(mesh: Mesh, colors: F32, path: Path) -> None:
    columns = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
    vertices = np.empty(
        len(mesh.solid.vertices), [*columns, ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    )
    shape = np.concatenate(
        [_turned(mesh.solid.vertices), _turned(mesh.solid.vertex_normals)], axis=-1
    )
    for k, (name, _) in enumerate(columns):
        vertices[name] = shape[:, k]
    bytes_ = to_uint8(torch.from_numpy(colors))
    for k, name in enumerate(("red", "green", "blue")):
        vertices[name] = bytes_[:, k]
    faces = np.empty(len(mesh.solid.faces), [("vertex_indices", "<i4", (3,))])
    faces["vertex_indices"] = mesh.solid.faces
    elements = [PlyElement.describe(vertices, "vertex"), PlyElement.describe(faces, "face")]
    comments = ["axes: x right, y up, z towards the viewer; colours sRGB"]
    with atomic_path(path) as temporary:
        PlyData(elements, text=False, byte_order="<", comments=comments).write(str(temporary))


def _stl(mesh: Mesh) -> bytes:
    """Return a binary STL, z up."""
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    rows: NDArray[np.void] = np.zeros(len(mesh.solid.faces), record)
    normals = mesh.solid.face_normals
    rows["normal"] = normals / np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-30)
    rows["corners"] = mesh.solid.vertices[mesh.solid.faces]
    head = f"vlm3d-gs {__version__}, z up".encode().ljust(80)
    return head + struct.pack("<I", len(rows)) + rows.tobytes()

"""Writing splats as binary glTF with `KHR_gaussian_splatting`: floats, one primitive of points.

x right, y up, z towards the viewer, as glTF requires. Everything is activated: unit quaternions
xyzw, standard deviations, opacities 0..1; each coefficient of the harmonics is a VEC3 attribute.
The extension is used but not required, and there is a linear COLOR_0 too, so that programs that
do not know the extension show coloured points.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs import __version__
from vlm3d_gs.core.bands import SH_C0
from vlm3d_gs.core.errors import ExportError
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.quantize import sigmoid

EXTENSION = "KHR_gaussian_splatting"
CHUNK = struct.Struct("<I4s")
HEADER = struct.Struct("<4sII")
MAGIC, VERSION = b"glTF", 2
FLOAT, USHORT = 5126, 5123
"""glTF's codes of component types."""
ARRAY_BUFFER, POINTS = 34962, 0
TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}
MAX_BYTES = 2**32 - 1


def sh_name(index: int) -> str:
    """Return the attribute name of a coefficient, counted from 0 over all degrees."""
    degree = int(np.sqrt(index))
    return f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{index - degree * degree}"


def save_glb(arrays: SplatArrays, path: Path) -> None:
    """Write arrays that are in `rub` axes as .glb.

    Raises:
        ExportError: more than 4 GiB.
    """
    save_glb_nodes([("splat", arrays)], path)


def save_glb_nodes(parts: Sequence[tuple[str, SplatArrays]], path: Path) -> None:
    """Write several splats that are in `rub` axes as .glb, a node for each.

    Args:
        parts: names of the nodes, and what each shows; the notes of the file are those of the first.
        path: the file.

    Raises:
        ExportError: more than 4 GiB.
    """
    # One buffer view and one accessor for each column; all columns are multiples of four bytes.
    accessors, views = list[dict[str, Any]](), list[dict[str, Any]]()
    blobs, offset, meshes = list[bytes](), 0, list[dict[str, Any]]()
    for _, arrays in parts:
        attributes = {}
        for name, column in _columns(arrays).items():
            blob = np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes()
            views.append(
                {
                    "buffer": 0,
                    "byteOffset": offset,
                    "byteLength": len(blob),
                    "target": ARRAY_BUFFER,
                }
            )
            attributes[name] = len(accessors)
            accessors.append(_accessor(len(accessors), name, column))
            blobs.append(blob)
            offset += len(blob)
        meshes.append({"primitives": [_primitive(attributes)]})

    document = _document([name for name, _ in parts], meshes, accessors, views, offset)
    first = parts[0][1]
    if first.comments or first.antialiased:
        notes = {"comments": list(first.comments), "antialiased": first.antialiased}
        document["asset"]["extras"] = {name: value for name, value in notes.items() if value}
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)  # chunks are aligned to four bytes
    total = HEADER.size + 2 * CHUNK.size + len(text) + offset
    if total > MAX_BYTES:
        count = sum(len(arrays) for _, arrays in parts)
        raise ExportError(
            f"{count} Gaussians of {first.sh.shape[1]} coefficients take {total} bytes, a .glb "
            "holds 4 GiB. Lower the degree with --sh-degree, or write another format."
        )

    with path.open("wb") as stream:
        stream.write(HEADER.pack(MAGIC, VERSION, total))
        stream.write(CHUNK.pack(len(text), b"JSON") + text + CHUNK.pack(offset, b"BIN\0"))
        for blob in blobs:
            stream.write(blob)


def _columns(arrays: SplatArrays) -> dict[str, NDArray[Any]]:
    """Return the attributes of the primitive by their glTF names, in file order."""
    opacities = sigmoid(arrays.opacity_logits)
    columns: dict[str, NDArray[Any]] = {
        "POSITION": arrays.means,
        "COLOR_0": _linear_color(arrays.sh[:, 0], opacities),
        f"{EXTENSION}:ROTATION": arrays.quats[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": np.exp(arrays.log_scales),
        f"{EXTENSION}:OPACITY": opacities[:, None],
    }
    for index in range(arrays.sh.shape[1]):
        columns[sh_name(index)] = arrays.sh[:, index]
    return columns


def _linear_color(dc: FloatArray, opacities: FloatArray) -> NDArray[np.uint16]:
    """Return RGBA of 0..65535 in linear light, as COLOR_0 must be; our colours are display sRGB."""
    srgb = np.clip(dc * SH_C0 + 0.5, 0.0, 1.0).astype(np.float64)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    rgba = np.concatenate([linear, opacities[:, None]], axis=1)
    return np.rint(rgba * 65535.0).astype(np.uint16)


def _accessor(view: int, name: str, column: NDArray[Any]) -> dict[str, Any]:
    accessor: dict[str, Any] = {
        "bufferView": view,
        "componentType": FLOAT if column.dtype == np.float32 else USHORT,
        "count": len(column),
        "type": TYPES[column.shape[1]],
    }
    if column.dtype != np.float32:
        accessor["normalized"] = True
    if name == "POSITION":
        accessor["min"], accessor["max"] = column.min(0).tolist(), column.max(0).tolist()
    return accessor


def _primitive(attributes: dict[str, int]) -> dict[str, Any]:
    extension = {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    return {"mode": POINTS, "attributes": attributes, "extensions": {EXTENSION: extension}}


def _document(
    names: list[str],
    meshes: list[dict[str, Any]],
    accessors: list[dict[str, Any]],
    views: list[dict[str, Any]],
    size: int,
) -> dict[str, Any]:
    return {
        "asset": {"version": "2.0", "generator": f"vlm3d-gs {__version__}"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": list(range(len(names)))}],
        "nodes": [{"mesh": index, "name": name} for index, name in enumerate(names)],
        "meshes": meshes,
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": size}],
    }

"""Reading splats from binary glTF: floats or the quantised types that the extension allows.

All primitives with `KHR_gaussian_splatting` in the default scene are read, each with the transform
of its nodes. Every index, offset and length is untrusted and checked against the buffer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.core.harmonics import MAX_DEGREE
from vlm3d_gs.formats.arrays import FloatArray, SplatArrays
from vlm3d_gs.formats.claims import Budget, file_bytes, gaussian_bytes
from vlm3d_gs.formats.gltf.nodes import MAX_DEPTH, node_matrix, transform
from vlm3d_gs.formats.gltf.writer import CHUNK, EXTENSION, HEADER, MAGIC, VERSION, sh_name
from vlm3d_gs.formats.quantize import log_of, logit

COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
COLOR_SPACE = "srgb_rec709_display"
EXPANSION = 20
"""Bytes that each byte of a file may unpack to: four by quantised types, and five nodes that share a mesh."""
LEAST_PART = 4096
"""Bytes that a splat of few Gaussians counts as, since each takes time, too."""


@dataclass(frozen=True)
class _Document:
    """The JSON and the bytes of a .glb."""

    source: Path
    json: dict[str, Any]
    buffer: memoryview
    budget: Budget
    """What all of its splats may unpack to: nodes may share meshes, and attributes the same bytes."""

    def broken(self, why: str) -> str:
        """Return an error message that says why the file cannot be read."""
        return f"{self.source} is not a readable splat .glb: {why}."

    def item(self, kind: str, index: object) -> dict[str, Any]:
        """Return an object of one of the document's arrays."""
        items = self.json.get(kind, [])
        if not isinstance(items, list) or not isinstance(index, int) or isinstance(index, bool):
            raise InputFileError(self.broken(f"an index into {kind} is {str(index)[:20]}"))
        if not 0 <= index < len(items) or not isinstance(items[index], dict):
            raise InputFileError(self.broken(f"there is no {kind} {index}"))
        return dict(items[index])

    def number(self, holder: dict[str, Any], name: str, default: int | None = None) -> int:
        """Return a non-negative whole number."""
        value = holder.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise InputFileError(
                self.broken(f"{name} must be a whole number, got {str(value)[:20]}")
            )
        return value


def load_glb(source: Path) -> SplatArrays:
    """Read the splats of a .glb as arrays in `rub` axes. Negative scales become NaN.

    Raises:
        InputFileError: not a .glb, no splat in it, truncated, or damaged.
    """
    document = _parse(source, file_bytes(source))
    try:
        splats = list(_primitives(document))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputFileError(document.broken(f"{type(error).__name__}: {error}")) from error
    if not splats:
        raise InputFileError(document.broken(f"no primitive of its scene has {EXTENSION}"))

    # Primitives of lower degree are padded with zeros, so that all can be joined.
    count = max(arrays.sh.shape[1] for arrays in splats)
    padded = [
        replace(arrays, sh=np.pad(arrays.sh, ((0, 0), (0, count - arrays.sh.shape[1]), (0, 0))))
        for arrays in splats
    ]
    columns = {
        name: np.concatenate([arrays.columns()[name] for arrays in padded])
        for name in padded[0].columns()
    }
    return SplatArrays(**columns, frame="rub")


def _parse(source: Path, data: bytes) -> _Document:
    """Return the JSON and the buffer of a .glb, after checking the headers of its chunks."""
    budget = Budget(source, len(data), EXPANSION)
    empty = _Document(source, {}, memoryview(b""), budget)
    if len(data) < HEADER.size + CHUNK.size or data[:4] != MAGIC:
        raise InputFileError(empty.broken("it does not begin like one"))

    _, version, total = HEADER.unpack_from(data)
    length, kind = CHUNK.unpack_from(data, HEADER.size)
    start = HEADER.size + CHUNK.size
    if version != VERSION or kind != b"JSON":
        raise InputFileError(empty.broken(f"it is of version {version}, begins with {kind!r}"))
    if total > len(data) or start + length > total:
        raise InputFileError(
            empty.broken(f"it is truncated, {len(data)} bytes of {max(total, start + length)}")
        )

    try:
        content = json.loads(data[start : start + length])
    except (ValueError, RecursionError) as error:
        raise InputFileError(empty.broken(f"its JSON is damaged: {error}")) from error
    if not isinstance(content, dict):
        raise InputFileError(empty.broken("its JSON is not an object"))

    rest = start + length
    buffer = memoryview(b"")
    if rest + CHUNK.size <= total:
        size, kind = CHUNK.unpack_from(data, rest)
        if kind != b"BIN\0" or rest + CHUNK.size + size > total:
            raise InputFileError(empty.broken("its second chunk is not a buffer, or truncated"))
        buffer = memoryview(data)[rest + CHUNK.size : rest + CHUNK.size + size]
    return _Document(source, content, buffer, budget)


def _primitives(document: _Document) -> Iterator[SplatArrays]:
    """Yield the splats of the default scene, transformed by their nodes."""
    scene = document.item("scenes", document.json.get("scene", 0))
    node_count = len(document.json.get("nodes", []))
    pending = [(index, np.eye(4), 0) for index in scene.get("nodes", [])]
    visited = 0

    # A tree visits each node at most once; more visits mean a cycle or a shared child.
    while pending:
        index, parent, depth = pending.pop()
        visited += 1
        if visited > node_count or depth > MAX_DEPTH:
            raise InputFileError(document.broken("its nodes do not form a tree"))

        node = document.item("nodes", index)
        matrix = parent @ node_matrix(document.source, node)
        pending += [(child, matrix, depth + 1) for child in node.get("children", [])]
        if "mesh" not in node:
            continue

        for primitive in document.item("meshes", node["mesh"])["primitives"]:
            extension = primitive.get("extensions", {}).get(EXTENSION)
            if extension is not None:
                yield transform(document.source, _arrays(document, primitive, extension), matrix)


def _arrays(
    document: _Document, primitive: dict[str, Any], extension: dict[str, Any]
) -> SplatArrays:
    """Return the splat of a primitive, in the axes of its node."""
    if extension.get("extensions"):
        raise InputFileError(
            document.broken(f"it is compressed: {', '.join(map(str, extension['extensions']))}")
        )

    space = extension.get("colorSpace", COLOR_SPACE)
    if space != COLOR_SPACE:
        raise InputFileError(
            document.broken(f"its colours are {str(space)[:40]!r}; only {COLOR_SPACE} is read")
        )

    attributes = primitive["attributes"]

    def column(name: str, width: int) -> FloatArray:
        if name not in attributes:
            raise InputFileError(document.broken(f"it lacks {name}"))
        return _accessor(document, attributes[name], width)

    degree = max(d for d in range(MAX_DEGREE + 1) if d == 0 or sh_name(d * d) in attributes)
    count = document.number(document.item("accessors", attributes.get("POSITION")), "count")
    document.budget.spend(
        f"{count} Gaussians", max(LEAST_PART, count * gaussian_bytes((degree + 1) ** 2))
    )

    means = column("POSITION", 3)
    sh = [column(sh_name(index), 3) for index in range((degree + 1) ** 2)]

    quats = column(f"{EXTENSION}:ROTATION", 4)
    scales = column(f"{EXTENSION}:SCALE", 3)
    opacities = column(f"{EXTENSION}:OPACITY", 1)
    if any(len(values) != len(means) for values in (*sh, quats, scales, opacities)):
        raise InputFileError(document.broken("its attributes differ in length"))

    return SplatArrays(
        means=means,
        log_scales=log_of(scales),
        quats=quats[:, [3, 0, 1, 2]],
        opacity_logits=logit(opacities[:, 0]),
        sh=np.stack(sh, axis=1),
        frame="rub",
    )


def _accessor(document: _Document, index: object, width: int) -> FloatArray:
    """Return the values of an accessor, [count, width]; normalised integers as 0..1 or -1..1."""
    accessor = document.item("accessors", index)
    kind = accessor.get("componentType")
    if kind not in COMPONENTS or WIDTHS.get(accessor.get("type", "")) != width:
        raise InputFileError(document.broken(f"accessor {index} has an unexpected type"))
    if "sparse" in accessor or "bufferView" not in accessor:
        raise InputFileError(document.broken(f"accessor {index} is sparse, which is not read"))

    view = document.item("bufferViews", accessor["bufferView"])
    if view.get("buffer") != 0 or "uri" in document.item("buffers", 0):
        raise InputFileError(document.broken("its data lies outside the file"))

    # All in whole numbers from the file: `last` is the end of the last row, `end` that of the view.
    dtype = np.dtype(COMPONENTS[kind])
    count = document.number(accessor, "count")
    stride = document.number(view, "byteStride", 0) or dtype.itemsize * width
    start = document.number(view, "byteOffset", 0) + document.number(accessor, "byteOffset", 0)
    end = document.number(view, "byteOffset", 0) + document.number(view, "byteLength")
    last = start + stride * (count - 1) + dtype.itemsize * width

    if count < 1 or stride < dtype.itemsize * width or last > end or end > len(document.buffer):
        raise InputFileError(
            document.broken(f"accessor {index} promises {count} values that are not there")
        )

    values: NDArray[Any] = np.ndarray(
        (count, width), dtype, document.buffer, start, (stride, dtype.itemsize)
    )

    if dtype.kind == "f":
        return values.astype(np.float32)
    if accessor.get("normalized") is True:
        return np.maximum(values / np.iinfo(dtype).max, -1.0).astype(np.float32)
    return values.astype(np.float32)

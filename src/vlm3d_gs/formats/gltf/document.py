"""A glTF document: its JSON, its buffers wherever they are, and the values of its accessors.

Every index, offset, length and name is untrusted and checked: buffers against the bytes that are
there, files beside a .gltf against its folder, and all that is read against what a file of this
length can hold.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from vlm3d_gs.core.errors import InputFileError
from vlm3d_gs.formats.arrays import FloatArray
from vlm3d_gs.formats.claims import Budget, file_bytes
from vlm3d_gs.formats.gltf.writer import CHUNK, HEADER, MAGIC, VERSION

COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
EXPANSION = 20
"""Bytes that each byte of a file may unpack to: four by quantised types, and five nodes that share a mesh."""
DATA_URI = "data:"


@dataclass
class Document:
    """The JSON and the buffers of a .glb or .gltf."""

    source: Path
    json: dict[str, Any]
    binary: memoryview | None
    """The buffer inside a .glb."""
    length: int
    """Bytes of all files that were read."""
    budget: Budget
    """What all of its splats may unpack to: nodes may share meshes, and attributes the same bytes."""
    loaded: dict[int, memoryview] = field(default_factory=dict)
    """Buffers by index, as far as they were needed."""

    def broken(self, why: str) -> str:
        """Return an error message that says why the file cannot be read."""
        return f"{self.source} is not a readable splat in glTF: {why}."

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

    def buffer(self, index: object) -> memoryview:
        """Return the bytes of a buffer, from the .glb, its URI, or a file beside it."""
        entry = self.item("buffers", index)
        assert isinstance(index, int)
        if index not in self.loaded:
            uri = entry.get("uri")
            if uri is None and self.binary is not None and index == 0:
                self.loaded[index] = self.binary
            elif isinstance(uri, str) and uri.startswith(DATA_URI):
                self.loaded[index] = memoryview(self._data(uri))
            elif isinstance(uri, str):
                self.loaded[index] = memoryview(self._file(uri))
            else:
                raise InputFileError(self.broken(f"buffer {index} is nowhere"))
        return self.loaded[index]

    def view(self, index: object) -> tuple[memoryview, int]:
        """Return the bytes of a buffer view, and its stride, 0 if it has none."""
        view = self.item("bufferViews", index)
        buffer = self.buffer(view.get("buffer"))
        start, size = self.number(view, "byteOffset", 0), self.number(view, "byteLength")
        if start + size > len(buffer):
            raise InputFileError(
                self.broken(f"buffer view {index} promises {size} bytes that are not there")
            )
        return buffer[start : start + size], self.number(view, "byteStride", 0)

    def accessor(self, index: object, width: int) -> FloatArray:
        """Return the values of an accessor, [count, width]; normalised integers as 0..1 or -1..1."""
        accessor = self.item("accessors", index)
        kind = accessor.get("componentType")
        if kind not in COMPONENTS or WIDTHS.get(accessor.get("type", "")) != width:
            raise InputFileError(self.broken(f"accessor {index} has an unexpected type"))
        if "sparse" in accessor or "bufferView" not in accessor:
            raise InputFileError(self.broken(f"accessor {index} is sparse, which is not read"))

        # All in whole numbers from the file: `last` is the end of the last row.
        buffer, stride = self.view(accessor["bufferView"])
        dtype = np.dtype(COMPONENTS[kind])
        count, start = self.number(accessor, "count"), self.number(accessor, "byteOffset", 0)
        stride = stride or dtype.itemsize * width
        last = start + stride * (count - 1) + dtype.itemsize * width
        if count < 1 or stride < dtype.itemsize * width or last > len(buffer):
            raise InputFileError(
                self.broken(f"accessor {index} promises {count} values that are not there")
            )

        values: NDArray[Any] = np.ndarray(
            (count, width), dtype, buffer, start, (stride, dtype.itemsize)
        )
        if dtype.kind != "f" and accessor.get("normalized") is True:
            return np.maximum(values / np.iinfo(dtype).max, -1.0).astype(np.float32)
        return values.astype(np.float32)

    def _data(self, uri: str) -> bytes:
        head, _, text = uri.partition(",")
        if not head.endswith(";base64"):
            raise InputFileError(self.broken("a data URI is not base64"))
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputFileError(self.broken(f"a data URI is damaged: {error}")) from error

    def _file(self, uri: str) -> bytes:
        folder = self.source.parent.resolve()
        path = (folder / unquote(uri)).resolve()
        if "://" in uri or not path.is_relative_to(folder):
            raise InputFileError(
                self.broken(f"it refers to {uri[:80]!r}, which is not in its folder")
            )
        data = file_bytes(path)
        self.length += len(data)
        self.budget.grow(len(data))
        return data


def parse(source: Path) -> Document:
    """Return the document of a .glb or .gltf file, after checking its headers.

    Raises:
        InputFileError: there is no such file, or it is neither.
    """
    data = file_bytes(source)
    document = Document(source, {}, None, len(data), Budget(source, len(data), EXPANSION))
    text = data
    if data[:4] == MAGIC:
        text, document.binary = _chunks(document, data)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputFileError(document.broken(f"its JSON is damaged: {error}")) from error
    if not isinstance(content, dict):
        raise InputFileError(document.broken("its JSON is not an object"))
    document.json = content
    return document


def is_gltf(source: Path) -> bool:
    """Return whether a file that begins like a .glb or like JSON is glTF."""
    with source.open("rb") as stream:
        start = stream.read(2**20)
    return start[:4] == MAGIC or (b'"asset"' in start) or source.suffix.lower() == ".gltf"


def _chunks(document: Document, data: bytes) -> tuple[bytes, memoryview]:
    """Return the JSON and the buffer of a .glb."""
    if len(data) < HEADER.size + CHUNK.size:
        raise InputFileError(document.broken("it is truncated"))
    _, version, total = HEADER.unpack_from(data)
    length, kind = CHUNK.unpack_from(data, HEADER.size)
    start = HEADER.size + CHUNK.size
    if version != VERSION or kind != b"JSON":
        raise InputFileError(document.broken(f"it is of version {version}, begins with {kind!r}"))
    if total > len(data) or start + length > total:
        raise InputFileError(
            document.broken(f"it is truncated, {len(data)} bytes of {max(total, start + length)}")
        )

    rest, buffer = start + length, memoryview(b"")
    if rest + CHUNK.size <= total:
        size, kind = CHUNK.unpack_from(data, rest)
        if kind != b"BIN\0" or rest + CHUNK.size + size > total:
            raise InputFileError(document.broken("its second chunk is not a buffer, or truncated"))
        buffer = memoryview(data)[rest + CHUNK.size : rest + CHUNK.size + size]
    return data[start:rest], buffer

"""Notes of ours in a .glb file: plain data under `asset.extras`, where any program may read it and none must."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import ExportError, InputFileError
from vlm3d_gs.core.files import atomic_path
from vlm3d_gs.formats.gltf.document import parse
from vlm3d_gs.formats.gltf.writer import CHUNK, HEADER, MAGIC, MAX_BYTES, VERSION


def read_extras(path: Path, name: str) -> dict[str, Any] | None:
    """Return the notes of one name in a .glb or .gltf file, None without any.

    Raises:
        InputFileError: the file is neither.
    """
    asset = parse(path).json.get("asset")
    extras = asset.get("extras") if isinstance(asset, dict) else None
    found = extras.get(name) if isinstance(extras, dict) else None
    return found if isinstance(found, dict) else None


def write_extras(path: Path, name: str, notes: dict[str, Any]) -> None:
    """Put notes into a .glb file, in the place of earlier ones of that name; nothing else changes.

    Raises:
        InputFileError: the file is no .glb.
        ExportError: it would be larger than a .glb may be.
    """
    document = parse(path)
    if document.binary is None:
        raise InputFileError(f"{path} is a .gltf; notes are written into .glb files only.")

    content = dict(document.json)
    asset = content.get("asset")
    asset = dict(asset) if isinstance(asset, dict) else {"version": "2.0"}
    extras = asset.get("extras")
    asset["extras"] = {**(extras if isinstance(extras, dict) else {}), name: notes}
    content["asset"] = asset

    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % 4)  # chunks are aligned to four bytes
    binary = bytes(document.binary)
    total = HEADER.size + 2 * CHUNK.size + len(text) + len(binary)
    if total > MAX_BYTES:
        raise ExportError(f"{path} would take {total} bytes; a .glb holds 4 GiB.")
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(HEADER.pack(MAGIC, VERSION, total))
        stream.write(CHUNK.pack(len(text), b"JSON") + text)
        stream.write(CHUNK.pack(len(binary), b"BIN\0") + binary)

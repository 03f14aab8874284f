"""Whether the weight files of a folder are whole, told from their headers without loading a tensor.

A safetensors file is: 8 bytes, the header's length as a little-endian integer; a JSON header that gives each tensor's
dtype, shape and byte range; the bytes. Source: the format's description in github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm3d_gs.core.errors import ModelError
from vlm3d_gs.models.catalogue import PIPELINE, WHOLE, ModelEntry
from vlm3d_gs.models.layout import (
    NETWORKS,
    PICKLE_SUFFIXES,
    chosen_index,
    chosen_weights,
    local_files,
    local_parts,
    problems,
)

MAX_HEADER = 100_000_000
"""Bytes; the library refuses longer ones too."""
N_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
"""Dtype -> bytes of one element; the sizes of other dtypes are not checked."""
EVERY_PART = (
    *PIPELINE,
    *("transformer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"),
)
"""Sub-folders that a pipeline may have and a run may need."""


@dataclass(frozen=True, slots=True)
class Integrity:
    """What was found in a folder whose weights are whole."""

    n_files: int
    """Weight files that are used."""
    n_tensors: int
    """Tensors in them."""
    n_bytes: int
    """Their size."""
    ignored: tuple[str, ...]
    """Pickles that lie beside them and are never loaded."""


def check_folder(folder: Path, wanted: ModelEntry | None = None) -> Integrity:
    """Check a model's folder: every needed file there, every weight file whole, every shard as the index says.

    Args:
        folder: as save_pretrained writes it.
        wanted: what must be there; None goes by the folder's own model_index.json or config.json.

    Raises:
        ModelError: something is absent or damaged; the message names each file and what is wrong with it.
    """
    names = local_files(folder)
    parts = local_parts(folder, wanted.parts) if wanted else _own_parts(folder, names)
    found = problems(names, parts)
    if wanted is not None and wanted.marker not in names:
        found.append(f"{wanted.marker}: absent")
    if found:
        raise ModelError(f"The folder {folder} is not complete. {_listed(found)}")
    weights = [path for part in parts if part in NETWORKS for path in chosen_weights(folder, part)]
    headers = {path: read_header(path) for path in weights}
    found = [
        f"{path.relative_to(folder)}: {h}" for path, h in headers.items() if isinstance(h, str)
    ]
    for part in parts:
        index = chosen_index(folder, part)
        found += _broken_index(index, headers) if index is not None else []
    if found:
        raise ModelError(
            f"Weights in {folder} are damaged; fetch or copy them again. {_listed(found)}"
        )
    return Integrity(
        n_files=len(weights),
        n_tensors=sum(len(header) for header in headers.values()),
        n_bytes=sum(path.stat().st_size for path in weights),
        ignored=tuple(name for name in names if name.endswith(PICKLE_SUFFIXES)),
    )


def read_header(path: Path) -> dict[str, Any] | str:
    """Return a safetensors file's tensors by name, or what is wrong with the file.

    Each tensor must have the length that its dtype and shape ask for, and the byte ranges must cover what follows the
    header exactly.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            return f"{size} bytes, too short for its header"
        raw = file.read(length)
    try:
        tensors: dict[str, Any] = json.loads(raw)
        tensors.pop("__metadata__", None)
        ranges = sorted((*tensor["data_offsets"], name) for name, tensor in tensors.items())
        lengths = {name: _n_bytes(tensor) for name, tensor in tensors.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return "the header is not that of a safetensors file"
    place = 0
    for begin, end, name in ranges:
        if begin != place or end < begin or lengths[name] not in (None, end - begin):
            return (
                f"tensor {name!r} has bytes {begin} to {end}, which do not fit its place or shape"
            )
        place = end
    if place != size - 8 - length:
        return f"{size - 8 - length} bytes of tensors, the header says {place}"
    return tensors


def _n_bytes(tensor: dict[str, Any]) -> int | None:
    unit = N_BYTES.get(tensor["dtype"])
    return None if unit is None else unit * math.prod(tensor["shape"])


def _own_parts(folder: Path, names: list[str]) -> tuple[str, ...]:
    """Return the parts that a folder says it has.

    Raises:
        ModelError: it says nothing.
    """
    if "model_index.json" in names:
        try:
            index = json.loads((folder / "model_index.json").read_text())
        except ValueError as error:
            raise ModelError(f"{folder / 'model_index.json'} is not JSON: {error}.") from error
        return local_parts(folder, [part for part in EVERY_PART if part in index])
    if "config.json" in names:
        return WHOLE
    raise ModelError(
        f"{folder} holds neither model_index.json (a diffusers pipeline) nor config.json (a transformers model)."
    )


def _broken_index(index: Path, headers: dict[Path, dict[str, Any] | str]) -> list[str]:
    """Return the shards that an index names and that do not hold the tensors it puts there."""
    try:
        places: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{index.name}: cannot be read ({error})"]
    found = []
    for shard in sorted(set(places.values())):
        header = headers.get(index.parent / shard)
        wanted = {name for name, place in places.items() if place == shard}
        if header is None:
            found.append(f"{shard}: absent, though {index.name} names it")
        elif not isinstance(header, str) and not wanted <= set(header):
            found.append(f"{shard}: lacks {len(wanted - set(header))} tensors of {index.name}")
    return found


def _listed(found: list[str]) -> str:
    return f"{'; '.join(found)}."

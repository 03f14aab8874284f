"""Whether the weight files of a folder are whole, judged by their headers without loading a tensor.

The safetensors library checks a header against its file when it opens it: dtypes, shapes, byte ranges, length.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from vlm3d_gs.core.errors import ModelError
from vlm3d_gs.models.catalogue import ENTRIES, ROOT, ModelEntry
from vlm3d_gs.models.layout import (
    NETWORKS,
    PICKLE_SUFFIXES,
    VARIANTS_TO_LOAD,
    files_in,
    local_components,
    local_files,
    local_problems,
    problems,
    weight_files,
)


@dataclass(frozen=True, slots=True)
class Integrity:
    """What was found in a folder whose weights are whole."""

    n_files: int
    """Weight files in use."""
    n_tensors: int
    """Tensors in them."""
    n_bytes: int
    """Their size."""
    ignored: tuple[str, ...]
    """Pickles beside them, which are never loaded."""


def check_folder(folder: Path, entry: ModelEntry | None = None) -> Integrity:
    """Check a model's folder: every needed file is there, every weight file whole, every shard as the index says.

    Args:
        folder: as save_pretrained writes it.
        entry: what must be there; None goes by the folder's own model_index.json or config.json.

    Raises:
        ModelError: something is absent or damaged; the message names each file and what is wrong with it.
    """
    names = local_files(folder)
    if entry is None:
        components = _own_components(folder, names)
        found = problems(names, components)
    else:
        components = local_components(folder, entry.components)
        found = local_problems(folder, entry)
    if found:
        raise ModelError(f"The folder {folder} is not complete. {'; '.join(found)}.")

    # Every damaged file is found before the error, so that one more download repairs them all.
    files = [
        folder / component / name
        for component in components
        if component in NETWORKS
        for name in weight_files(files_in(names, component), VARIANTS_TO_LOAD)
    ]
    weights = [path for path in files if path.suffix == ".safetensors"]
    tensors, found = _read_headers(weights, folder)

    for path in files:
        if path.suffix == ".json":
            found += _index_problems(path, tensors)
    if found:
        raise ModelError(
            f"Weights in {folder} are damaged; fetch or copy them again. {'; '.join(found)}."
        )

    return Integrity(
        n_files=len(weights),
        n_tensors=sum(len(names) for names in tensors.values()),
        n_bytes=sum(path.stat().st_size for path in weights),
        ignored=tuple(name for name in names if name.endswith(PICKLE_SUFFIXES)),
    )


def _own_components(folder: Path, names: list[str]) -> tuple[str, ...]:
    """Return the components that a folder declares.

    Raises:
        ModelError: it declares none.
    """
    if "model_index.json" in names:
        try:
            index = json.loads((folder / "model_index.json").read_text())
        except ValueError as error:
            raise ModelError(f"{folder / 'model_index.json'} is not JSON: {error}.") from error
        known = dict.fromkeys(name for entry in ENTRIES for name in entry.components)
        return local_components(folder, [name for name in known if name in index])

    if "config.json" in names:
        return ROOT
    raise ModelError(
        f"{folder} holds neither model_index.json (a diffusers pipeline) nor config.json (a transformers model)."
    )


def _read_headers(weights: list[Path], folder: Path) -> tuple[dict[Path, set[str]], list[str]]:
    """Return the names of the tensors in each whole file, and what is wrong with the others."""
    tensors, damaged = {}, []
    for path in weights:
        try:
            with safe_open(path, framework="numpy") as file:
                tensors[path] = set(file.keys())
        except (SafetensorError, OSError) as error:
            damaged.append(f"{path.relative_to(folder)}: {error}")
    return tensors, damaged


def _index_problems(index: Path, tensors: Mapping[Path, set[str]]) -> list[str]:
    """Return which shards of an index are absent, or lack tensors that it assigns to them.

    Args:
        index: maps tensor names to shards.
        tensors: names of the tensors in each shard that could be read.
    """
    try:
        shard_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{index.name}: cannot be read ({error})"]

    found = []
    for shard in sorted(set(shard_of.values())):
        path = index.parent / shard
        expected = {name for name, place in shard_of.items() if place == shard}
        if not path.is_file():
            found.append(f"{shard}: absent, though {index.name} names it")
        elif path in tensors and not expected <= tensors[path]:
            found.append(f"{shard}: lacks {len(expected - tensors[path])} tensors of {index.name}")
    return found
